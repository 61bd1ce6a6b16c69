"""A relay between a client and the node that cuts connections at any byte, or holds them up."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable
from typing import Final, Self

_PIECE_NBYTES: Final = 64 * 1024
_NEVER: Final = 2**63
_FIRST_FRAMES_NBYTES: Final = 2_000
_LATER_NBYTES: Final = 4_000_000
_NO_LINGER: Final = struct.pack("ii", 1, 0)


class Proxy:
    """Listens on a port of its own and relays each connection to `target`.

    Parameters
    ----------
    target : host and port of the node.
    seed : where connections are cut follows from it.
    on_cut : called before a connection is cut.
    """

    def __init__(
        self,
        target: tuple[str, int],
        seed: str,
        on_cut: Callable[[], None] = lambda: None,
        *,
        cuts: Callable[[random.Random], tuple[int, int]] | None = None,
    ) -> None:
        self._target = target
        self._random = random.Random(seed)
        self._cuts = cuts or draw_cuts
        self.on_cut = on_cut
        self.rough = False
        """Whether connections that are made from now on will be cut."""
        self._flows = threading.Event()
        self._flows.set()
        self._lock = threading.Lock()
        self._relays: set[_Relay] = set()
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    def stall(self) -> None:
        """Nothing passes until `flow`; connections stay."""
        self._flows.clear()

    def flow(self) -> None:
        self._flows.set()

    def cut(self) -> None:
        """Cut all connections now."""
        with self._lock:
            relays = list(self._relays)
        for relay in relays:
            relay.cut()

    def close(self) -> None:
        self._closed = True
        self._flows.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.on_cut = lambda: None
        self.cut()
        self._thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self) -> None:
        """Return when bytes may pass."""
        self._flows.wait()

    def forget(self, relay: _Relay) -> None:
        with self._lock:
            self._relays.discard(relay)

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                node = socket.create_connection(self._target, 10)
            except OSError:
                client.close()
                continue
            node.settimeout(None)
            for one in (client, node):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            cuts = self._cuts(self._random) if self.rough else (_NEVER, _NEVER)
            relay = _Relay(self, client, node, cuts, by_reset=self._random.random() < 0.5)
            with self._lock:
                self._relays.add(relay)
            relay.start()


class _Relay:
    """One connection: two threads, one for each direction."""

    def __init__(
        self,
        proxy: Proxy,
        client: socket.socket,
        node: socket.socket,
        cuts: tuple[int, int],
        *,
        by_reset: bool,
    ) -> None:
        self._proxy = proxy
        self._ends = (client, node)
        self._by_reset = by_reset
        self._lock = threading.Lock()
        self._left = 2
        self._is_cut = False
        self._threads = [
            threading.Thread(target=self._pump, args=(*ends, nbytes), daemon=True)
            for ends, nbytes in zip(((client, node), (node, client)), cuts, strict=True)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def cut(self) -> None:
        with self._lock:
            if self._is_cut or not self._left:
                return
            self._is_cut = True
        self._proxy.on_cut()
        self._shutdown()

    def _shutdown(self) -> None:
        # A reset is what the closing of a socket does that has not said that it ends.
        how = socket.SHUT_RD if self._is_cut and self._by_reset else socket.SHUT_RDWR
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(how)

    def _pump(self, source: socket.socket, sink: socket.socket, nbytes: int) -> None:
        try:
            while nbytes:
                piece = source.recv(min(_PIECE_NBYTES, nbytes))
                self._proxy.wait()
                if not piece:
                    break
                sink.sendall(piece)
                nbytes -= len(piece)
            if not nbytes:
                self.cut()
        except OSError:
            pass
        finally:
            self._shutdown()
            self._end()

    def _end(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
        for end in self._ends:
            if self._is_cut and self._by_reset:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            end.close()
        self._proxy.forget(self)


def draw_cuts(draw: random.Random) -> tuple[int, int]:
    """After how many bytes from and to the client a connection is cut; the earlier one counts."""

    def once() -> int:
        if draw.random() < 0.3:
            return draw.randint(1, _FIRST_FRAMES_NBYTES)
        times: float = (_LATER_NBYTES / _FIRST_FRAMES_NBYTES) ** draw.random()
        return round(_FIRST_FRAMES_NBYTES * times)

    cuts = [once(), _NEVER]
    draw.shuffle(cuts)
    return cuts[0], cuts[1]

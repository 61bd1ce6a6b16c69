"""Talking to a pipeline that runs: a Unix socket, one line of JSON each way."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from beamstream import limits
from beamstream.errors import BadPipeline, ConnectionLost, Error, NotFound
from beamstream.worker.pipelines.state_folder import StateFolder

LINE_NBYTES_MAX: Final = limits.MIB
CONNECTIONS_MAX: Final = 32
SECONDS: Final = 10.0


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """`do`: "ps", "scale" (`step`, `to`), "drain" (`timeout_s`, 0: none), "down".

    With `wait` the last two are answered, with a snapshot, when the pipeline has ended.
    """

    do: str
    step: str = ""
    to: int = 0
    timeout_s: float = 0.0
    wait: bool = False


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """`result`, or what is wrong in `error`."""

    result: Any = None
    error: str = ""
    hint: str = ""


class ControlServer:
    """Answers requests of the same user, in threads.

    Parameters
    ----------
    handle : gives the result of a request, as JSON has it.
    """

    def __init__(self, folder: StateFolder, handle: Callable[[Request], Any]) -> None:
        self._folder = folder
        self._handle = handle
        self._ways = contextlib.ExitStack()
        self._room = threading.Semaphore(CONNECTIONS_MAX)
        self._threads: set[threading.Thread] = set()
        self._listener: socket.socket | None = None
        self._accepting: threading.Thread | None = None

    def __enter__(self) -> Self:
        path = self._ways.enter_context(self._folder.socket_path())
        self._listener = self._ways.enter_context(socket.socket(socket.AF_UNIX))
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(limits.BACKLOG)
        part = self._folder.address.with_suffix(".part")
        part.write_text(f"{path}\n")
        part.replace(self._folder.address)
        self._accepting = threading.Thread(target=self._accept, name="control", daemon=True)
        self._accepting.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._listener is not None
        assert self._accepting is not None
        # Closing alone would leave the thread waiting.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        for thread in list(self._threads):
            thread.join(SECONDS)
        self._ways.close()

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self._room.acquire()
            thread = threading.Thread(target=self._serve, args=(peer,), daemon=True)
            self._threads.add(thread)
            thread.start()

    def _serve(self, peer: socket.socket) -> None:
        try:
            with peer:
                peer.settimeout(SECONDS)
                if _same_user(peer):
                    answer = self._answer(_read_line(peer))
                    peer.sendall(msgspec.json.encode(answer) + b"\n")
        except (OSError, Error):
            # Whoever asked has gone.
            pass
        finally:
            self._threads.discard(threading.current_thread())
            self._room.release()

    def _answer(self, line: bytes) -> Answer:
        try:
            return Answer(result=self._handle(msgspec.json.decode(line, type=Request)))
        except msgspec.DecodeError as error:
            return Answer(error=f"this is no request: {error}")
        except Error as error:
            return Answer(error=error.message, hint=error.hint)


def ask(folder: StateFolder, request: Request) -> Any:
    """Ask the pipeline that runs in a folder.

    Raises
    ------
    NotFound : it does not run.
    ConnectionLost : it does not answer.
    BadPipeline : it refuses.
    """
    try:
        path = folder.address.read_text().strip()
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(SECONDS)
            peer.connect(path)
            peer.sendall(msgspec.json.encode(request) + b"\n")
            peer.settimeout(None if request.wait else SECONDS)
            answer = msgspec.json.decode(_read_line(peer), type=Answer)
    except (FileNotFoundError, ConnectionRefusedError):
        raise NotFound(
            f"pipeline {folder.name!r} of beamtime {folder.beamtime!r} does not run",
            hint="beamstream pipeline up FILE",
        ) from None
    except (OSError, msgspec.DecodeError) as error:
        raise ConnectionLost(f"pipeline {folder.name!r} does not answer: {error}") from None
    if answer.error:
        raise BadPipeline(answer.error, hint=answer.hint)
    return answer.result


def _read_line(peer: socket.socket) -> bytes:
    parts = bytearray()
    while not parts.endswith(b"\n"):
        data = peer.recv(65_536)
        if not data:
            break
        parts += data
        if len(parts) > LINE_NBYTES_MAX:
            raise ConnectionLost(f"a line of more than {LINE_NBYTES_MAX} bytes")
    return bytes(parts)


def _same_user(peer: socket.socket) -> bool:
    """Whether the other side is of this user, where the system can tell; the folder is, anyway."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, option, 12))
    return bool(uid == os.getuid())

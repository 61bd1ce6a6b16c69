"""The threads around a session: one receives, connects and connects again, one sends what is due.

Whoever has something to send sends it himself when nobody else is sending; what becomes due later
is sent by the sending thread. The receiving thread never sends, so that a full socket never keeps
it from receiving.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import queue
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final

from beamstream.client.native.arenas import LifeLine
from beamstream.client.native.arrived import Arrived
from beamstream.client.native.buffers import Buffers
from beamstream.client.native.incoming import Incoming
from beamstream.client.native.receiving import Receiver
from beamstream.client.native.session import Session, State
from beamstream.client.native.transport import Transport
from beamstream.errors import ConnectionLost, DataLost, Error, LocalProtocolError, TimedOut
from beamstream.wire.native.batches import Batch, Place
from beamstream.wire.native.frames import Deliver, Hello, Ping, Welcome

QUIET_S: Final = 10.0
"""Nothing received for so long while something is awaited: the node is asked for a sign of life."""
DEAD_S: Final = 15.0
"""The node has not answered for so long: the connection is given up."""
BACKOFF_S: Final = 0.05
BACKOFF_MAX_S: Final = 2.0
WARN_S: Final = 5.0
UNSEEN_MAX: Final = 3
"""So often in a row a connection is given up for payloads in memory that cannot be mapped."""
EXIT_S: Final = 10.0
"""A program that ends waits this long for receipts."""

log: Final = logging.getLogger("beamstream")
Dial = Callable[[bool], Transport]


class Link:
    """A session that is kept up.

    Parameters
    ----------
    dial : makes a connection; raises `Error`. Its argument: whether it is to look anew where the
        node is.
    patience_s : how long the node may be away before all that waits for it fails.
    verify : compare payloads with their digests as they arrive.
    """

    def __init__(self, hello: Hello, dial: Dial, *, patience_s: float, verify: bool) -> None:
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.session = Session(hello, self.changed.notify_all)
        self.forked = False
        self._dial = dial
        self._patience_s = patience_s
        self._verify = verify
        self._send_lock = threading.Lock()
        self._more = False
        """Somebody wants something sent."""
        self.line: LifeLine | None = None
        """To the memory of the node, when it is on this machine."""
        self._node: tuple[int, int, str] | None = None
        self._may_write = False
        self._transport: Transport | None = None
        self._closing = threading.Event()
        # Its put may be called from anywhere, a destructor amid another call of it included.
        self._wake: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._woken = False
        self._asleep_until = math.inf
        """When the sending thread looks what is due by itself; infinite while it is awake."""
        self._received_at = time.monotonic()
        self._pinged_at = 0.0
        self._unseen = 0
        self._threads = [
            threading.Thread(target=self._keep_up, name="beamstream-receive", daemon=True),
            threading.Thread(target=self._send_due, name="beamstream-send", daemon=True),
        ]
        _links.add(self)

    # ------------------------------------------------------------------ life

    def start(self, timeout_s: float) -> None:
        """Connect.

        Raises
        ------
        ConnectionLost, BadToken, … : the node cannot be reached, or does not let us in.
        TimedOut : it does not answer.
        """
        for thread in self._threads:
            thread.start()
        with self.lock:
            ready = self.changed.wait_for(
                lambda: self.session.state in (State.UP, State.OVER), timeout_s
            )
            error = self.session.error
        if error is not None:
            self.close()
            raise error
        if not ready:
            self.close()
            raise TimedOut(
                f"the node did not answer within {timeout_s:g} s",
                hint="is that address one of a Beamstream node?",
            )

    def drain(self, timeout_s: float | None) -> None:
        """Wait until everything that was put has its receipt, and all acknowledgements are sent."""
        with self.lock:
            self.session.hurry(time.monotonic())
        self.pump()
        with self.lock:
            if self.session.state is not State.OVER:
                self.changed.wait_for(lambda: self.session.quiet, timeout_s)

    def end(self) -> None:
        """Close when what was put has its receipts, or after a while."""
        if not (self.forked or self.closed):
            self.drain(EXIT_S)
        self.close()

    def close(self) -> None:
        """End everything that is under way."""
        if self.forked:
            if self._transport is not None:
                self._transport.close()
            return
        self._closing.set()
        with self.lock:
            self.session.fail(ConnectionLost("this connection was closed", hint="connect again"))
            transport = self._transport
        if transport is not None:
            transport.shutdown()
        self._wake.put(None)
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(5.0)
        if self.line is not None:
            self.line.close()
        _links.discard(self)

    @property
    def closed(self) -> bool:
        return self._closing.is_set()

    def check(self) -> None:
        """Raise if this process is a fork of the one that connected."""
        if self.forked:
            raise LocalProtocolError(
                "this connection was made before the process forked",
                hint="connect in the child process, or use multiprocessing's 'spawn'",
            )

    def wait(
        self,
        condition: threading.Condition,
        ready: Callable[[], Any],
        timeout_s: float | None,
        what: str,
    ) -> None:
        """Wait, with the lock held, until `ready`; raises `TimedOut` that says for `what`."""
        if timeout_s is not None and math.isinf(timeout_s):
            timeout_s = None
        if not condition.wait_for(ready, timeout_s):
            raise TimedOut(f"{what} within {timeout_s:g} s")

    # ------------------------------------------------------------------ sending

    def pump(self, *, all_of_it: bool = False) -> None:
        """Send what is due.

        If another thread is sending, it sends that too; with `all_of_it` this one sees to it that
        nothing that is due now is left when it returns.
        """
        self._more = True
        # Whoever is sending looks again when he sees this: nothing that is due stays behind.
        while self._send_lock.acquire(blocking=all_of_it):
            self._more = False
            try:
                self._send_all()
            finally:
                self._send_lock.release()
            if not self._more:
                return

    def _send_all(self) -> None:
        transport = self._transport
        try:
            while transport is not None:
                with self.lock:
                    transport = self._transport
                    buffers = self.session.take(time.monotonic()) if transport else None
                    more = self.session.more
                if buffers is None or transport is None:
                    return
                transport.send(buffers)
                if not more:
                    return
        except BaseException as error:
            # Half a frame may have gone, also when it was Ctrl-C that came between: nothing more
            # can follow it. The receiving thread notices, and connects again.
            if transport is not None:
                transport.shutdown()
                with self.lock:
                    if self._transport is transport:
                        self._transport = None
            if not isinstance(error, OSError):
                raise

    def wake(self, call: Callable[[], None] | None = None) -> None:
        """Let the sending thread look what is due, after `call`; safe in destructors."""
        if call is not None or not self._woken:
            self._woken = True
            self._wake.put(call)

    def wake_by(self, at: float) -> None:
        """Let the sending thread look what is due at that time (monotonic seconds), or before."""
        if at < self._asleep_until:
            self.wake()

    def leave(self, reader: Incoming, run: Arrived | None, seen: int) -> None:
        """Unsubscribe; see `Session.close_reader`."""
        with self.lock:
            self.session.close_reader(reader, time.monotonic(), run, seen)

    def _send_due(self) -> None:
        while not self._closing.is_set():
            try:
                call = self._wake.get(timeout=self._pause())
                self._asleep_until = math.inf
                self._woken = False
                if call is not None:
                    call()
            except queue.Empty:
                self._asleep_until = math.inf
            except Exception:
                log.exception("unexpected error in a callback")
            with contextlib.suppress(Error):
                self._check_life()
                self.pump()

    def _pause(self) -> float:
        with self.lock:
            at = self.session.wake_at()
        now = time.monotonic()
        pause = QUIET_S / 4 if at is None else min(max(at - now, 0.0), QUIET_S / 4)
        self._asleep_until = now + pause
        return pause

    def _check_life(self) -> None:
        now = time.monotonic()
        quiet = now - self._received_at
        if quiet < QUIET_S:
            return
        if self.session.state is State.UP and self._pinged_at < self._received_at:
            self._pinged_at = now
            with self.lock:
                self.session.say(Ping(self.session.next_number()))
        elif now - self._pinged_at > DEAD_S:
            transport = self._transport
            if transport is not None:
                transport.shutdown()

    # ------------------------------------------------------------------ receiving

    def _keep_up(self) -> None:
        first, since, warned, backoff = True, time.monotonic(), False, 0.0
        while not self._closing.is_set():
            try:
                transport = self._dial(backoff > 0)
            except Error as error:
                away = time.monotonic() - since
                if first or away > self._patience_s:
                    self._give_up(error)
                    return
                if away > WARN_S and not warned:
                    log.warning("the node has been away for %.0f s: %s", away, error)
                    warned = True
                backoff = min(max(2 * backoff, BACKOFF_S), BACKOFF_MAX_S)
                self._closing.wait(backoff * random.uniform(0.5, 1.0))  # noqa: S311
                continue
            was_up = self._serve(transport)
            if self.session.state is State.OVER:
                return
            if was_up:
                first, since, warned, backoff = False, time.monotonic(), False, 0.0
            elif first or time.monotonic() - since > self._patience_s:
                self._give_up(
                    ConnectionLost(
                        "the node ended the connection before it said welcome",
                        hint="is that address one of a Beamstream node?",
                    )
                )
                return
            else:
                backoff = min(max(2 * backoff, BACKOFF_S), BACKOFF_MAX_S)
                self._closing.wait(backoff * random.uniform(0.5, 1.0))  # noqa: S311

    def _share(self, welcome: Welcome) -> None:
        """Get at the memory of the node, if it is on this machine."""
        node = (welcome.node, welcome.boot, welcome.arenas)
        line = self.line
        if line is not None and (node != self._node or line.broken):
            line.close()
            line = None
        if line is None and welcome.arenas:
            line = LifeLine.connect(welcome.arenas, self.session.hello.session, self.wake_by)
        self._node = node
        self._may_write = line is not None and bool({"write", "writeraw"} & set(welcome.access))
        with self.lock:
            self.line = self.session.line = line

    def _look(
        self, batch: Batch, places: tuple[Place, ...], damaged: dict[int, Error], *, leased: bool
    ) -> list[memoryview] | None:
        """Payloads where they lie in the node's memory.

        Raises
        ------
        ConnectionLost : they are out of reach, and will come again over another connection.
        """
        try:
            if self.line is None:
                raise DataLost("the node has sent no payloads, and its memory is out of reach")
            views = self.line.views(places, batch.sizes, batch.digests)
            self._unseen = 0
            return views
        except DataLost as error:
            # Mostly it is the node that has ended: then they are on its disk, and not lost.
            self._unseen += 1
            if leased and self._unseen <= UNSEEN_MAX:
                raise ConnectionLost(error.message) from None
            damaged.update(dict.fromkeys(range(batch.count), error))
            return None

    def _give_up(self, error: Error) -> None:
        with self.lock:
            self.session.fail(error)

    def _serve(self, transport: Transport) -> bool:
        """Receive until the connection ends; whether the node had said welcome."""
        with self.lock:
            if self._closing.is_set():
                transport.close()
                return False
            self._transport = transport
            self.session.connected()
        self._received_at = time.monotonic()
        self.wake()
        receiver = Receiver(transport, Buffers(), verify=self._verify)
        was_up = False
        try:
            while True:
                arrived = receiver.next()
                if arrived is None:
                    break
                now = self._received_at = time.monotonic()
                frame, body, damaged = arrived
                views = None
                if isinstance(frame, Deliver) and frame.batch.places is not None:
                    views = self._look(
                        frame.batch, frame.batch.places, damaged, leased=frame.tag > 0
                    )
                elif isinstance(frame, Welcome):
                    self._share(frame)
                with self.lock:
                    self.session.receive(frame, body, now, damaged, views)
                    due = self.session.due(now)
                    was_up = was_up or self.session.state is State.UP
                    up = self.session.state is State.UP
                    self.session.lending.enabled = up and self._may_write
                # Whoever has the frame may let go of its memory while we wait for the next one.
                del frame, body, damaged, views, arrived
                if due:
                    self.wake()
                if self.session.state is State.OVER:
                    break
        except OSError:
            pass
        except Error as error:
            self._give_up(error)
        except Exception as error:
            log.exception("unexpected error while receiving")
            self._give_up(LocalProtocolError(f"unexpected error while receiving: {error!r}"))
        finally:
            transport.shutdown()
            with self.lock:
                self._transport = None
                self.session.lost()
            # Nobody may be within a call of it when the descriptor is given back.
            with self._send_lock:
                transport.close()
        return was_up


_links: weakref.WeakSet[Link] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """A program that ends without closing has its last messages sent, if that is soon done."""
    for link in list(_links):
        link.end()


def _forked() -> None:
    for link in list(_links):
        link.forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)

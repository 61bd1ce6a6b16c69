"""Requests of a producer that wait for their turn, and the threads that deliver them."""

from __future__ import annotations

import abc
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from beamstream import limits
from beamstream.client.asapo.address import Address
from beamstream.client.asapo.discovery import Discovery, ReceiverList
from beamstream.client.asapo.http import Http
from beamstream.client.asapo.link import Buffer
from beamstream.client.asapo.sender import RETRY_SECONDS, Sender
from beamstream.errors import BadInput, Error, TimedOut
from beamstream.wire.asapo.structs import Reply

_REFRESH_SECONDS: Final = 10.0

Fits = Callable[[int, int], bool]
"""Whether so many requests, of so many bytes in all, may wait or be on their way."""


class Parcel(abc.ABC):
    """A request on its way to the server; all but the constructor run in a thread of the outbox.

    Parameters
    ----------
    nbytes : what it weighs while it waits.
    what : names it in errors.
    """

    posted_s = 0.0

    def __init__(self, nbytes: int, what: str) -> None:
        self.nbytes = nbytes
        self.what = what

    def begin(self) -> bool:
        """Whether it is still wanted."""
        return True

    @abc.abstractmethod
    def parts(self) -> Sequence[Buffer]:
        """The bytes of the request; what this raises is how the parcel fails."""

    @abc.abstractmethod
    def delivered(self, reply: Reply) -> None:
        """The server has it; the reply is a success or a warning."""

    @abc.abstractmethod
    def failed(self, error: Exception) -> None:
        """It was not delivered."""


class Outbox:
    """Delivers parcels over several connections, in about the order in which they were posted.

    Parameters
    ----------
    endpoint : ``HOST:PORT`` of the node's HTTP door.
    credentials : what logs in on each connection.
    what : names the beamtime and source in errors.
    threads : connections, 1 … 32.
    timeout_s : a parcel fails when neither it nor any before it got through for this long.
    """

    def __init__(
        self,
        endpoint: str,
        token: str,
        credentials: bytes,
        *,
        what: str,
        threads: int,
        timeout_s: float,
        retry_s: float = RETRY_SECONDS,
    ) -> None:
        if not 1 <= threads <= limits.PRODUCER_CONNECTIONS_MAX:
            raise BadInput(f"threads is {threads}; 1 to {limits.PRODUCER_CONNECTIONS_MAX} are")
        self.what = what
        self.count = 0
        """Parcels that wait or are on their way."""
        self.nbytes = 0
        """What they weigh."""
        self._timeout_s = timeout_s
        self._http = Http()
        self._discovery = Discovery(self._http, endpoint, token)
        self._discovery_lock = threading.Lock()
        self._receivers: ReceiverList | None = None
        self._asked_s = 0.0
        self._queue: deque[Parcel] = deque()
        self._changed = threading.Condition()
        self._ending = False
        self._closed = threading.Event()
        self._last_success_s = 0.0
        # A server may keep a message waiting for room in its cache before it answers.
        silence_s = timeout_s + limits.CACHE_WAIT_SECONDS_MAX
        self._senders = [
            Sender(self._addresses, k, credentials, silence_s, self._closed.wait, retry_s)
            for k in range(threads)
        ]
        self._working = threads
        self._threads = [
            threading.Thread(target=self._work, args=(sender,), name=f"producer-{k}", daemon=True)
            for k, sender in enumerate(self._senders)
        ]
        for thread in self._threads:
            thread.start()

    def post(self, parcel: Parcel, fits: Fits, *, wait: bool) -> bool:
        """Queue `parcel`; when it does not fit, wait until it does or return False.

        Raises
        ------
        BadInput : the outbox is closed.
        """
        with self._changed:
            while not self._ending and not fits(self.count + 1, self.nbytes + parcel.nbytes):
                if not wait:
                    return False
                self._changed.wait()
            if self._ending:
                raise BadInput(f"{self.what}: the producer is closed")
            parcel.posted_s = time.monotonic()
            self._queue.append(parcel)
            self.count += 1
            self.nbytes += parcel.nbytes
            self._changed.notify_all()
        return True

    def flush(self, timeout_s: float | None = None) -> None:
        """Return when everything posted so far is done, well or badly.

        Raises
        ------
        TimedOut : something is still on its way after `timeout_s`.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: not self.count, timeout_s):
                raise TimedOut(f"{self.what}: {self.count} messages are still on their way")

    def end(self) -> None:
        """Take nothing more; the threads end when all that was posted is done. Does not wait."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def stop(self, timeout_s: float = 0.0, *, join: bool = True) -> int:
        """End now, and return how many parcels failed for it.

        What is on its way has `timeout_s` more to arrive; what waits fails with `TimedOut`.
        With `join`, return when the threads have ended.
        """
        self.end()
        self._closed.set()
        with self._changed:
            dropped = list(self._queue)
            self._queue.clear()
        for parcel in dropped:
            if parcel.begin():
                parcel.failed(TimedOut(f"{parcel.what} was closed before it was sent"))
            self._done(parcel)
        with self._changed:
            late = 0 if self._changed.wait_for(lambda: not self.count, timeout_s) else self.count
        if late:
            for sender in self._senders:
                sender.abort()
        for thread in self._threads:
            if join and thread is not threading.current_thread():
                thread.join()
        return len(dropped) + late

    # ----------------------------------------------------------------- inside

    def _work(self, sender: Sender) -> None:
        while (parcel := self._next()) is not None:
            if parcel.begin():
                self._run(sender, parcel)
            self._done(parcel)
            del parcel  # and with it the payload: the next one may be long in coming
        sender.close()
        with self._changed:
            self._working -= 1
            last = not self._working
        if last:
            self._http.close()

    def _next(self) -> Parcel | None:
        with self._changed:
            while not self._queue:
                if self._ending:
                    return None
                self._changed.wait()
            return self._queue.popleft()

    def _run(self, sender: Sender, parcel: Parcel) -> None:
        deadline_s = max(parcel.posted_s, self._last_success_s) + self._timeout_s
        try:
            reply = sender.deliver(parcel.parts(), deadline_s, parcel.what)
        except Exception as error:
            parcel.failed(error)
            return
        self._last_success_s = time.monotonic()
        parcel.delivered(reply)

    def _done(self, parcel: Parcel) -> None:
        with self._changed:
            self.count -= 1
            self.nbytes -= parcel.nbytes
            self._changed.notify_all()

    def _addresses(self) -> Sequence[Address]:
        """Receivers to try; asked for when a connection is needed, at most every 10 s."""
        with self._discovery_lock:
            now_s = time.monotonic()
            if self._receivers is None or now_s - self._asked_s > _REFRESH_SECONDS:
                try:
                    self._receivers = self._discovery.receivers()
                    self._asked_s = now_s
                except Error:
                    if self._receivers is None:
                        raise
            return self._receivers.addresses

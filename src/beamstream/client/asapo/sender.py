"""One worker of a producer: a connection, the login on it, and what to do when it fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from beamstream.client.asapo.address import Address
from beamstream.client.asapo.errors import ServerFault, Unavailable, Unsupported
from beamstream.client.asapo.link import Buffer, Link
from beamstream.errors import (
    BadInput,
    BadToken,
    ConnectionLost,
    Error,
    IdConflict,
    NotAllowed,
    Overload,
    TimedOut,
)
from beamstream.wire.asapo.structs import Code, OpCode, Reply, pack_request

DUPLICATE_TEXT: Final = "ignoring duplicate record"
CONFLICT_TEXT: Final = "already have record with same id"
RETRY_SECONDS: Final = 1.0


class Sender:
    """Delivers requests one by one.

    Parameters
    ----------
    receivers : called before each connection for the addresses to try.
    number : of the worker; workers begin with different receivers.
    credentials : what logs in on each connection.
    timeout_s : silence that ends a connection.
    pause : waits for the given seconds; True when the producer is being closed meanwhile.
    """

    def __init__(
        self,
        receivers: Callable[[], Sequence[Address]],
        number: int,
        credentials: bytes,
        timeout_s: float,
        pause: Callable[[float], bool],
        retry_s: float = RETRY_SECONDS,
    ) -> None:
        self._receivers = receivers
        self._number = number
        header = pack_request(OpCode.AUTHORIZE, meta_size=len(credentials))
        self._login = (header, credentials)
        self._timeout_s = timeout_s
        self._pause = pause
        self._retry_s = retry_s
        self._link: Link | None = None

    def deliver(self, parts: Sequence[Buffer], deadline_s: float, what: str) -> Reply:
        """Send a request until it is answered for good; the answer is a success or a warning.

        A lost connection leaves open whether the message was taken: it is sent again, and a server
        that has it says so.

        Parameters
        ----------
        deadline_s : on the monotonic clock; after it no further attempt is begun.
        what : names the request in errors.

        Raises
        ------
        BadInput, IdConflict, NotAllowed, BadToken, Unsupported : the server refuses it.
        TimedOut : no attempt succeeded in time; its cause is the last one's error.
        """
        logged_out = False
        while True:
            try:
                reply = self._connected().ask(parts)
                if reply.code in (Code.SUCCESS, Code.WARNING):
                    return reply
                self.close()
                if reply.code == Code.REAUTHORIZE and not logged_out:
                    logged_out = True
                    continue
                raise _error(reply, what)
            except Error as error:
                self.close()
                if not error.retryable:
                    raise
                problem = error
            over = time.monotonic() + self._retry_s > deadline_s
            if over or self._pause(self._retry_s):
                raise TimedOut(f"{what} was not delivered in time: {problem}") from problem

    def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def abort(self) -> None:
        """End what another thread is doing in `deliver`."""
        link = self._link
        if link is not None:
            link.shutdown()

    def _connected(self) -> Link:
        if self._link is not None:
            return self._link
        addresses = self._receivers()
        problem: Error = Unavailable("there is no receiver")
        for k in range(len(addresses)):
            address = addresses[(self._number + k) % len(addresses)]
            try:
                self._link = Link(address, self._timeout_s)
                break
            except Unavailable as error:
                problem = error
        else:
            raise problem
        reply = self._link.ask(self._login)
        if reply.code == Code.WARNING:
            raise ServerFault(f"login at {self._link.address}: {reply.text}")
        if reply.code != Code.SUCCESS:
            raise _error(reply, f"login at {self._link.address}")
        return self._link


def _error(reply: Reply, what: str) -> Error:
    text = f"{what}: {reply.text or f'the server answers with code {reply.code}'}"
    match reply.code:
        case Code.WRONG_REQUEST:
            return IdConflict(text) if CONFLICT_TEXT in reply.text else BadInput(text)
        case Code.AUTHORIZATION_ERROR:
            return BadToken(text) if "expired" in reply.text else NotAllowed(text)
        case Code.NOT_SUPPORTED:
            return Unsupported(text)
        case Code.REAUTHORIZE:
            return ConnectionLost(f"{text}: the login does not hold")
        case Code.NO_DATA:
            return Overload(text)
        case _:
            return ServerFault(text)

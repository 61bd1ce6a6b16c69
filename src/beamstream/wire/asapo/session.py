"""The server's side of one receiver connection, without I/O.

The shell receives into what `want` returns and says how much came with `got`; then it asks for
events until there is none. Headers, metadata and small payloads pass through one staging buffer;
a large payload is received straight into the memory that the shell gives with `take`.

::

    HEAD --(header and metadata are there: Incoming)--> DECIDE
    DECIDE --take(memory)--> PAYLOAD    --discard()--> DROP    --skip()--> HEAD (nothing follows)
    PAYLOAD --(memory is full: Filled, more to come)--> DECIDE
    PAYLOAD, DROP --(the last byte: Complete)--> HEAD
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

from beamstream import limits
from beamstream.errors import LocalProtocolError, TooLarge
from beamstream.wire.asapo.structs import (
    REQUEST_NBYTES,
    OpCode,
    Request,
    payload_nbytes,
    unpack_request,
)


class Incoming(msgspec.Struct, frozen=True, gc=False):
    """A request: header and metadata (or credentials). `payload_nbytes` bytes of data follow."""

    request: Request
    meta: bytes
    payload_nbytes: int


class Filled(msgspec.Struct, frozen=True, gc=False):
    """The memory given with `take` is full; `remaining` bytes of the payload follow."""

    remaining: int


class Complete(msgspec.Struct, frozen=True, gc=False):
    """The last byte of the payload is there (or was dropped)."""


COMPLETE: Final = Complete()

Event = Incoming | Filled | Complete


class _State(enum.Enum):
    HEAD = enum.auto()
    DECIDE = enum.auto()
    PAYLOAD = enum.auto()
    DROP = enum.auto()


class ReceiverSession:
    """One connection of a producer. Not thread-safe; one shell drives it.

    Raises
    ------
    RemoteProtocolError, TooLarge : from `next_event`; the connection is of no use afterwards.
    """

    __slots__ = (
        "_end",
        "_memory",
        "_meta",
        "_meta_done",
        "_received",
        "_remaining",
        "_request",
        "_staging",
        "_start",
        "_state",
        "_view",
        "trusted",
    )

    def __init__(self, staging_nbytes: int = limits.STAGING_NBYTES) -> None:
        self.trusted = False
        """Whether the peer has logged in: before, it may send little more than a login."""
        self._staging = bytearray(staging_nbytes)
        self._view = memoryview(self._staging)
        self._start = 0
        self._end = 0
        self._state = _State.HEAD
        self._request: Request | None = None
        self._meta: bytearray | None = None
        self._meta_done = 0
        self._memory: memoryview | None = None
        self._received = 0
        self._remaining = 0

    @property
    def idle(self) -> bool:
        """No request is under way: the peer owes nothing."""
        return self._state is _State.HEAD and self._start == self._end and self._request is None

    @property
    def deciding(self) -> bool:
        """The shell owes an answer to the last event: nothing more can be received."""
        return self._state is _State.DECIDE

    def want(self) -> memoryview:
        """Where the next received bytes go; never empty."""
        memory = self._memory
        if self._state is _State.PAYLOAD and memory is not None and self._start == self._end:
            room = memory[self._received :]
            if room.nbytes >= limits.DIRECT_NBYTES_MIN:
                return room
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._staging):
            if self._start == 0:
                raise LocalProtocolError("bytes are received while a request waits for an answer")
            rest = self._end - self._start
            self._view[:rest] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, rest
        return self._view[self._end :]

    def got(self, nbytes: int) -> None:
        """`nbytes` were received into the memory that `want` returned last."""
        if (
            self._state is _State.PAYLOAD
            and self._start == self._end
            and self._memory is not None
            and self._memory.nbytes - self._received >= limits.DIRECT_NBYTES_MIN
        ):
            self._received += nbytes
        else:
            self._end += nbytes

    def next_event(self) -> Event | None:
        """What the received bytes mean; None when more are needed or an answer is owed."""
        if self._state is _State.HEAD:
            return self._head()
        if self._state is _State.PAYLOAD:
            return self._payload()
        if self._state is _State.DROP:
            return self._drop()
        return None

    def take(self, memory: memoryview) -> None:
        """Receive (the next part of) the payload into `memory`, which must not be larger."""
        if self._state is not _State.DECIDE or not 0 < memory.nbytes <= self._remaining:
            raise LocalProtocolError("memory is given for a payload that does not follow")
        self._memory = memory
        self._received = 0
        self._state = _State.PAYLOAD

    def discard(self) -> None:
        """Drop what remains of the payload."""
        if self._state is not _State.DECIDE:
            raise LocalProtocolError("there is no payload to drop")
        self._memory = None
        self._state = _State.DROP

    def skip(self) -> None:
        """Go on with the next request: this one has no payload."""
        if self._state is not _State.DECIDE or self._remaining:
            raise LocalProtocolError("a payload that follows is left out")
        self._state = _State.HEAD

    # ------------------------------------------------------------------ states

    def _head(self) -> Incoming | None:
        request = self._request
        if request is None:
            if self._end - self._start < REQUEST_NBYTES:
                return None
            request = unpack_request(self._view[self._start : self._start + REQUEST_NBYTES])
            _check_sizes(request, self.trusted)
            self._start += REQUEST_NBYTES
            if request.meta_size > self._end - self._start:
                self._request = request
                self._meta = bytearray(request.meta_size)
                self._meta_done = 0
        if request.meta_size == 0:
            meta = b""
        elif self._meta is None:
            meta = bytes(self._view[self._start : self._start + request.meta_size])
            self._start += request.meta_size
        else:
            count = min(self._end - self._start, request.meta_size - self._meta_done)
            self._meta[self._meta_done : self._meta_done + count] = self._view[
                self._start : self._start + count
            ]
            self._start += count
            self._meta_done += count
            if self._meta_done < request.meta_size:
                return None
            meta = bytes(self._meta)
        self._request = None
        self._meta = None
        self._remaining = payload_nbytes(request)
        self._state = _State.DECIDE
        return Incoming(request, meta, self._remaining)

    def _payload(self) -> Filled | Complete | None:
        memory = self._memory
        assert memory is not None
        staged = self._end - self._start
        if staged:
            count = min(staged, memory.nbytes - self._received)
            memory[self._received : self._received + count] = self._view[
                self._start : self._start + count
            ]
            self._start += count
            self._received += count
        if self._received < memory.nbytes:
            return None
        self._remaining -= memory.nbytes
        self._memory = None
        if self._remaining:
            self._state = _State.DECIDE
            return Filled(self._remaining)
        self._state = _State.HEAD
        return COMPLETE

    def _drop(self) -> Complete | None:
        count = min(self._end - self._start, self._remaining)
        self._start += count
        self._remaining -= count
        if self._remaining:
            return None
        self._state = _State.HEAD
        return COMPLETE


def _check_sizes(request: Request, trusted: bool) -> None:
    if request.op == OpCode.AUTHORIZE or not trusted:
        meta_max, data_max = limits.CREDENTIALS_NBYTES_MAX, 0
    elif request.op == OpCode.TRANSFER_METADATA:
        meta_max, data_max = limits.META_NBYTES_MAX, limits.STREAM_META_NBYTES_MAX
    else:
        meta_max, data_max = limits.META_NBYTES_MAX, limits.PAYLOAD_NBYTES_MAX
    if request.meta_size > meta_max:
        raise TooLarge(f"a request announces {request.meta_size} bytes of metadata",
                       hint=f"at most {meta_max} are taken")  # fmt: skip
    if payload_nbytes(request) > data_max:
        raise TooLarge(f"a request announces {request.data_size} bytes of data",
                       hint=f"at most {data_max} are taken")  # fmt: skip

"""Cuts what a native connection receives into frames; bodies go where they are told. No I/O.

`want` gives the memory for the next bytes, `got` says how many came, `next` tells what there is. A
frame's header is handed out as a view of the staging buffer: it is decoded before the next `want`.
Whoever is given a header with a body says where the body goes (`take`) or that it is not wanted
(`drop`); a long header asks for memory in the same way.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

from beamstream import limits
from beamstream.errors import RemoteProtocolError
from beamstream.wire.native.framing import HEAD_NBYTES, unpack_head

_STAGED_HEADER_NBYTES_MAX: Final = limits.STAGING_NBYTES // 4
"""Longer headers get memory of their own."""


class Header(msgspec.Struct, frozen=True, gc=False):
    """A frame's header. With a body: `take` or `drop` comes next."""

    kind: int
    header: memoryview
    body_nbytes: int


class LongHeader(msgspec.Struct, frozen=True, gc=False):
    """A header of so many bytes follows: `take` memory for it, then it comes as `Header`."""

    kind: int
    nbytes: int


class Done(enum.Enum):
    """What became of a body."""

    TAKEN = enum.auto()
    """It is complete, in the memory that was given."""
    FILLED = enum.auto()
    """The memory is full, and more follows: `take` the next."""
    DROPPED = enum.auto()


Event = Header | LongHeader | Done


class _State(enum.Enum):
    HEAD = enum.auto()
    HEADER = enum.auto()
    DECIDING = enum.auto()
    """A body or a long header follows, and nobody has said where to."""
    TAKING = enum.auto()
    DROPPING = enum.auto()


class FrameReader:
    """The receiving half of one connection.

    >>> from beamstream.wire.native.frames import Ping, encode
    >>> reader, frame = FrameReader(), encode(Ping(7))
    >>> reader.want()[: len(frame)] = frame
    >>> reader.got(len(frame)); reader.next().kind
    4
    """

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(limits.STAGING_NBYTES))
        self._start = 0
        self._end = 0
        self._state = _State.HEAD
        self._kind = 0
        self._header_nbytes = 0
        self._body_nbytes = 0
        self._memory: memoryview | None = None
        self._filled = 0
        self._of_header = False
        self._direct = False
        self._left = 0
        self.header_nbytes_max = limits.CREDENTIALS_NBYTES_MAX
        """Raised when the client is known."""
        self.body_nbytes_max = 0

    @property
    def deciding(self) -> bool:
        return self._state is _State.DECIDING

    @property
    def idle(self) -> bool:
        """No frame has been begun."""
        return self._state is _State.HEAD and self._start == self._end

    # ------------------------------------------------------------------ bytes in

    def want(self) -> memoryview:
        """Memory for the next bytes, never empty while `deciding` is False."""
        if self._direct and self._memory is not None:
            return self._memory[self._filled :]
        start, end = self._start, self._end
        if start == end:
            self._start = self._end = 0
            return self._buffer
        if start and end > limits.STAGING_NBYTES // 2:
            self._buffer[: end - start] = self._buffer[start:end]
            self._start, self._end = 0, end - start
        return self._buffer[self._end :]

    def got(self, nbytes: int) -> None:
        if self._direct:
            self._filled += nbytes
        else:
            self._end += nbytes

    # ------------------------------------------------------------------ events out

    def next(self) -> Event | None:
        """What there is, or None when more bytes are needed (or a decision).

        Raises
        ------
        RemoteProtocolError, TooLarge : what follows cannot be understood or is not taken.
        """
        match self._state:
            case _State.HEAD:
                return self._head()
            case _State.HEADER:
                return self._header()
            case _State.TAKING:
                return self._taking()
            case _State.DROPPING:
                return self._dropping()
            case _:
                return None

    def take(self, memory: memoryview) -> None:
        """Receive the next part of the body (or all of a long header) into `memory`."""
        self._memory, self._filled = memory, 0
        self._state = _State.TAKING
        if not self._of_header:
            self._left -= memory.nbytes
        self._fill()

    def drop(self) -> None:
        """Receive the body and forget it."""
        self._state = _State.DROPPING

    def _head(self) -> Event | None:
        if self._end - self._start < HEAD_NBYTES:
            return None
        kind, header_nbytes, body_nbytes = unpack_head(self._buffer, self._start)
        if header_nbytes > self.header_nbytes_max or body_nbytes > self.body_nbytes_max:
            raise RemoteProtocolError(
                f"a frame of kind {kind} with {header_nbytes} + {body_nbytes} bytes before the "
                "client is known"
                if self.header_nbytes_max < limits.NATIVE_HEADER_NBYTES_MAX
                else f"a frame of kind {kind} with {header_nbytes} + {body_nbytes} bytes"
            )
        self._start += HEAD_NBYTES
        self._kind, self._header_nbytes, self._body_nbytes = kind, header_nbytes, body_nbytes
        if header_nbytes > _STAGED_HEADER_NBYTES_MAX:
            self._state = _State.DECIDING
            self._of_header = True
            return LongHeader(kind, header_nbytes)
        self._state = _State.HEADER
        return self._header()

    def _header(self) -> Event | None:
        start = self._start
        if self._end - start < self._header_nbytes:
            return None
        self._start += self._header_nbytes
        return self._headed(self._buffer[start : self._start])

    def _headed(self, header: memoryview) -> Header:
        self._left = self._body_nbytes
        self._state = _State.DECIDING if self._left else _State.HEAD
        return Header(self._kind, header, self._body_nbytes)

    def _taking(self) -> Event | None:
        self._fill()
        memory = self._memory
        assert memory is not None
        if self._filled < memory.nbytes:
            return None
        self._memory = None
        self._direct = False
        if self._of_header:
            self._of_header = False
            return self._headed(memory)
        if self._left:
            self._state = _State.DECIDING
            return Done.FILLED
        self._state = _State.HEAD
        return Done.TAKEN

    def _fill(self) -> None:
        """Copy what is staged; a large rest is received straight into the memory."""
        memory = self._memory
        assert memory is not None
        if self._direct:
            return
        missing = memory.nbytes - self._filled
        staged = self._end - self._start
        if staged < missing < limits.DIRECT_NBYTES_MIN:
            # All of it fits into the staging buffer, together with the frames behind it.
            return
        count = min(staged, missing)
        memory[self._filled : self._filled + count] = self._buffer[
            self._start : self._start + count
        ]
        self._filled += count
        self._start += count
        self._direct = self._filled < memory.nbytes

    def _dropping(self) -> Event | None:
        count = min(self._end - self._start, self._left)
        self._start += count
        self._left -= count
        if self._left:
            return None
        self._state = _State.HEAD
        return Done.DROPPED

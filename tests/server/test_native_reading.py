"""Cutting a native connection into frames, however its bytes come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream import limits
from beamstream.errors import RemoteProtocolError
from beamstream.server.doors.native_reading import Done, FrameReader, Header, LongHeader
from beamstream.wire.native.framing import pack_head

Frame = tuple[int, bytes, bytes]

small = st.binary(max_size=40)
parts = st.builds(
    lambda seed, size: (seed * (size // len(seed) + 1))[:size] if seed else bytes(size),
    small,
    st.sampled_from([0, 1, 100, 16_384, 16_385, 31_000, 32_768, 40_000, 65_536, 200_000]),
)
sent = st.lists(
    st.tuples(st.integers(0, 2**16 - 1), parts, parts, st.booleans(), st.integers(1, 70_000)),
    max_size=8,
)


def reader() -> FrameReader:
    made = FrameReader()
    made.header_nbytes_max = limits.NATIVE_HEADER_NBYTES_MAX
    made.body_nbytes_max = limits.PAYLOAD_NBYTES_MAX
    return made


class Receiver:
    """Takes bodies whole, in pieces of `piece`, or drops them, as each frame says."""

    def __init__(self, plan: list[tuple[bool, int]]) -> None:
        self.reader = reader()
        self.plan = plan
        self.frames: list[Frame | None] = []
        self._memory = memoryview(bytearray())
        self._body = bytearray()
        self._left = 0
        self._header = (0, b"")

    def feed(self, text: bytes) -> None:
        view = memoryview(text)
        while view:
            memory = self.reader.want()
            assert memory.nbytes, "there is always room while nothing is to be decided"
            count = min(memory.nbytes, view.nbytes)
            memory[:count] = view[:count]
            view = view[count:]
            self.reader.got(count)
            while (event := self.reader.next()) is not None:
                self.take(event)
            assert not self.reader.deciding

    def take(self, event: Header | LongHeader | Done) -> None:
        if isinstance(event, LongHeader):
            self.reader.take(memoryview(bytearray(event.nbytes)))
        elif isinstance(event, Header):
            self._header = (event.kind, bytes(event.header))
            self._body = bytearray()
            self._left = event.body_nbytes
            if not event.body_nbytes:
                self.frames.append((*self._header, b""))
            elif self.plan[len(self.frames)][0]:
                self.next_piece()
            else:
                self.reader.drop()
        elif event is Done.DROPPED:
            self.frames.append(None)
        else:
            self._body += self._memory
            if event is Done.FILLED:
                self.next_piece()
            else:
                self.frames.append((*self._header, bytes(self._body)))

    def next_piece(self) -> None:
        size = min(self.plan[len(self.frames)][1], self._left)
        self._left -= size
        self._memory = memoryview(bytearray(size))
        self.reader.take(self._memory)


@given(sent, st.lists(st.integers(1, 100_000), max_size=10))
def test_frames_come_as_they_were_sent(
    frames: list[tuple[int, bytes, bytes, bool, int]], cuts: list[int]
) -> None:
    text = b"".join(
        pack_head(kind, len(header), len(body)) + header + body
        for kind, header, body, _, _ in frames
    )
    receiver = Receiver([(takes, piece) for *_, takes, piece in frames])
    at = 0
    for cut in [*cuts, len(text)]:
        receiver.feed(text[at : at + cut])
        at += cut
    assert receiver.frames == [
        (kind, header, body) if takes or not body else None
        for kind, header, body, takes, _ in frames
    ]
    assert receiver.reader.idle


def test_lengths_are_looked_at_before_the_client_is_known() -> None:
    for head in (
        pack_head(1, limits.CREDENTIALS_NBYTES_MAX + 1),
        pack_head(1, 10, 1),
    ):
        made = FrameReader()
        made.want()[: len(head)] = head
        made.got(len(head))
        with pytest.raises(RemoteProtocolError):
            made.next()

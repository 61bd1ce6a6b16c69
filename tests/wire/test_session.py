"""However the bytes of a conversation arrive, they mean the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamstream import limits
from beamstream.errors import LocalProtocolError, RemoteProtocolError, TooLarge
from beamstream.wire.asapo.session import Complete, Filled, Incoming, ReceiverSession
from beamstream.wire.asapo.structs import REQUEST_NBYTES, OpCode, Request, pack_request

LARGE = 3 * limits.DIRECT_NBYTES_MIN
DATA, META_ONLY = 1, 2

Seen = tuple[str, bytes, bytes]
"""Path, metadata, payload (dropped ones are empty)."""


class Sent:
    """One request, what its shell does with it, and what must come out."""

    def __init__(self, op: int, meta: bytes, payload: bytes, *, drop: bool, part: int) -> None:
        self.op, self.meta, self.payload = op, meta, payload
        self.drop, self.part = drop, part
        self.path = f"p{len(meta)}-{len(payload)}"

    def encode(self) -> bytes:
        has = self.op in (OpCode.TRANSFER_METADATA, OpCode.TRANSFER_DATA)
        mode = DATA | 8 if self.payload or self.op != OpCode.TRANSFER_DATA else META_ONLY | 8
        size = len(self.payload) if has and mode & DATA else 77
        if self.op == OpCode.TRANSFER_METADATA:
            size = len(self.payload)
        head = pack_request(
            self.op, 1, size, len(self.meta), (mode, 0, 0), path=self.path, stream="s"
        )
        return head + self.meta + self.payload


def sents() -> st.SearchStrategy[Sent]:
    with_data = st.sampled_from([OpCode.TRANSFER_DATA, OpCode.TRANSFER_METADATA])
    without = st.sampled_from([OpCode.AUTHORIZE, OpCode.STREAM_INFO, OpCode.TRANSFER_DATA])
    meta = st.one_of(
        st.just(b""), st.binary(max_size=40), st.integers(3000, 9000).map(lambda n: b"m" * n)
    )
    payload = st.one_of(
        st.binary(min_size=1, max_size=60),
        st.integers(1000, 6000).map(lambda n: bytes(i * 7 % 256 for i in range(n))),
        st.integers(LARGE - 3, LARGE + 3).map(lambda n: (bytes(range(251)) * n)[:n]),
    )
    part = st.sampled_from([17, 1000, limits.DIRECT_NBYTES_MIN, LARGE, LARGE * 2])
    return st.one_of(
        st.builds(Sent, with_data, meta, payload, drop=st.booleans(), part=part),
        st.builds(Sent, without, meta, st.just(b""), drop=st.booleans(), part=part),
    )


def trusted(staging: int = limits.STAGING_NBYTES) -> ReceiverSession:
    """The session of a peer that has logged in."""
    session = ReceiverSession(staging)
    session.trusted = True
    return session


class Shell:
    """Drives a session as a door does, and notes what comes out."""

    def __init__(self, sents: list[Sent], staging: int) -> None:
        self.session = trusted(staging)
        self.todo = list(sents)
        self.seen: list[Seen] = []
        self.incoming: Incoming | None = None
        self.payload = bytearray()
        self.memory = memoryview(b"")
        self.direct = 0

    def feed(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            room = self.session.want()
            assert room.nbytes > 0
            if room.nbytes >= limits.DIRECT_NBYTES_MIN and room.obj is self.memory.obj:
                self.direct += 1
            count = min(room.nbytes, view.nbytes)
            room[:count] = view[:count]
            view = view[count:]
            self.session.got(count)
            while (event := self.session.next_event()) is not None:
                self.handle(event)

    def handle(self, event: object) -> None:
        match event:
            case Incoming(meta=meta, payload_nbytes=nbytes):
                assert self.session.deciding
                assert not self.session.idle
                assert self.session.next_event() is None
                self.incoming, self.payload = event, bytearray()
                if nbytes:
                    self.decide(nbytes)
                    return
                self.session.skip()
                self.seen.append((event.request.path, meta, b""))
                self.todo.pop(0)
            case Filled(remaining=remaining):
                self.payload += self.memory
                self.decide(remaining)
            case Complete():
                assert self.incoming is not None
                self.payload += self.memory
                self.seen.append(
                    (self.incoming.request.path, self.incoming.meta, bytes(self.payload))
                )
                self.todo.pop(0)
                self.memory = memoryview(b"")
            case other:
                raise AssertionError(other)

    def decide(self, remaining: int) -> None:
        sent = self.todo[0]
        if sent.drop and (self.payload or sent.part > 1000):
            self.memory = memoryview(b"")
            self.session.discard()
            return
        self.memory = memoryview(bytearray(min(sent.part, remaining)))
        self.session.take(self.memory)


def split(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    start = 0
    for cut in sorted({cut % (len(data) + 1) for cut in cuts}):
        yield data[start:cut]
        start = cut
    yield data[start:]


@settings(max_examples=120, deadline=None)
@given(
    st.lists(sents(), min_size=1, max_size=4),
    st.lists(st.integers(0, 2**31), max_size=8),
    st.sampled_from([REQUEST_NBYTES, REQUEST_NBYTES + 100, 5000, limits.STAGING_NBYTES]),
)
def test_any_split_gives_the_same(sents: list[Sent], cuts: list[int], staging: int) -> None:
    data = b"".join(sent.encode() for sent in sents)
    whole, pieces = Shell(sents, limits.STAGING_NBYTES), Shell(sents, staging)
    whole.feed(data)
    for piece in split(data, cuts):
        pieces.feed(piece)
    assert pieces.seen == whole.seen
    assert whole.session.idle
    assert pieces.session.idle
    for sent, (path, meta, payload) in zip(sents, whole.seen, strict=True):
        assert (path, meta) == (sent.path, sent.meta)
        if not sent.drop:
            assert payload == sent.payload
        else:
            assert sent.payload.startswith(payload)


def test_byte_by_byte() -> None:
    sents = [
        Sent(OpCode.TRANSFER_DATA, b'{"a":1}', b"hello", drop=False, part=2),
        Sent(OpCode.STREAM_INFO, b"", b"", drop=False, part=1),
    ]
    shell = Shell(sents, REQUEST_NBYTES)
    for at in b"".join(sent.encode() for sent in sents):
        shell.feed(bytes([at]))
    assert [seen[2] for seen in shell.seen] == [b"hello", b""]


def test_a_large_payload_is_received_where_it_will_live() -> None:
    sent = Sent(OpCode.TRANSFER_DATA, b"", bytes(LARGE), drop=False, part=LARGE)
    shell = Shell([sent], limits.STAGING_NBYTES)
    data = sent.encode()
    shell.feed(data[:REQUEST_NBYTES])
    shell.feed(data[REQUEST_NBYTES : REQUEST_NBYTES + 50_000])
    assert shell.direct == 1
    assert not shell.session.idle
    shell.feed(data[REQUEST_NBYTES + 50_000 :])
    assert shell.direct == 2
    assert shell.seen[0][2] == sent.payload


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.binary(min_size=REQUEST_NBYTES, max_size=2 * REQUEST_NBYTES),
        st.builds(
            lambda op, size, meta, mode, rest: (
                pack_request(op, 1, size, meta, (mode, 0, 0), path="p", stream="s") + rest
            ),
            st.integers(0, 255),
            st.one_of(st.integers(0, 100), st.integers(0, 2**64 - 1)),
            st.one_of(st.integers(0, 100), st.integers(0, 2**64 - 1)),
            st.integers(0, 2**64 - 1),
            st.binary(max_size=4000),
        ),
    ),
    st.lists(st.integers(0, 10_000), max_size=4),
    st.booleans(),
)
def test_rubbish_is_an_error_of_the_peer_or_a_request(
    data: bytes, cuts: list[int], logged_in: bool
) -> None:
    session = trusted() if logged_in else ReceiverSession()
    try:
        for piece in split(data, cuts):
            view = memoryview(piece)
            while view:
                room = session.want()
                count = min(room.nbytes, view.nbytes)
                room[:count] = view[:count]
                session.got(count)
                view = view[count:]
                while (event := session.next_event()) is not None:
                    if isinstance(event, Incoming):
                        assert len(event.meta) == event.request.meta_size
                        assert len(event.meta) <= limits.META_NBYTES_MAX
                        if event.payload_nbytes:
                            session.discard()
                        else:
                            session.skip()
    except (RemoteProtocolError, TooLarge):
        return


@pytest.mark.parametrize(
    ("op", "data_size", "meta_size", "accepted"),
    [
        (OpCode.AUTHORIZE, 2**64 - 1, limits.CREDENTIALS_NBYTES_MAX, True),
        (OpCode.AUTHORIZE, 0, limits.CREDENTIALS_NBYTES_MAX + 1, False),
        (OpCode.TRANSFER_METADATA, limits.STREAM_META_NBYTES_MAX, 0, True),
        (OpCode.TRANSFER_METADATA, limits.STREAM_META_NBYTES_MAX + 1, 0, False),
        (OpCode.TRANSFER_DATA, limits.PAYLOAD_NBYTES_MAX, limits.META_NBYTES_MAX, True),
        (OpCode.TRANSFER_DATA, limits.PAYLOAD_NBYTES_MAX + 1, 0, False),
        (OpCode.TRANSFER_DATA, 0, limits.META_NBYTES_MAX + 1, False),
        (OpCode.STREAM_INFO, 2**64 - 1, limits.META_NBYTES_MAX, True),
        (99, 0, 2**64 - 1, False),
    ],
)
def test_sizes_are_checked_with_the_head(
    op: int, data_size: int, meta_size: int, accepted: bool
) -> None:
    session = trusted()
    head = pack_request(op, 1, data_size, meta_size, (DATA | 8, 0, 0), path="p", stream="s")
    session.want()[: len(head)] = head
    session.got(len(head))
    if accepted:
        event = session.next_event()
        assert event is None or isinstance(event, Incoming)
        assert not session.idle
    else:
        with pytest.raises(TooLarge, match="announces"):
            session.next_event()


@pytest.mark.parametrize(
    ("op", "data_size", "meta_size", "accepted"),
    [
        (OpCode.AUTHORIZE, 0, limits.CREDENTIALS_NBYTES_MAX, True),
        (OpCode.TRANSFER_DATA, 0, limits.CREDENTIALS_NBYTES_MAX, True),
        (OpCode.TRANSFER_DATA, 0, limits.CREDENTIALS_NBYTES_MAX + 1, False),
        (OpCode.TRANSFER_DATA, 1, 0, False),
        (OpCode.TRANSFER_METADATA, 1, 0, False),
    ],
)
def test_a_stranger_may_send_little_more_than_a_login(
    op: int, data_size: int, meta_size: int, accepted: bool
) -> None:
    session = ReceiverSession()
    head = pack_request(op, 1, data_size, meta_size, (DATA | 8, 0, 0), path="p", stream="s")
    session.want()[: len(head)] = head
    session.got(len(head))
    if accepted:
        session.next_event()
    else:
        with pytest.raises(TooLarge, match="announces"):
            session.next_event()


def waiting(payload: bytes, received: bytes = b"") -> tuple[ReceiverSession, Request]:
    """A session that has the head of a request, and the first bytes of its payload."""
    session = trusted(REQUEST_NBYTES + 8)
    head = pack_request(OpCode.TRANSFER_DATA, 1, len(payload), 0, (DATA | 8, 0, 0), path="p")
    data = head + received
    session.want()[: len(data)] = data
    session.got(len(data))
    event = session.next_event()
    assert isinstance(event, Incoming)
    return session, event.request


def test_what_does_not_fit_the_state_is_a_fault_of_the_shell() -> None:
    session, request = waiting(b"12345")
    assert request.data_size == 5
    for wrong in (0, 6):
        with pytest.raises(LocalProtocolError, match="does not follow"):
            session.take(memoryview(bytearray(wrong)))
    with pytest.raises(LocalProtocolError, match="left out"):
        session.skip()
    session.take(memoryview(bytearray(5)))
    with pytest.raises(LocalProtocolError, match="no payload to drop"):
        session.discard()
    with pytest.raises(LocalProtocolError, match="does not follow"):
        session.take(memoryview(bytearray(5)))
    with pytest.raises(LocalProtocolError, match="left out"):
        session.skip()


def test_bytes_that_come_before_the_decision_are_kept_and_bounded() -> None:
    session, _ = waiting(b"x" * 20, b"x" * 8)
    # What was staged before is moved to the front once, and then there is no more room.
    while True:
        try:
            room = session.want()
        except LocalProtocolError:
            break
        session.got(room.nbytes)
    session.take(memoryview(bytearray(20)))
    assert isinstance(session.next_event(), Complete)


def test_an_empty_payload_may_be_dropped() -> None:
    session, _ = waiting(b"")
    session.discard()
    assert isinstance(session.next_event(), Complete)
    assert session.idle

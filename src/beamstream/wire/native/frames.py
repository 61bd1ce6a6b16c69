"""The frames of a session (docs/reference/native-protocol.md).

A client opens a connection, says `Hello`, and then writes (`OpenWriter`, `Put`), subscribes
(`Subscribe`, `Credit`, `Ack`) and asks (`Call`) in any order on the one connection. Numbers of
channels and calls are chosen by the client. Headers are arrays: later versions append fields, and
fields that are not known are ignored; a kind that is not known is answered with `Failed`.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any, Final

import msgspec

from beamstream import limits
from beamstream.errors import RemoteProtocolError
from beamstream.wire.native.batches import Batch, Blobs, Numbers, Place, Ranges
from beamstream.wire.native.framing import pack_head

MAGIC: Final = "beamstream"
VERSION: Final = 1
DEFAULT_LEVEL: Final = -1
"""The durability level that the node is set to."""


class Mode(enum.IntEnum):
    """In which order a subscription gets messages."""

    UNORDERED = 0
    """What is open, lowest seq first; what comes again comes when it is due."""
    ORDERED = 1
    """By id; an id that is missing holds up what is behind it, as `Gaps` says."""
    NEWEST = 2
    """Only the newest; what was overtaken is left out."""


class Scope(enum.IntEnum):
    """What a subscription is over."""

    STREAM = 0
    PATTERN = 1
    """All streams of the source whose names match (``*``, ``?``, ``[…]``), later ones included."""
    SOURCE = 2
    """All streams of the source."""


class Start(enum.IntEnum):
    """Where a group begins that has no position yet."""

    BEGINNING = 0
    ID = 1
    TIME = 2
    NEW = 3


class Gaps(enum.IntEnum):
    """What an ordered subscription does about ids that are not there."""

    WAIT = 0
    SKIP = 1
    REPORT = 2
    """Skips them and says so (`Gap`)."""
    FINISHED = 3
    """Waits until the stream is finished, and reports (`Gap`) what has not come by then."""


class Hello(msgspec.Struct, array_like=True, frozen=True):
    """First frame of a client.

    `session` (16 random bytes) is kept over reconnections: leases and shared memory hang on it.
    """

    magic: str
    version: int
    token: str
    beamtime: str
    session: bytes
    instance: str = ""
    step: str = ""
    client: str = ""
    machine: str = ""
    """`machine_id()` of the client, empty when it does not want shared memory."""


class Welcome(msgspec.Struct, array_like=True, frozen=True):
    """The answer: what this node is and what it lets the client do.

    `window_nbytes` is how many bytes of payload may be on their way without a receipt; `arenas` is
    the path of the Unix socket that hands out shared memory, empty when the client is elsewhere.
    """

    version: int
    node: int
    boot: int
    software: str
    beamtime: str
    access: tuple[str, ...]
    level: int
    window_nbytes: int
    batch_max: int
    arenas: str = ""
    payload_nbytes_max: int = 0
    cache_payload_nbytes_max: int = 0
    shared_nbytes_max: int = 0
    """What a session may hold pinned in shared memory; beyond, payloads come by the socket."""


class OpenWriter(msgspec.Struct, array_like=True, frozen=True):
    """Puts on `channel` go into this stream. `producer` (16 random bytes) numbers its puts."""

    channel: int
    source: str
    stream: str
    producer: bytes
    level: int = DEFAULT_LEVEL
    raw: bool = False
    shared: bool = False
    """Asks for memory to write frames into (`Grant`)."""


class CloseWriter(msgspec.Struct, array_like=True, frozen=True):
    channel: int


class Settle(msgspec.Struct, array_like=True, frozen=True):
    """Messages of a lease that are settled together with what is made of them.

    Parameters
    ----------
    reader, ref, tag : the subscription that they came by, their stream in it, their lease.
    ranges : of seq.
    dead : they are given up (dead letters), in place of acknowledged.
    """

    reader: int
    ref: int
    tag: int
    ranges: Ranges
    dead: bool = False


class Made(msgspec.Struct, array_like=True, frozen=True):
    """What the messages of a put were made of, and what is settled with them: all or nothing.

    A message is known by (`run`, input source, input stream, input seq, k): one that is stored in
    the stream already is not stored again, whatever it holds.

    Parameters
    ----------
    run : that made them (`calls.DefineRun`).
    source, stream : of the inputs.
    seqs : the (first) input of each message.
    ks : which of the results of its input each one is, from 0 on; None: all are 0.
    spans : for each message made of several inputs, the ranges of their seqs as MessagePack
        (`pack_span`); empty for one input. None: all have one.
    settles : what is acknowledged, or given up, with it.
    skips : ids that will never come in the stream that is written.
    """

    run: int
    source: str
    stream: str
    seqs: Numbers
    ks: Numbers | None = None
    spans: Blobs | None = None
    settles: Annotated[tuple[Settle, ...], msgspec.Meta(max_length=limits.NATIVE_BATCH_MAX)] = ()
    skips: Ranges = ()


def pack_span(ranges: tuple[tuple[int, int], ...]) -> bytes:
    """Ranges of seqs as a record keeps them.

    >>> unpack_span(pack_span(((1, 5), (7, 8))))
    ((1, 5), (7, 8))
    """
    return _encode(ranges)


def unpack_span(span: bytes) -> tuple[tuple[int, int], ...]:
    """The ranges of a span; none of an empty one."""
    found: tuple[tuple[int, int], ...] = _decode_span(span) if span else ()
    return found


class Put(msgspec.Struct, array_like=True, frozen=True):
    """`count` messages; their payloads are the body, or lie in granted memory (`place`).

    Parameters
    ----------
    sequence : number of the first in the producer's own counting 1, 2, 3 …; sent again after a
        broken connection, it is stored once.
    id : 0 for automatic ids; else of the first, the others follow. `ids`: each.
    name : stored as a file of that path; only with `count` 1. Empty: kept in the log.
    substream, expected : of a dataset; only with `count` 1.
    made : of results: what they were made of.
    """

    channel: int
    sequence: int
    count: int
    sizes: Numbers
    digests: bytes
    id: int = 0
    ids: Numbers | None = None
    metas: Blobs | None = None
    infos: bytes | Blobs = b""
    name: str = ""
    substream: int = 0
    expected: int = 0
    place: Place | None = None
    made: Made | None = None


class Receipt(msgspec.Struct, array_like=True, frozen=True):
    """The puts `sequence` … `sequence + count - 1` are stored at `level`.

    Their ids are `id`, `id` + 1 … or `ids`; `seq` is that of the first, 0 when they were there
    before (`duplicate`).
    """

    channel: int
    sequence: int
    count: int
    level: int
    id: int
    seq: int = 0
    ids: tuple[int, ...] | None = None
    duplicate: bool = False


class Failed(msgspec.Struct, array_like=True, frozen=True):
    """Puts, or with `sequence` 0 a whole channel, are refused."""

    channel: int
    sequence: int
    count: int
    code: str
    message: str
    hint: str = ""


class Grant(msgspec.Struct, array_like=True, frozen=True):
    """Memory that the writer of `channel` may fill: a range of an arena of its own."""

    channel: int
    arena: int
    offset: int
    nbytes: int
    generation: int


class WantMemory(msgspec.Struct, array_like=True, frozen=True):
    """Asks for a `Grant` of `nbytes`; answered with nbytes 0 when there is none: use the socket."""

    channel: int
    nbytes: int


class ReturnMemory(msgspec.Struct, array_like=True, frozen=True):
    """Grants that the writer of `channel` will not use, by their generations."""

    channel: int
    generations: tuple[int, ...]


class Held(msgspec.Struct, array_like=True, frozen=True):
    """Leases that a client still has when it subscribes again after a broken connection."""

    source: str
    stream: str
    tag: int
    ranges: tuple[tuple[int, int], ...]


class Subscribe(msgspec.Struct, array_like=True, frozen=True):
    """Messages of one stream, or of many, for a group, pushed as credit allows.

    Parameters
    ----------
    stream : name or pattern; unused over a whole source.
    group : empty for a group of its own that is forgotten with the session.
    lease_s : seconds a member has for a message; 0: handed out without a lease.
    attempts_max : deliveries of one message before it is dead; 0: no limit.
    start, start_at : where a new group begins: an id, or nanoseconds since 1970 UTC.
    min_parts, wait_s : of datasets: fewer parts than all are enough after that time, seconds;
        `min_parts` 0: all.
    follow : go on with `next_stream` when a stream is finished.
    payloads : False for descriptions only.
    held : see `Held`.
    exclusive : one member at a time reads a stream; the others stand by.
    sticky : so many ids in a row go to one member (1 … n, n + 1 … 2 n, …); 0: whoever is next.
    key : messages with the same value under this key of their metadata go to one member.
    settled : the member is told how far everything is settled (`Settled`).
    headers : the member is told the header of each stream, and its changes (`Header`).
    """

    channel: int
    source: str
    stream: str
    group: str
    scope: Scope = Scope.STREAM
    mode: Mode = Mode.UNORDERED
    gaps: Gaps = Gaps.WAIT
    start: Start = Start.BEGINNING
    start_at: int = 0
    lease_s: float = 60.0
    attempts_max: int = 0
    credit_messages: int = 0
    credit_nbytes: int = 0
    batch_max: int = 1
    payloads: bool = True
    shared: bool = False
    follow: bool = False
    min_parts: int = 0
    wait_s: float = 0.0
    held: tuple[Held, ...] = ()
    exclusive: bool = False
    sticky: int = 0
    key: str = ""
    settled: bool = False
    headers: bool = False


class Unsubscribe(msgspec.Struct, array_like=True, frozen=True):
    """Ends a subscription; its leases are offered to others at once."""

    channel: int


class StreamOpened(msgspec.Struct, array_like=True, frozen=True):
    """From now on `ref` means this stream, in this subscription.

    `held` are the leases that go on, of those the client named in `Subscribe`.
    """

    channel: int
    ref: int
    source: str
    stream: str
    held: tuple[Held, ...] = ()


class Deliver(msgspec.Struct, array_like=True, frozen=True):
    """Messages of a stream, under one lease (`tag`; 0 without one). The body: their payloads."""

    channel: int
    ref: int
    tag: int
    batch: Batch


class Gap(msgspec.Struct, array_like=True, frozen=True):
    """The ids `lo` … `hi` - 1 were left out."""

    channel: int
    ref: int
    lo: int
    hi: int


class End(msgspec.Struct, array_like=True, frozen=True):
    """Nothing more will come of a stream (`ref`), or of the whole subscription (`ref` -1).

    `reason`: ``finished`` or ``gone`` (deleted). `missing`: ids that never came, if few.
    """

    channel: int
    ref: int
    reason: str
    next_stream: str = ""
    last_id: int = 0
    missing: tuple[tuple[int, int], ...] = ()


class Header(msgspec.Struct, array_like=True, frozen=True):
    """The header (metadata) of a stream: before its first message, and when it has changed.

    `version` counts from 1; 0 with an empty document: there is none.
    """

    channel: int
    ref: int
    version: int
    document: bytes


class Settled(msgspec.Struct, array_like=True, frozen=True):
    """All messages of a stream before `seq` are acknowledged, done or dead for the group."""

    channel: int
    ref: int
    seq: int


class Credit(msgspec.Struct, array_like=True, frozen=True):
    """So many more messages (parts, of datasets) and bytes of payload may be pushed."""

    channel: int
    messages: int
    nbytes: int


class Ack(msgspec.Struct, array_like=True, frozen=True):
    """Ranges of seq of a lease are done. With `call`, answered by `Reply` or `CallFailed`."""

    channel: int
    ref: int
    tag: int
    ranges: Ranges
    call: int = 0


class Nack(msgspec.Struct, array_like=True, frozen=True):
    """Ranges of seq are to be offered again after a delay; counted as an attempt or not."""

    channel: int
    ref: int
    tag: int
    ranges: Ranges
    delay_s: float = 0.0
    counted: bool = True
    call: int = 0


class Extend(msgspec.Struct, array_like=True, frozen=True):
    """A lease is needed longer: `lease_s` seconds from now."""

    channel: int
    ref: int
    tag: int
    lease_s: float


class Unpin(msgspec.Struct, array_like=True, frozen=True):
    """Views of shared memory that the client no longer has."""

    pins: tuple[int, ...]


class HeldPins(msgspec.Struct, array_like=True, frozen=True):
    """Views of shared memory that the client has when it comes again: the others are let go."""

    pins: tuple[int, ...]


class Call(msgspec.Struct, array_like=True, frozen=True):
    """A question (`beamstream.wire.native.calls`)."""

    number: int
    method: str
    params: msgspec.Raw = msgspec.Raw(b"\x80")


class Reply(msgspec.Struct, array_like=True, frozen=True):
    number: int
    result: msgspec.Raw = msgspec.Raw(b"\xc0")


class CallFailed(msgspec.Struct, array_like=True, frozen=True):
    number: int
    code: str
    message: str
    hint: str = ""


class Ping(msgspec.Struct, array_like=True, frozen=True):
    number: int


class Pong(msgspec.Struct, array_like=True, frozen=True):
    number: int
    time_ns: int = 0
    """The node's clock, for `doctor`."""


class Goodbye(msgspec.Struct, array_like=True, frozen=True):
    """The last frame before the connection is closed; `retry` says whether to come again."""

    code: str
    message: str
    hint: str = ""
    retry: bool = False


Frame = (
    Hello
    | Welcome
    | OpenWriter
    | CloseWriter
    | Put
    | Receipt
    | Failed
    | Grant
    | WantMemory
    | ReturnMemory
    | Subscribe
    | Unsubscribe
    | StreamOpened
    | Deliver
    | Gap
    | End
    | Credit
    | Ack
    | Nack
    | Extend
    | Unpin
    | HeldPins
    | Header
    | Settled
    | Call
    | Reply
    | CallFailed
    | Ping
    | Pong
    | Goodbye
)

KINDS: Final[dict[int, type[Any]]] = {
    1: Hello, 2: Welcome, 3: Goodbye, 4: Ping, 5: Pong,
    10: OpenWriter, 11: CloseWriter, 12: Put, 13: Receipt, 14: Failed, 15: Grant, 16: WantMemory,
    17: ReturnMemory,
    20: Subscribe, 21: Unsubscribe, 22: StreamOpened, 23: Deliver, 24: Gap, 25: End, 26: Credit,
    27: Ack, 28: Nack, 29: Extend, 30: Unpin, 31: HeldPins, 32: Header, 33: Settled,
    40: Call, 41: Reply, 42: CallFailed,
}  # fmt: skip
"""Numbers of kinds; never reused."""

_NUMBERS: Final = {frame: number for number, frame in KINDS.items()}
_DECODERS: Final = {number: msgspec.msgpack.Decoder(kind) for number, kind in KINDS.items()}
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_span: Final = msgspec.msgpack.Decoder(Ranges).decode


def encode(frame: Frame, body_nbytes: int = 0) -> bytes:
    """Head and header of a frame; the body, of `body_nbytes`, is sent behind it.

    >>> from beamstream.wire.native.framing import unpack_head
    >>> kind, header, body = unpack_head(encode(Ping(7)))
    >>> KINDS[kind].__name__, body
    ('Ping', 0)
    """
    header = _encode(frame)
    return pack_head(_NUMBERS[type(frame)], len(header), body_nbytes) + header


def decode(kind: int, header: bytes | bytearray | memoryview) -> Frame:
    """The frame of a header.

    Raises
    ------
    RemoteProtocolError : not a frame of that kind, or a kind that is not known.
    """
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise RemoteProtocolError(f"frames of kind {kind} are not known")
    try:
        frame: Frame = decoder.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"a {KINDS[kind].__name__} frame is broken: {error}") from None
    return frame


def first_kinds() -> tuple[int, ...]:
    """Kinds that a client may send before it is welcome."""
    return (_NUMBERS[Hello],)

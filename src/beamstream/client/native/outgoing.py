"""What one writer has on its way: gathering, window, receipts, sending again. Pure.

Small messages gather in a run while another run is on its way, until there are enough of them or
the first has waited for `GATHER_S`; when nothing is on its way they go at once. Runs without a
receipt are kept, and are sent again, whole, over the next connection; the node knows from the
producer's counting what it has already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from beamstream import limits
from beamstream.client.native.faults import fault
from beamstream.client.native.lending import Piece
from beamstream.client.native.origins import Held, Settling, Standing
from beamstream.errors import BadInput, Error
from beamstream.wire.native.frames import CloseWriter, Failed, OpenWriter, Put, Receipt

Buffer = bytes | bytearray | memoryview

GATHER_S: Final = 0.001
GATHER_MESSAGES: Final = 1_024
GATHER_NBYTES: Final = 256 * limits.KIB
SMALL_NBYTES: Final = 64 * limits.KIB
"""Payloads below are copied and may gather; from this size on they are sent from where they are."""

METAS_NBYTES: Final = 1 * limits.MIB
"""Metadata travel in the header of a frame, which is bounded."""

WINDOW_MESSAGES: Final = 65_536
FAULTS_KEPT: Final = 1_000
_EMPTY: Final = b"{}"


class Fate:
    """What became of the messages from `sequence` on: stored under ids, or refused."""

    __slots__ = ("duplicate", "error", "id", "ids", "level", "seen", "seq", "sequence")

    def __init__(self, sequence: int, frame: Receipt | None = None, error: Error | None = None):
        self.sequence = sequence
        self.error = error
        self.seen = False
        """Somebody has been told of the error."""
        self.id = frame.id if frame else 0
        self.ids = frame.ids if frame else None
        self.seq = frame.seq if frame else 0
        self.level = frame.level if frame else -1
        self.duplicate = frame.duplicate if frame else False

    def id_of(self, sequence: int) -> int:
        index = sequence - self.sequence
        return self.ids[index] if self.ids is not None else self.id + index


class Run:
    """Messages that travel in one frame; `put` is there when no further one may join them."""

    __slots__ = (
        "buffers",
        "count",
        "fates",
        "first",
        "left",
        "listeners",
        "nbytes",
        "piece",
        "put",
        "settling",
        "tries",
        "whole",
    )

    def __init__(self, first: int) -> None:
        self.first = first
        self.count = 0
        self.nbytes = 0
        self.left = 0
        """Messages whose fate is not known."""
        self.put: Put | None = None
        self.buffers: Sequence[Buffer] = ()
        self.piece: Piece | None = None
        """The memory of the node that its payload is in."""
        self.settling: Settling | None = None
        """What is settled with it."""
        self.whole: Fate | None = None
        self.fates: list[Fate | None] | None = None
        self.tries = 0
        self.listeners: list[Callable[[], None]] = []

    def fate(self, index: int) -> Fate | None:
        if self.whole is not None:
            return self.whole
        return self.fates[index] if self.fates is not None else None

    def settle(self, lo: int, hi: int, fate: Fate) -> int:
        """Note the fate of sequences `lo` … `hi` - 1; return how many had none."""
        first, last = max(lo - self.first, 0), min(hi - self.first, self.count)
        if first >= last or not self.left:
            return 0
        if last - first == self.left == self.count:
            self.whole, self.left = fate, 0
            return self.count
        if self.fates is None:
            self.fates = [None] * self.count
        settled = 0
        for index in range(first, last):
            if self.fates[index] is None:
                self.fates[index] = fate
                settled += 1
        self.left -= settled
        return settled


class _Columns:
    """Messages that gather."""

    __slots__ = (
        "automatic",
        "began",
        "digests",
        "ids",
        "infos",
        "metas",
        "metas_nbytes",
        "nbytes",
        "payloads",
    )

    def __init__(self, now: float, automatic: bool) -> None:
        self.began = now
        self.automatic = automatic
        self.payloads: list[Buffer] = []
        self.digests: list[bytes] = []
        self.metas: list[bytes] = []
        self.infos: list[bytes] = []
        self.ids: list[int] = []
        self.nbytes = 0
        self.metas_nbytes = 0


class Outgoing:
    """The puts of one writer.

    Parameters
    ----------
    opening : how the node is told of the writer, after every connection.
    listener : called when something has come back, or there is room again.
    """

    def __init__(
        self, opening: OpenWriter, listener: Callable[[], None], *, batch_max: int, window: int
    ) -> None:
        self.opening = opening
        self.listener = listener
        self.batch_max = max(1, min(batch_max, limits.NATIVE_BATCH_MAX))
        self.window_nbytes = window
        self.messages = 0
        """Messages without a fate, of `nbytes` bytes."""
        self.nbytes = 0
        self.faults: deque[Fate] = deque(maxlen=FAULTS_KEPT)
        self.error: Error | None = None
        """Why nothing more can be sent."""
        self._next = 1
        self._columns: _Columns | None = None
        self._gathering: Run | None = None
        self._ready: deque[Run] = deque()
        self._sent: deque[Run] = deque()

    # ------------------------------------------------------------------ adding

    def has_room(self, messages: int, nbytes: int) -> bool:
        """Whether so much more may be on its way; what is larger than the window goes alone."""
        if not self.messages:
            return True
        return (
            self.messages + messages <= WINDOW_MESSAGES
            and self.nbytes + nbytes <= self.window_nbytes
        )

    def add(
        self, payload: Buffer, digest: bytes, meta: bytes, info: bytes, id: int, now: float
    ) -> tuple[Run, int]:
        """Let a small message join those that gather; return its run and its place there."""
        columns, run = self._columns, self._gathering
        if columns is None or run is None or columns.automatic is bool(id):
            self.seal()
            columns = self._columns = _Columns(now, not id)
            run = self._gathering = Run(self._next)
        index = run.count
        columns.payloads.append(payload)
        columns.digests.append(digest)
        columns.metas.append(meta)
        columns.infos.append(info)
        if id:
            columns.ids.append(id)
        nbytes = len(payload)
        columns.nbytes += nbytes
        columns.metas_nbytes += len(meta)
        run.count += 1
        run.left += 1
        self._next += 1
        self._count(1, nbytes)
        if (
            run.count >= min(GATHER_MESSAGES, self.batch_max)
            or columns.nbytes >= GATHER_NBYTES
            or columns.metas_nbytes >= METAS_NBYTES
        ):
            self.seal()
        return run, index

    def add_run(
        self, put: Put, buffers: Sequence[Buffer], nbytes: int, held: Sequence[Held] = ()
    ) -> Run:
        """Add messages that are one frame; `put.sequence` and `put.channel` are filled in.

        With `held` it is sent when the streams of those leases are open, and settles them.
        """
        self.seal()
        run = Run(self._next)
        run.count = run.left = put.count
        run.put, run.buffers, run.nbytes = (
            _numbered(put, self.opening.channel, run.first),
            buffers,
            nbytes,
        )
        self._next += put.count
        self._count(put.count, nbytes)
        if held:
            run.settling = Settling(held)
        self._ready.append(run)
        return run

    def seal(self) -> None:
        """No further message joins those that have gathered."""
        run, columns = self._gathering, self._columns
        if run is None or columns is None:
            return
        self._gathering = self._columns = None
        ids = columns.ids
        in_a_row = not ids or (
            ids[-1] - ids[0] + 1 == len(ids) and ids == list(range(ids[0], ids[-1] + 1))
        )
        run.nbytes = columns.nbytes
        run.buffers = [b"".join(columns.payloads)] if run.count > 1 else columns.payloads
        run.put = Put(
            channel=self.opening.channel,
            sequence=run.first,
            count=run.count,
            sizes=tuple(map(len, columns.payloads)),
            digests=b"".join(columns.digests),
            id=ids[0] if ids and in_a_row else 0,
            ids=None if in_a_row else tuple(ids),
            metas=meta_column(columns.metas),
            infos=info_column(columns.infos),
        )
        self._ready.append(run)

    # ------------------------------------------------------------------ sending

    @property
    def idle(self) -> bool:
        """Nothing is on its way."""
        return not self._sent

    def due(self, now: float) -> bool:
        """Whether `take` has something to send."""
        if self._ready:
            settling = self._ready[0].settling
            return settling is None or settling.standing(now) is not Standing.WAITING
        if self._columns is None:
            return False
        return not self._sent or now >= self._columns.began + GATHER_S

    def due_at(self) -> float | None:
        """When those that gather, or wait for their leases, have waited long enough."""
        if self._ready:
            settling = self._ready[0].settling
            return settling.until() if settling is not None else None
        return self._columns.began + GATHER_S if self._columns is not None else None

    def take(self, now: float) -> Run | None:
        """The next run to send; from now on it is on its way."""
        while self.due(now):
            if not self._ready:
                self.seal()
            run = self._ready.popleft()
            self._sent.append(run)
            settling = run.settling
            if settling is None:
                return run
            if settling.standing(now) is Standing.READY:
                self._name(run, settling)
                return run
            self.settle(run.first, run.count, Fate(run.first, error=settling.stale()))
        return None

    @staticmethod
    def _name(run: Run, settling: Settling) -> None:
        """Leases have other names in each connection."""
        if run.put is not None and run.put.made is not None:
            made = msgspec.structs.replace(run.put.made, settles=settling.frames())
            run.put = msgspec.structs.replace(run.put, made=made)

    def lost(self) -> None:
        """The connection is gone: all without a receipt is to be sent again, in order."""
        self._ready.extendleft(reversed(self._sent))
        self._sent.clear()
        for run in self._ready:
            if run.put is not None and run.put.place is not None:
                # The node has forgotten what it had granted: it goes by the socket.
                run.put = msgspec.structs.replace(run.put, place=None)

    def close(self) -> CloseWriter:
        return CloseWriter(self.opening.channel)

    # ------------------------------------------------------------------ coming back

    def receipt(self, frame: Receipt) -> None:
        self.settle(frame.sequence, frame.count, Fate(frame.sequence, frame))

    def refused(self, frame: Failed) -> None:
        """Puts are refused, or (sequence 0) the whole writer is."""
        error = fault(frame.code, frame.message, frame.hint)
        if frame.sequence:
            self.settle(frame.sequence, frame.count, Fate(frame.sequence, error=error))
        else:
            self.fail(error)

    def fail(self, error: Error) -> None:
        """Nothing that is on its way will get there, and nothing more can be sent."""
        self.seal()
        self.error = self.error or error
        self._sent.extend(self._ready)
        self._ready.clear()
        if self._sent:
            first = self._sent[0].first
            self.settle(first, self._next - first, Fate(first, error=error))
        self.listener()

    def settle(self, sequence: int, count: int, fate: Fate) -> None:
        """Note what became of `count` messages."""
        lo, hi = sequence, sequence + count
        listeners: list[Callable[[], None]] = []
        failed = False
        for run in self._sent:
            if run.first >= hi:
                break
            settled = run.settle(lo, hi, fate)
            if settled and fate.error is not None:
                failed = True
            if settled:
                self.messages -= settled
                if not run.left:
                    self.nbytes -= run.nbytes
                    run.buffers, run.put = (), None
                    if run.piece is not None:
                        run.piece.release()
                        run.piece = None
                    if run.settling is not None:
                        run.settling.finish(_error_of(run))
                listeners += run.listeners
        while self._sent and not self._sent[0].left:
            self._sent.popleft()
        if failed:
            self.faults.append(fate)
        self.listener()
        for call in listeners:
            call()

    def _count(self, messages: int, nbytes: int) -> None:
        if self.error is not None:
            raise type(self.error)(self.error.message, hint=self.error.hint)
        self.messages += messages
        self.nbytes += nbytes


def meta_column(metas: Sequence[bytes]) -> tuple[bytes, ...] | None:
    """Metadata as a column; None when all are empty.

    >>> meta_column([b"", b'{"a":1}'])
    (b'{}', b'{"a":1}')
    """
    if not any(metas):
        return None
    return tuple([meta or _EMPTY for meta in metas])


def info_column(infos: Sequence[bytes]) -> bytes | tuple[bytes, ...]:
    """Descriptions as a column; one when all are the same.

    >>> info_column([b"x", b"x"])
    b'x'
    """
    first = infos[0]
    return first if infos.count(first) == len(infos) else tuple(infos)


def check_id(id: int) -> int:
    """Return `id` if a message may have it.

    Raises
    ------
    BadInput : it may not.
    """
    if not 1 <= id <= limits.ID_MAX:
        raise BadInput(f"{id} is not an id of a message", hint="ids start at 1; None: automatic")
    return id


def _numbered(put: Put, channel: int, sequence: int) -> Put:
    return Put(
        channel,
        sequence,
        put.count,
        put.sizes,
        put.digests,
        put.id,
        put.ids,
        put.metas,
        put.infos,
        put.name,
        put.substream,
        put.expected,
        put.place,
        put.made,
    )


def _error_of(run: Run) -> Error | None:
    """Why a run whose fate is known is not stored; None if all of it is."""
    fates = [run.whole] if run.whole is not None else run.fates or []
    return next((fate.error for fate in fates if fate is not None and fate.error), None)

"""Messages as they came, and the leases that they are held by. Pure."""

from __future__ import annotations

from beamstream.client.native import spans
from beamstream.client.native.faults import fault
from beamstream.client.native.spans import Spans
from beamstream.errors import DataLost, Error
from beamstream.wire.native.batches import Batch


class Lease:
    """Messages that this client has until `until` (monotonic seconds), under one tag."""

    __slots__ = ("alive", "epoch", "left", "ref", "source", "stream", "tag", "until")

    def __init__(
        self, source: str, stream: str, ref: int, tag: int, epoch: int, until: float
    ) -> None:
        self.source = source
        self.stream = stream
        self.ref = ref
        self.tag = tag
        self.epoch = epoch
        self.until = until
        self.left: Spans = []
        """Seqs that the node has not confirmed as done."""
        self.alive = True


class Arrived:
    """Messages that came in one frame."""

    __slots__ = ("batch", "body", "lease", "lost", "offsets", "source", "stream", "views")

    def __init__(
        self,
        source: str,
        stream: str,
        batch: Batch,
        body: memoryview,
        lease: Lease | None,
        damaged: dict[int, Error],
        views: list[memoryview] | None = None,
    ) -> None:
        self.source = source
        self.stream = stream
        self.batch = batch
        self.body = body
        self.lease = lease
        self.views = views
        """Payloads in shared memory."""
        self.offsets = batch.offsets() if batch.payloads and batch.places is None else []
        self.lost = damaged
        for gone in batch.lost:
            self.lost[gone.index] = fault(gone.code, gone.message, gone.hint)

    @property
    def items(self) -> int:
        """How many messages or datasets there are."""
        datasets = self.batch.datasets
        return self.batch.count if datasets is None else len(datasets)

    def seq(self, item: int) -> int:
        """Seq of a message, or of a whole dataset."""
        batch = self.batch
        if batch.datasets is not None:
            return batch.datasets[item].seq
        return batch.seqs[item] if batch.seqs is not None else batch.seq + item

    def spans(self, lo: int = 0, hi: int | None = None) -> Spans:
        """Ranges of seqs of items `lo` … `hi` - 1."""
        batch = self.batch
        if batch.datasets is None and batch.seqs is None:
            return [(batch.seq + lo, batch.seq + (batch.count if hi is None else hi))]
        return spans.of_numbers(map(self.seq, range(lo, self.items if hi is None else hi)))

    @property
    def nbytes(self) -> int:
        return sum(self.batch.sizes) if self.batch.payloads else 0

    def payload(self, index: int) -> memoryview:
        """Payload of a message, or of a part of a dataset.

        Raises
        ------
        DataLost, Corrupt : it cannot be had.
        """
        if self.lost and index in self.lost:
            error = self.lost[index]
            raise type(error)(error.message, hint=error.hint)
        if self.views is not None:
            return self.views[index]
        if not self.offsets:
            raise DataLost(
                f"message {self.seq(0)} of stream {self.stream!r} came without payload",
                hint="subscribe with payloads=True, or fetch it by its id",
            )
        return self.body[self.offsets[index] : self.offsets[index + 1]]

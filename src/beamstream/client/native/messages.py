"""What a reader is handed: messages, datasets, whole batches, gaps and ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from beamstream import limits
from beamstream.client.native.arrived import Arrived
from beamstream.client.native.events import End, Gap
from beamstream.client.native.origins import Held
from beamstream.errors import BadInput, DataLost, LocalProtocolError
from beamstream.wire import payload, payload_formats
from beamstream.wire.native.batches import DIGEST_NBYTES
from beamstream.wire.native.batches import Part as Row

if TYPE_CHECKING:
    from beamstream.client.native.subscription import Subscription

__all__ = [
    "Batch",
    "Columns",
    "DatasetMessage",
    "End",
    "Gap",
    "Message",
    "Part",
    "arrays_of",
    "each",
]

Array = np.ndarray[Any, Any]
_decode_json: Final = msgspec.json.Decoder(dict[str, Any]).decode


class Columns:
    """One run of messages, looked at by index."""

    __slots__ = ("arrived",)

    def __init__(self, arrived: Arrived) -> None:
        self.arrived = arrived

    def id(self, index: int) -> int:
        batch = self.arrived.batch
        return batch.ids[index] if batch.ids is not None else batch.id + index

    def meta(self, index: int) -> dict[str, Any]:
        metas = self.arrived.batch.metas
        return _decode_json(metas[index]) if metas is not None else {}

    def name(self, index: int) -> str:
        names = self.arrived.batch.names
        return names[index] if names is not None else ""

    def timestamp_ns(self, index: int) -> int:
        times = self.arrived.batch.timestamps_ns
        return times if isinstance(times, int) else times[index]

    def info(self, index: int) -> bytes:
        infos = self.arrived.batch.infos
        return infos if isinstance(infos, bytes) else infos[index]

    def delivery(self, item: int) -> int:
        deliveries = self.arrived.batch.deliveries
        return deliveries[item] if deliveries is not None else 1

    def digest(self, index: int) -> bytes:
        return self.arrived.batch.digests[index * DIGEST_NBYTES : (index + 1) * DIGEST_NBYTES]

    def array(self, index: int, dataset: str | None = None) -> Array:
        info = payload.unpack_info(self.info(index))
        data = self.arrived.payload(index)
        if info is not None:
            return payload.decode(info, data)
        return payload_formats.read_array(self.meta(index), self.name(index), data, dataset=dataset)

    def arrays(self, lo: int, hi: int) -> Array | None:
        """Payloads `lo` … `hi` - 1 as one array, without a copy; None: they are not all alike."""
        arrived, infos = self.arrived, self.arrived.batch.infos
        info = payload.unpack_info(infos) if isinstance(infos, bytes) else None
        if info is None or info.codec != "raw" or arrived.lost or not arrived.offsets:
            return None
        together = payload.ArrayInfo(info.dtype, (hi - lo, *info.shape))
        body = arrived.body[arrived.offsets[lo] : arrived.offsets[hi]]
        return payload.decode(together, body, nbytes_max=limits.ARRAY_NBYTES_MAX)


class _Held:
    """A message or dataset: one item of a run, and what its reader may say about it."""

    __slots__ = ("_columns", "_item", "_reader")

    def __init__(self, columns: Columns, item: int, reader: Subscription | None) -> None:
        self._columns = columns
        self._item = item
        self._reader = reader

    @property
    def seq(self) -> int:
        """Its number in the order of arrival."""
        return self._columns.arrived.seq(self._item)

    @property
    def source(self) -> str:
        return self._columns.arrived.source

    @property
    def stream(self) -> str:
        return self._columns.arrived.stream

    @property
    def delivery(self) -> int:
        """How often it was handed to this group, this time included."""
        return self._columns.delivery(self._item)

    def ack(self) -> None:
        """It is done; with ``ack="auto"`` the next turn of the loop says so."""
        self._member().done(self._columns.arrived, self._item, self._item + 1)

    def nack(self, delay: float = 0.0) -> None:
        """It has failed: offer it again, to anyone, after `delay` seconds."""
        self._member().give_back(self._columns.arrived, self._item, delay, counted=True)

    def defer(self, delay: float = 0.0) -> None:
        """It is not the time yet: as `nack`, but does not count as an attempt."""
        self._member().give_back(self._columns.arrived, self._item, delay, counted=False)

    def held(self) -> Held:
        """Its lease, to be settled with what is made of it (`Writer.publish`, `Writer.settle`).

        The next turn of the loop does not acknowledge it then.
        """
        return self._member().held(self._columns.arrived, self._item, self._item + 1)

    def extend(self, seconds: float) -> None:
        """It is needed for `seconds` from now on."""
        self._member().extend(self._columns.arrived, seconds)

    def _member(self) -> Subscription:
        if self._reader is None:
            raise LocalProtocolError(
                f"a message of stream {self.stream!r} was looked up, not handed to a group",
                hint="only messages of a group are acknowledged",
            )
        return self._reader


class Message(_Held):
    """One message. What costs something is made when it is looked at."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Message {self.id} of {self.source}/{self.stream}, {self.size} bytes>"

    @property
    def id(self) -> int:
        return self._columns.id(self._item)

    @property
    def name(self) -> str:
        """Path as its writer gave it; empty for none."""
        return self._columns.name(self._item)

    @property
    def size(self) -> int:
        """nbytes of the payload."""
        return self._columns.arrived.batch.sizes[self._item]

    @property
    def meta(self) -> dict[str, Any]:
        """Metadata, read anew at each look."""
        return self._columns.meta(self._item)

    @property
    def timestamp_ns(self) -> int:
        """When the node took it, nanoseconds since 1970 UTC."""
        return self._columns.timestamp_ns(self._item)

    @property
    def timestamp(self) -> datetime:
        """When the node took it, UTC."""
        return datetime.fromtimestamp(self.timestamp_ns / 1e9, UTC)

    @property
    def digest(self) -> bytes:
        """XXH3-128 of the payload, 16 bytes."""
        return self._columns.digest(self._item)

    @property
    def lost(self) -> bool:
        """Whether its payload is gone or damaged; looking at it says why."""
        return self._item in self._columns.arrived.lost

    @property
    def data(self) -> memoryview:
        """Payload, read-only.

        Raises
        ------
        DataLost, Corrupt : it cannot be had.
        """
        return self._columns.arrived.payload(self._item)

    def array(self, dataset: str | None = None) -> Array:
        """Payload as an array, read-only; without a copy where it was sent raw.

        Parameters
        ----------
        dataset : path within an HDF5 payload.

        Raises
        ------
        BadInput : it is no array.
        DataLost, Corrupt : it cannot be had.
        """
        return self._columns.array(self._item, dataset)


class Part(Message):
    """A message of a dataset."""

    __slots__ = ()

    @property
    def substream(self) -> int:
        """Which part it is, 1, 2 …"""
        substreams = self._columns.arrived.batch.substreams
        return substreams[self._item] if substreams is not None else self._item + 1

    @property
    def seq(self) -> int:
        return 0


class DatasetMessage(_Held):
    """Messages of one id from several substreams."""

    __slots__ = ("_first",)

    def __init__(
        self, columns: Columns, item: int, reader: Subscription | None, first: int
    ) -> None:
        super().__init__(columns, item, reader)
        self._first = first

    def __repr__(self) -> str:
        return f"<Dataset {self.id} of {self.source}/{self.stream}, {len(self)}/{self.expected}>"

    def __len__(self) -> int:
        return self._row.present

    @property
    def _row(self) -> Row:
        datasets = self._columns.arrived.batch.datasets
        assert datasets is not None
        return datasets[self._item]

    @property
    def id(self) -> int:
        return self._row.id

    @property
    def expected(self) -> int:
        """How many parts make it complete."""
        return self._row.expected

    @property
    def complete(self) -> bool:
        return len(self) >= self.expected

    @property
    def parts(self) -> list[Part]:
        """The parts that are there, by substream."""
        indexes = range(self._first, self._first + len(self))
        return [Part(self._columns, index, None) for index in indexes]

    @property
    def missing(self) -> list[int]:
        """Substreams that are not there."""
        present = {part.substream for part in self.parts}
        return [number for number in range(1, self.expected + 1) if number not in present]

    @property
    def meta(self) -> dict[str, Any]:
        """Metadata of the first part that is there."""
        return self.parts[0].meta

    def __getitem__(self, substream: int) -> Part:
        """Part `substream` (1, 2 …); `LookupError` if it is not there."""
        for part in self.parts:
            if part.substream == substream:
                return part
        raise DataLost(f"dataset {self.id} of stream {self.stream!r} has no part {substream}")

    def array(self, substream: int) -> Array:
        """Part `substream` (1, 2 …) as an array."""
        return self[substream].array()


class Batch:
    """A run of messages as columns."""

    def __init__(self, arrived: Arrived, reader: Subscription | None) -> None:
        self._columns = Columns(arrived)
        self._arrived = arrived
        self._reader = reader

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} messages of {self.source}/{self.stream}>"

    def __len__(self) -> int:
        """Messages, or datasets."""
        return self._arrived.items

    def __iter__(self) -> Iterator[Message | DatasetMessage]:
        return each(self._columns, self._reader)

    @property
    def source(self) -> str:
        return self._arrived.source

    @property
    def stream(self) -> str:
        return self._arrived.stream

    @property
    def ids(self) -> Sequence[int]:
        batch = self._arrived.batch
        if batch.datasets is not None:
            return [part.id for part in batch.datasets]
        return batch.ids if batch.ids is not None else range(batch.id, batch.id + batch.count)

    @property
    def seqs(self) -> Sequence[int]:
        """Numbers in the order of arrival, of messages or datasets."""
        batch = self._arrived.batch
        if batch.datasets is not None:
            return [part.seq for part in batch.datasets]
        return batch.seqs if batch.seqs is not None else range(batch.seq, batch.seq + batch.count)

    @property
    def sizes(self) -> Sequence[int]:
        """nbytes of each payload."""
        return self._arrived.batch.sizes

    @property
    def metas(self) -> list[dict[str, Any]]:
        """Metadata of each, read anew at each look."""
        metas = self._arrived.batch.metas
        if metas is None:
            return [{} for _ in range(self._arrived.batch.count)]
        return [_decode_json(text) for text in metas]

    @property
    def nbytes(self) -> int:
        """nbytes of all payloads."""
        return self._arrived.nbytes

    def payload(self, index: int) -> memoryview:
        """Payload `index` (0, 1 …); raises `DataLost` or `Corrupt` if it cannot be had."""
        return self._arrived.payload(index)

    def payloads(self) -> list[memoryview]:
        """All payloads."""
        return [self._arrived.payload(index) for index in range(self._arrived.batch.count)]

    def arrays(self) -> Array:
        """All payloads as one array.

        Returns
        -------
        ndarray, shape (n, *shape of one), read-only; without a copy where they were sent raw.

        Raises
        ------
        BadInput : they differ in dtype or shape.
        """
        count = self._arrived.batch.count
        together = self._columns.arrays(0, count)
        if together is not None:
            return together
        found = [self._columns.array(index) for index in range(count)]
        if any(one.shape != found[0].shape or one.dtype != found[0].dtype for one in found):
            raise BadInput(
                f"arrays of stream {self.stream!r} differ in shape or dtype",
                hint="look at them one by one: `for message in batch`",
            )
        return np.stack(found)

    def ack(self) -> None:
        """All of it is done."""
        if self._reader is not None:
            self._reader.done(self._arrived, 0, len(self))

    def held(self, lo: int = 0, hi: int | None = None) -> Held:
        """The lease of messages, or datasets, `lo` … `hi` - 1, to be settled with what is made
        of them (`Writer.publish`, `Writer.settle`)."""
        last = len(self) if hi is None else hi
        if not 0 <= lo < last <= len(self) or self._reader is None:
            raise BadInput(f"a batch of {len(self)} has no messages {lo} … {last} that are leased")
        return self._reader.held(self._arrived, lo, last)


def arrays_of(messages: Sequence[Message]) -> list[Array]:
    """The payloads of messages as arrays; those of neighbours that are alike are read as one."""
    first = messages[0]
    columns, lo = first._columns, first._item
    hi = lo + len(messages)
    if all(one._columns is columns for one in messages) and (
        [one._item for one in messages] == list(range(lo, hi))
    ):
        together = columns.arrays(lo, hi)
        if together is not None and together.ndim > 1:
            return list(together)
    return [one.array() for one in messages]


def each(columns: Columns, reader: Subscription | None) -> Iterator[Message | DatasetMessage]:
    """The messages, or datasets, of a run."""
    datasets = columns.arrived.batch.datasets
    if datasets is None:
        for index in range(columns.arrived.batch.count):
            yield Message(columns, index, reader)
        return
    first = 0
    for item, row in enumerate(datasets):
        yield DatasetMessage(columns, item, reader, first)
        first += row.present

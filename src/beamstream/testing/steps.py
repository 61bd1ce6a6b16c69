"""Steps without a node: what a step makes of some frames, in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from beamstream.client.native import packing
from beamstream.client.native.arrived import Arrived
from beamstream.client.native.events import Header, Settled, StreamEnd
from beamstream.client.native.messages import Batch, DatasetMessage, Message
from beamstream.errors import Error
from beamstream.model import NO_META
from beamstream.wire.native import batches
from beamstream.worker.calling import Code, Input
from beamstream.worker.engine import Engine, Stopped
from beamstream.worker.policy import OnError
from beamstream.worker.runs import RunBook, code_version, run_document
from beamstream.worker.steps import Step
from beamstream.worker.works import Publication, keeps_ids

__all__ = ["Made", "as_batch", "run_step"]

SOURCE: Final = "test"
BATCH: Final = 64


class Made(msgspec.Struct, frozen=True):
    """A message that a step made.

    Parameters
    ----------
    id : that it would have in its stream.
    data : payload, as the step gave it.
    meta : metadata, those of the input included where they go along.
    name : of the file, if any.
    inputs : ids of what it was made of; of a window the first one.
    k : which of the results of its input it is.
    """

    id: int
    data: Any
    meta: dict[str, Any]
    name: str = ""
    inputs: tuple[int, ...] = ()
    k: int = 0


def run_step(
    step: Step,
    frames: Sequence[Any],
    *,
    header: Mapping[str, Any] | None = None,
    metas: Sequence[Mapping[str, Any]] | None = None,
    ids: Sequence[int] | None = None,
    stream: str = "stream",
    **parameters: Any,
) -> list[Made]:
    """What a step makes of a stream of frames: called as a worker calls it, without a node.

    Parameters
    ----------
    frames : arrays, bytes, or messages; for a join a list of arrays each, None for a missing part.
    header : metadata of the stream.
    metas, ids : of each frame; ids are 1, 2 … without.
    parameters : of the step, as the step gets them or as a pipeline file has them.

    Returns
    -------
    list of Made : in the order in which they would be published.

    Raises
    ------
    Exception : what the step raises; nothing is tried again.
    BadParameter : parameters that the step does not take.

    >>> import numpy as np
    >>> from beamstream.worker import step
    >>> @step(reads="eiger", writes="sums")
    ... def total(frame, *, scale: float = 1.0):
    ...     return None if frame[0, 0] else frame.sum() * scale
    >>> [made.data for made in run_step(total, [np.ones((2, 2)), np.zeros((2, 2))], scale=2)]
    [array(0.)]
    """
    port = _Memory(step)
    book = RunBook(
        lambda values, version, header_version: run_document(
            step, step.name, code_version(step), values,
            parameters_version=version, header_version=header_version,
        ),
        port.run,
    )  # fmt: skip
    code = Code(step, parameters)
    engine = Engine(
        step, code, port, book, step_id=step.name, worker="test", on_error=OnError(then="stop"),
        clock=time.monotonic, time_ns=time.time_ns, pause=lambda seconds: True,
        writes=step.writes or SOURCE,
    )  # fmt: skip
    try:
        if header:
            engine.handle(Header(SOURCE, stream, 1, dict(header)))
        if step.output == "ordered":
            engine.handle(Settled(SOURCE, stream, len(frames) + 1))
        last = 0
        for batch in _batches(step, frames, metas, ids, stream):
            last = max(last, *(one.id for one in batch))
            port.ids.update({one.seq: one.id for one in batch})
            engine.handle(batch)
        engine.handle(StreamEnd(SOURCE, stream, "finished", "", last))
        engine.drain()
    except Stopped:
        assert engine.error is not None
        raise engine.error from None
    finally:
        code.close()
    if engine.error is not None:
        raise engine.error
    return port.made


# ------------------------------------------------------------------------------ frames


class _Given(Batch):
    """Messages that somebody has, as a batch."""

    def __init__(self, items: Sequence[Input]) -> None:
        first = items[0]
        super().__init__(first._columns.arrived, None)
        self._items = list(items)

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Input]:
        return iter(self._items)


def _batches(
    step: Step,
    frames: Sequence[Any],
    metas: Sequence[Mapping[str, Any]] | None,
    ids: Sequence[int] | None,
    stream: str,
) -> Iterator[Batch]:
    numbers = list(ids) if ids is not None else list(range(1, len(frames) + 1))
    for at in range(0, len(frames), BATCH):
        some = list(frames[at : at + BATCH])
        if all(isinstance(one, Message | DatasetMessage) for one in some):
            yield _Given(some)
            continue
        yield as_batch(
            some,
            ids=numbers[at : at + BATCH],
            metas=None if metas is None else metas[at : at + BATCH],
            seq=at + 1,
            source=SOURCE,
            stream=stream,
            datasets=step.inputs > 1,
        )


def as_batch(
    frames: Sequence[Any],
    *,
    ids: Sequence[int],
    metas: Sequence[Mapping[str, Any]] | None = None,
    seq: int = 1,
    source: str = SOURCE,
    stream: str = "stream",
    datasets: bool = False,
) -> Batch:
    """Frames as a reader gets them.

    Parameters
    ----------
    seq : of the first one.
    datasets : each frame is a list of parts, None for a missing one.
    """
    parts = [list(frame) if datasets else [frame] for frame in frames]
    present = [[(k, one) for k, one in enumerate(row, 1) if one is not None] for row in parts]
    packed = [packing.pack(one) for row in present for _, one in row]
    texts = None
    if metas is not None:
        written = [packing.pack_meta(dict(meta)) or NO_META for meta in metas]
        texts = tuple(text for text, row in zip(written, present, strict=True) for _ in row)
    rows = tuple(
        batches.Part(seq + k, id, len(parts[k]), len(present[k])) for k, id in enumerate(ids)
    )
    batch = batches.Batch(
        count=len(packed),
        seq=seq,
        id=ids[0],
        sizes=tuple(len(one.buffer) for one in packed),
        digests=b"".join(packing.digest(one.buffer) for one in packed),
        timestamps_ns=time.time_ns(),
        ids=tuple(id for id, row in zip(ids, present, strict=True) for _ in row),
        metas=texts,
        infos=tuple(one.info for one in packed),
        substreams=tuple(k for row in present for k, _ in row) if datasets else None,
        datasets=rows if datasets else None,
    )
    body = memoryview(b"".join(one.buffer for one in packed))
    return Batch(Arrived(source, stream, batch, body, None, {}), None)


# -------------------------------------------------------------------------------- port


class _Answered:
    def done(self) -> bool:
        return True

    def exception(self, timeout: float | None = None) -> Error | None:
        return None


class _Memory:
    """The engine's port, in memory."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self.made: list[Made] = []
        self.ids: dict[int, int] = {}
        """Of inputs, by seq."""

    def publish(self, made: Publication) -> _Answered:
        for k, data in enumerate(made.values):
            meta = made.metas[k]
            text = meta if isinstance(meta, bytes) else packing.pack_meta(meta)
            self.made.append(
                Made(
                    id=made.ids[k] if made.ids is not None else len(self.made) + 1,
                    data=data,
                    meta=msgspec.json.decode(text) if text else {},
                    name=made.name,
                    inputs=(self.ids[made.seqs[k]],),
                    k=made.ks[k] if made.ks is not None else 0,
                )
            )
        return _Answered()

    def acknowledge(self, inputs: Sequence[Input]) -> None:
        return

    def give_back(self, message: Input, delay_s: float, *, counted: bool) -> None:
        return

    def fail(
        self, message: Input, inputs: Sequence[Input], run: int, meta: dict[str, Any]
    ) -> _Answered:
        return _Answered()

    def finish(self, stream: str, last_id: int | None, next_stream: str) -> None:
        assert (last_id is not None) == keeps_ids(self._step)

    def close(self, stream: str) -> None:
        return

    def run(self, document: Mapping[str, Any]) -> int:
        return 1

    def read_to_its_end(self, source: str, stream: str, id: int) -> bool:
        return False

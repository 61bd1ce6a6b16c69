"""Inputs with what became of them, and how several of them are published as one unit. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from beamstream import limits
from beamstream.client.native.messages import DatasetMessage, Message
from beamstream.wire.native.frames import pack_span
from beamstream.worker.calling import Input
from beamstream.worker.results import Result
from beamstream.worker.steps import Step

AT_THE_END: Final = limits.RESULTS_MAX * 1_000
"""Results of the end of a stream count from here on, as results of its last input."""

Ranges = tuple[tuple[int, int], ...]


class Work:
    """One input, or the inputs of one window, and the results.

    Attributes
    ----------
    inputs : messages that are settled with it; none at the end of a stream.
    seq, id : of the (first) input; for a window the number of its block of ids.
    run : that made the results.
    first_k : which result of its input the first one is.
    """

    __slots__ = ("first_k", "id", "inputs", "nbytes", "results", "run", "seq", "source", "stream")

    def __init__(
        self,
        inputs: Sequence[Input],
        results: list[Result],
        run: int,
        *,
        id: int = 0,
        first_k: int = 0,
        like: Input | None = None,
    ) -> None:
        first = like if like is not None else inputs[0]
        self.inputs = inputs
        self.results = results
        self.run = run
        self.source, self.stream = first.source, first.stream
        self.seq = first.seq
        self.id = id or first.id
        self.first_k = first_k
        self.nbytes = sum([result.nbytes for result in results])

    def __repr__(self) -> str:
        count = len(self.results)
        return f"<Work on {self.id} of {self.source}/{self.stream}: {count} results>"


class Publication(NamedTuple):
    """What goes to the node as one unit.

    Parameters
    ----------
    source, stream, run : of the inputs; who made it.
    values, metas, name : messages; one with a name is alone.
    ids : of each; None: automatic.
    seqs, ks, spans : as in `beamstream.client.native.origins.Origin`.
    skips : ids of the output that will not come.
    settles : messages of which nothing else is to be done.
    """

    source: str
    stream: str
    run: int
    values: list[Any]
    metas: list[Any]
    name: str
    ids: list[int] | None
    seqs: tuple[int, ...]
    ks: tuple[int, ...] | None
    spans: tuple[bytes, ...] | None
    skips: Ranges
    settles: list[Input]


def keeps_ids(step: Step) -> bool:
    """Whether results have the ids of their inputs."""
    return not step.many


def compose(step: Step, works: Sequence[Work]) -> Publication:
    """One publication of works of one stream and run.

    A step that keeps ids skips those for which it has no result.
    """
    first = works[0]
    keep = keeps_ids(step)
    values: list[Any] = []
    metas: list[Any] = []
    ids: list[int] = []
    seqs: list[int] = []
    ks: list[int] = []
    spans: list[bytes] = []
    skipped: list[int] = []
    name = ""
    for work in works:
        if keep and not work.results and work.inputs:
            skipped.append(work.id)
        for k, result in enumerate(work.results, work.first_k):
            values.append(result.data)
            metas.append(meta_of(work) if result.meta is None else result.meta)
            ids.append(work.id)
            seqs.append(work.seq)
            ks.append(k)
            name = result.name
            if step.window:
                spans.append(pack_span(ranges_of(one.seq for one in work.inputs)))
    return Publication(
        source=first.source,
        stream=first.stream,
        run=first.run,
        values=values,
        metas=metas,
        name=name,
        ids=ids if keep else None,
        seqs=tuple(seqs),
        ks=tuple(ks) if any(ks) else None,
        spans=tuple(spans) if spans else None,
        skips=ranges_of(skipped),
        settles=[one for work in works for one in work.inputs],
    )


def split(work: Work) -> list[Work]:
    """A work that is more than one unit can hold, in pieces; the last one settles the input."""
    pieces: list[list[Result]] = [[]]
    nbytes = 0
    for result in work.results:
        nbytes += result.nbytes
        full = len(pieces[-1]) >= limits.RESULTS_MAX or nbytes > limits.RESULTS_NBYTES_MAX
        if pieces[-1] and (full or result.name or pieces[-1][-1].name):
            pieces.append([])
            nbytes = result.nbytes
        pieces[-1].append(result)
    made: list[Work] = []
    k = work.first_k
    for index, piece in enumerate(pieces):
        inputs = work.inputs if index == len(pieces) - 1 else ()
        like = work.inputs[0] if work.inputs else None
        one = Work(inputs, piece, work.run, id=work.id, first_k=k, like=like)
        made.append(one)
        k += len(piece)
    return made


def is_one_unit(work: Work) -> bool:
    """Whether all results of an input can be published at once."""
    results = work.results
    if len(results) <= 1:
        return True
    named = any(result.name for result in results)
    too_large = len(results) > limits.RESULTS_MAX or work.nbytes > limits.RESULTS_NBYTES_MAX
    return not (named or too_large)


def meta_of(work: Work) -> bytes | None:
    """Metadata of the (first) input as text; None for none."""
    return meta_text(work.inputs[0]) if work.inputs else None


def meta_text(message: Input) -> bytes | None:
    """Metadata of a message, or of the first part of a dataset, as it was sent; None for none."""
    first: Message = message.parts[0] if isinstance(message, DatasetMessage) else message
    metas = first._columns.arrived.batch.metas
    return metas[first._item] if metas is not None else None


def ranges_of(numbers: Iterable[int]) -> Ranges:
    """Half-open ranges.

    >>> ranges_of([1, 2, 3, 7, 8, 5])
    ((1, 4), (5, 6), (7, 9))
    """
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number <= found[-1][1]:
            found[-1][1] = max(found[-1][1], number + 1)
        else:
            found.append([number, number + 1])
    return tuple((lo, hi) for lo, hi in found)

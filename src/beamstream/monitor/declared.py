"""Pipelines as beamtimes are told of them: metadata of the streams of source `pipelines`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from beamstream.monitor.observing import Declared
from beamstream.worker.pipelines.declaring import SOURCE

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub

PIPELINES_MAX: Final = 64
"""Pipelines of one beamtime that are shown."""
STEPS_MAX: Final = 200


class _Replicas(msgspec.Struct, frozen=True):
    min: int = 1
    max: int = 1


class _Step(msgspec.Struct, frozen=True):
    name: str
    step_id: str
    reads: tuple[str, ...] = ()
    writes: str | None = None
    replicas: _Replicas = _Replicas()


class _Pipeline(msgspec.Struct, frozen=True):
    pipeline: str
    steps: tuple[_Step, ...] = ()
    state: str = "up"


def steps_of(beamtime: str, document: Any) -> tuple[Declared, ...]:
    """Steps that a document declares; none of a pipeline that was ended, or of what is no document.

    >>> document = {"pipeline": "p", "steps": [{"name": "s", "step_id": "p.s", "reads": ["eiger"]}]}
    >>> steps_of("b", document)[0].reads
    ('eiger',)
    >>> steps_of("b", {"pipeline": 7})
    ()
    """
    try:
        found = msgspec.convert(document, _Pipeline)
    except msgspec.ValidationError:
        # Anybody who may write can write there: what is not understood is not shown.
        return ()
    if found.state != "up":
        return ()
    return tuple(
        Declared(
            beamtime=beamtime,
            pipeline=found.pipeline,
            step=step.name,
            step_id=step.step_id,
            replicas=step.replicas.min,
            reads=step.reads,
            writes=step.writes or "",
        )
        for step in found.steps[:STEPS_MAX]
    )


def names_of(groups: Iterable[str]) -> set[str]:
    """Pipelines that groups may be of: a step reads as PIPELINE.STEP.

    >>> names_of(["p.s", "viewer"])
    {'p'}
    """
    return {group.rpartition(".")[0] for group in groups if "." in group}


def read(hub: Hub, names: Iterable[str]) -> tuple[Declared, ...]:
    """All steps that are declared in a beamtime.

    Parameters
    ----------
    names : of pipelines that there may be, beside those that are listed: a stream that has metadata
        only is in no list.

    Raises
    ------
    Error : the node cannot be asked.
    """
    source = hub.source(SOURCE)
    every = sorted({*names, *(row.stream for row in source.streams().rows())})
    return tuple(
        step
        for name in every[:PIPELINES_MAX]
        for step in steps_of(hub.beamtime, source.stream(name).meta)
    )


def document(hub: Hub, name: str) -> dict[str, Any]:
    """What is declared of a pipeline; empty if nothing is."""
    return hub.source(SOURCE).stream(name).meta or {}

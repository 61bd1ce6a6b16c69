"""What a worker process is told: one JSON document on its stdin."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from beamstream.errors import BadInput
from beamstream.model import check_label
from beamstream.worker.policy import OnError

__all__ = ["Faults", "Job", "OnError", "Status", "decode", "encode"]

DRAINED: Final = 0
CRASHED: Final = 1
REFUSED: Final = 2
STOPPED: Final = 4
"""Exit statuses of a worker process: it has done what it had; an error (start it again); a step or
parameters that cannot work; stopped by the policy of the step. The last two are not to be
started again."""

JOB_NBYTES_MAX: Final = 1024 * 1024


class Faults(msgspec.Struct, frozen=True, omit_defaults=True):
    """Faults that a test wants of a worker (`beamstream.testing.worker_faults`).

    Parameters
    ----------
    hook : "module:name" of a callable ``(when, count)`` that is called with "called" before the
        count-th message is given to the step, "made" before its results are published, and
        "published" after that.
    settings : handed to the hook.
    """

    hook: str = ""
    settings: dict[str, Any] = {}


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """One worker of a step.

    Parameters
    ----------
    url, beamtime, token : of the node; empty: found as any client does.
    where : of the step (`beamstream.worker.loading.load`).
    step_id : name of the group, of failures and parameters: ``PIPELINE.STEP``, or the step's name.
    reads : ``source`` or ``source/pattern`` each; empty: as the step is declared. For a join the
        one source of the joined streams.
    writes : data source of the results; None: as declared; empty: none.
    parameters : those that are given, as JSON.
    level : durability of results: "cache", "os", "disk"; None: as declared.
    instance : name of this worker.
    ahead : messages that may be received before they are asked for; 0: by themselves.
    start : where a new group begins: "begin" or "new".
    session : 32 hexadecimal digits, by which who has started it tells the node that it has died.
    """

    where: str
    step_id: str = ""
    url: str = ""
    beamtime: str = ""
    token: str = ""
    reads: tuple[str, ...] = ()
    writes: str | None = None
    parameters: dict[str, Any] = {}
    on_error: OnError = OnError()
    level: str | None = None
    instance: str = ""
    ahead: int = 0
    start: str = "begin"
    session: str = ""
    faults: Faults = Faults()


class Status(msgspec.Struct, frozen=True):
    """What a worker process prints each second, as one line of JSON.

    Parameters
    ----------
    state : "starting", "running", "draining", "ended".
    done, failed, skipped, retried, stale : inputs so far; skipped: those without a result.
    results, nbytes : messages and bytes that were published.
    rate : inputs per second, over the last second.
    busy : part of the last second that was spent in the step's code.
    parameters_version, run : in use.
    note : the last thing that people should know.
    """

    state: str
    done: int = 0
    failed: int = 0
    skipped: int = 0
    retried: int = 0
    stale: int = 0
    results: int = 0
    nbytes: int = 0
    rate: float = 0.0
    busy: float = 0.0
    parameters_version: int = 0
    run: int = 0
    note: str = ""


def encode(job: Job) -> bytes:
    """A job as one line."""
    return msgspec.json.encode(job) + b"\n"


def decode(line: bytes) -> Job:
    """A job from its line.

    Raises
    ------
    BadInput : it is none.

    >>> decode(encode(Job("my.py:bin2", parameters={"factor": 4}))).parameters
    {'factor': 4}
    """
    if len(line) > JOB_NBYTES_MAX:
        raise BadInput(f"a job of {len(line)} bytes, {JOB_NBYTES_MAX} are allowed")
    try:
        job = msgspec.json.decode(line, type=Job)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"this is no job: {error}") from None
    if job.step_id:
        check_label("group", job.step_id)
    return job

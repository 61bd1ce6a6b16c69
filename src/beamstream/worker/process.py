"""A worker as a program: ``python -m beamstream.worker.process``.

Its job is one line of JSON on stdin (`beamstream.worker.jobs.Job`). It drains and ends when stdin
is closed, or on SIGTERM or SIGINT; a second signal ends it at once. Each second it prints its
`Status` as one line of JSON; what people should know goes to stderr.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from beamstream.errors import BadParameter, BadStep, Error
from beamstream.worker import jobs
from beamstream.worker.jobs import CRASHED, DRAINED, REFUSED, STOPPED, Job, Status

if TYPE_CHECKING:
    from beamstream.worker.engine import Hook
    from beamstream.worker.runner import Worker

STATUS_S: Final = 1.0
PATIENCE_S: Final = 60.0
"""How long the node may be away before the worker ends, to be started again."""


def main() -> int:
    """Do the job; the exit status."""
    stop = threading.Event()
    _end_on_signals(stop)
    try:
        job = jobs.decode(sys.stdin.buffer.readline(jobs.JOB_NBYTES_MAX + 1))
    except Error as error:
        return _complain(error, REFUSED)
    threading.Thread(target=_end_with_stdin, args=(stop,), daemon=True).start()
    try:
        return work(job, stop)
    except (BadStep, BadParameter) as error:
        return _complain(error, REFUSED)
    except Error as error:
        return _complain(error, CRASHED)


def work(job: Job, stop: threading.Event) -> int:
    """Be the worker of a job until `stop` is set.

    Raises
    ------
    BadStep, BadParameter : the step cannot work so.
    Error : the node cannot be had.
    """
    # Not before the job is there: a supervisor starts many of these, and numpy takes its time.
    from beamstream.client.native.hub import connect
    from beamstream.worker.loading import load
    from beamstream.worker.runner import Ending, Worker

    step = load(job.where)
    hub = connect(
        job.url, beamtime=job.beamtime, token=job.token, instance=job.instance,
        step=job.step_id or step.name, patience=PATIENCE_S, session=bytes.fromhex(job.session),
    )  # fmt: skip
    with hub:
        worker = Worker(
            hub,
            step,
            step_id=job.step_id,
            parameters=job.parameters,
            on_error=job.on_error,
            reads=job.reads,
            writes=job.writes,
            level=job.level,
            instance=job.instance,
            ahead=job.ahead,
            start=job.start,
            hook=load_hook(job.faults),
        )
        with _told(worker):
            ending = worker.run(stop)
    if ending is Ending.STOPPED:
        print(f"stopped: {worker.counts.note}", file=sys.stderr, flush=True)  # noqa: T201
    return STOPPED if ending is Ending.STOPPED else DRAINED


def load_hook(faults: jobs.Faults) -> Hook | None:
    """The faults that a test wants; None for none.

    Raises
    ------
    BadStep : the hook cannot be found.
    """
    if not faults.hook:
        return None
    module, _, name = faults.hook.partition(":")
    try:
        make = getattr(importlib.import_module(module), name)
        found: Hook = make(**faults.settings)
    except (ImportError, AttributeError, TypeError) as error:
        raise BadStep(f"faults {faults.hook!r}: {error}") from None
    return found


# ------------------------------------------------------------------------------ telling


class _Teller:
    """Prints the status of a worker, with what has changed since the last time."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._at = time.monotonic()
        self._settled = 0
        self._busy_s = 0.0

    def status(self) -> Status:
        worker, counts = self._worker, self._worker.counts
        now = time.monotonic()
        passed = max(now - self._at, 1e-3)
        settled = counts.done + counts.failed
        rate = (settled - self._settled) / passed
        busy = (counts.busy_s - self._busy_s) / passed
        self._at, self._settled, self._busy_s = now, settled, counts.busy_s
        return Status(
            state=worker.state, done=counts.done, failed=counts.failed, skipped=counts.skipped,
            retried=counts.retried, stale=counts.stale, results=counts.results,
            nbytes=counts.nbytes, rate=round(rate, 1), busy=round(busy, 3),
            parameters_version=worker.book.parameters_version, run=worker.book.latest,
            note=counts.note,
        )  # fmt: skip


@contextlib.contextmanager
def _told(worker: Worker) -> Iterator[None]:
    """Print the status each second, and once more at the end."""
    teller, over = _Teller(worker), threading.Event()

    def tell() -> None:
        _print(teller.status())
        while not over.wait(STATUS_S):
            _print(teller.status())

    thread = threading.Thread(target=tell, name="status", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _print(teller.status())


def _print(status: Status) -> None:
    # Nobody may read it any more; that is no reason to stop working.
    with contextlib.suppress(OSError):
        os.write(1, msgspec.json.encode(status) + b"\n")


def _complain(error: Error, status: int) -> int:
    print(f"{error.code} {error}", file=sys.stderr, flush=True)  # noqa: T201
    return status


# ------------------------------------------------------------------------------- ending


def _end_on_signals(stop: threading.Event) -> None:
    def end(number: int, frame: Any) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


def _end_with_stdin(stop: threading.Event) -> None:
    """Whoever started us has closed our stdin, or is gone: nobody looks after us."""
    with contextlib.suppress(OSError):
        # Not through the buffer of `sys.stdin`: the interpreter wants its lock when it ends.
        while os.read(0, 4096):
            pass
    stop.set()


if __name__ == "__main__":
    sys.exit(main())

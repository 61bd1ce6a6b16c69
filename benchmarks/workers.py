"""Processes that do the work of a row, told what by JSON and answering with JSON.

A worker prepares itself, says "ready", waits for "go", works, and prints its result. So all that
take part in a row start at the same moment, and starting up is in no figure.
"""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from beamstream.errors import Error, TimedOut
from benchmarks.machine import ROOT

Work = Callable[[], dict[str, Any]]

READY_SECONDS_MAX: Final = 60.0
RESULT_SECONDS_MAX: Final = 180.0


# --------------------------------------------------------------------- in the worker's process


def serve(prepare: Callable[[dict[str, Any]], Work]) -> None:
    """Do what the first argument of the command line asks for, then end the process.

    `prepare` gets it as a dictionary and returns the work, which returns the result.
    """
    try:
        work = prepare(json.loads(sys.argv[1]))
        say("ready")
        if not sys.stdin.readline():
            os._exit(1)
        before = _cpu_s()
        result = work()
        result.setdefault("cpu_s", _cpu_s() - before)
    except Exception as error:  # noqa: BLE001 - whatever it is, the bench has to report it
        result = {"error": f"{type(error).__name__}: {error}"}
    say(json.dumps(result))
    # The official producer joins its threads at exit, some of which sleep for seconds.
    os._exit(0)


def say(line: str) -> None:
    """Tell the bench something."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# ----------------------------------------------------------------------- in the bench's process


class WorkerFailed(Error):
    """A worker did not do what it should; the row is missing."""


class Worker:
    """A worker process, from its start to the end of ``with``; ready in the first line.

    Parameters
    ----------
    module : of this package, with a ``serve`` in its ``__main__`` part.
    python : the interpreter to run it with.
    settings : what it shall do.
    """

    def __init__(self, module: str, *, python: str = sys.executable, **settings: Any) -> None:
        self._module = module
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [python, "-m", f"benchmarks.{module}", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=ROOT,
        )
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def ready(self) -> Self:
        """Wait until it is prepared."""
        self.wait_for("ready", READY_SECONDS_MAX)
        return self

    def go(self) -> None:
        """Let it begin."""
        self._tell("go")

    def stop(self) -> None:
        """Ask it to end early, where it is made for that."""
        self._tell("stop")

    def ask(self, request: dict[str, Any]) -> None:
        """Hand it a request, where it takes several; each is answered by a result."""
        self._tell(json.dumps(request))

    def wait_for(self, word: str, seconds_max: float) -> None:
        """Wait until it says `word`."""
        line = self._line(seconds_max)
        if line != word:
            raise WorkerFailed(self._reason(line))

    def result(self, seconds_max: float = RESULT_SECONDS_MAX) -> dict[str, Any]:
        """Wait for its result."""
        line = self._line(seconds_max)
        try:
            found: dict[str, Any] = json.loads(line)
        except ValueError:
            raise WorkerFailed(self._reason(line)) from None
        if "error" in found:
            raise WorkerFailed(self._reason(line))
        return found

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word.encode() + b"\n")
        self._process.stdin.flush()

    def _line(self, seconds_max: float) -> str:
        assert self._process.stdout is not None
        stdout = self._process.stdout.fileno()
        end = time.monotonic() + seconds_max
        while b"\n" not in self._unread:
            if not select.select([stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimedOut(f"worker {self._module} says nothing for {seconds_max} s")
            chunk = os.read(stdout, 1 << 20)
            if not chunk:
                raise WorkerFailed(self._reason(self._unread.decode()))
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    def _reason(self, line: str) -> str:
        self._log.seek(0)
        log = self._log.read().decode(errors="replace")[-2_000:]
        return f"worker {self._module} says {line[:2_000] or 'nothing'!r} {log}".strip()

"""Workers as processes of this machine."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Final

import msgspec

from beamstream.errors import StorageError
from beamstream.worker import jobs
from beamstream.worker.jobs import Status
from beamstream.worker.pipelines.launchers import Ended, Running, Task
from beamstream.worker.pipelines.launchers.rotating import RotatingLog

MODULE: Final = "beamstream.worker.process"
MARK: Final = "--- "
"""Begins the line of a log that says which process the lines after it are of."""

_CHILD: Final = "beamstream.worker.pipelines.launchers.child"
_LINE_NBYTES_MAX: Final = 65_536
_END_S: Final = 5.0
_status: Final = msgspec.json.Decoder(Status)


class LocalProcess:
    """A worker process: handle of `LocalLauncher`."""

    def __init__(self, process: subprocess.Popen[bytes], log: RotatingLog) -> None:
        self.process = process
        self.log = log
        self.status: Status | None = None
        self.kill_at_s = float("inf")
        self.rest: bytes = b""
        self.silent = threading.Event()
        """Nothing more comes from it: its status is its last one, its log is complete."""

    @property
    def pid(self) -> int:
        return self.process.pid


class LocalLauncher:
    """Starts processes, each in a process group of its own; two threads.

    What they print to stderr, and to stdout if it is no status, goes into their logs. Their stdin
    stays open as long as this process lives: a worker ends when it closes.

    Parameters
    ----------
    python : the interpreter; empty: the present one.
    command : run in place of a worker; it gets the job on stdin, too.
    """

    def __init__(self, *, python: str = "", command: Sequence[str] = ()) -> None:
        self._command = list(command)
        self._python = python or sys.executable
        self._handles: list[LocalProcess] = []
        # The kernel kills children when the thread that made them ends: this one lives long enough.
        self._starter = ThreadPoolExecutor(1, "launcher-start")
        self._selector = selectors.DefaultSelector()
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        self._selector.register(self._wake_r, selectors.EVENT_READ, None)
        self._lock = threading.Lock()
        self._new: list[LocalProcess] = []
        self._closing = False
        self._reader = threading.Thread(target=self._read, name="launcher-read", daemon=True)
        self._reader.start()

    # ------------------------------------------------------------------ the three calls

    def start(self, task: Task) -> LocalProcess:
        return self._starter.submit(self._start, task).result()

    def stop(self, handle: LocalProcess, drain_s: float) -> None:
        handle.kill_at_s = min(handle.kill_at_s, time.monotonic() + drain_s)
        if handle.process.returncode is None:
            os.kill(handle.pid, signal.SIGTERM)
        if drain_s <= 0:
            self.poll(handle)

    def poll(self, handle: LocalProcess) -> Running | Ended:
        if not _has_ended(handle) and time.monotonic() < handle.kill_at_s:
            return Running(handle.status)
        self._bury(handle)
        return Ended(handle.process.wait(), handle.status)

    def close(self) -> None:
        if self._closing:
            return
        for handle in list(self._handles):
            self._bury(handle)
        self._closing = True
        self._wake()
        self._reader.join()
        self._starter.shutdown()
        self._selector.close()
        os.close(self._wake_r)
        os.close(self._wake_w)

    # ------------------------------------------------------------------ inside

    def _start(self, task: Task) -> LocalProcess:
        command = self._command or [self._python, "-m", _CHILD, str(os.getpid()), MODULE]
        try:
            process = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=task.folder,
                env={**os.environ, **task.environment},
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise StorageError(
                f"worker {task.job.instance!r} cannot be started: {error.strerror or error}: "
                f"{error.filename or command[0]}"
            ) from None
        handle = LocalProcess(process, RotatingLog(task.log))
        began = time.strftime("%Y-%m-%d %H:%M:%S")
        handle.log.write(f"{MARK}{began} process {process.pid}\n".encode())
        with self._lock:
            self._handles.append(handle)
            self._new.append(handle)
        self._wake()
        assert process.stdin is not None
        # One that has ended before it was told anything says so by its exit status.
        with contextlib.suppress(BrokenPipeError):
            _write_all(process.stdin, jobs.encode(task.job))
        return handle

    def _bury(self, handle: LocalProcess) -> None:
        """Kill what there still is of a worker, and leave nothing behind."""
        if handle not in self._handles:
            return
        # What it has started itself is in its process group, and may hold its pipes. The number
        # of the group is nobody else's as long as the worker has not been waited for.
        if handle.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(handle.pid, signal.SIGKILL)
        handle.process.wait()
        handle.silent.wait(_END_S)
        assert handle.process.stdin is not None
        with contextlib.suppress(OSError):
            handle.process.stdin.close()
        self._handles.remove(handle)

    def _wake(self) -> None:
        os.write(self._wake_w, b"\0")

    # ------------------------------------------------------------------ the reading thread

    def _read(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_r, 4096)
                    self._take_new()
                else:
                    self._receive(*key.data)

    def _take_new(self) -> None:
        with self._lock:
            new, self._new = self._new, []
        for handle in new:
            for pipe in (handle.process.stdout, handle.process.stderr):
                assert pipe is not None
                self._selector.register(pipe, selectors.EVENT_READ, (handle, pipe))

    def _receive(self, handle: LocalProcess, pipe: IO[bytes]) -> None:
        data = os.read(pipe.fileno(), _LINE_NBYTES_MAX)
        if pipe is handle.process.stderr:
            handle.log.write(data)
        else:
            self._receive_lines(handle, data)
        if data:
            return
        self._selector.unregister(pipe)
        pipe.close()
        other = handle.process.stderr if pipe is handle.process.stdout else handle.process.stdout
        if other is not None and other.closed:
            handle.log.close()
            handle.silent.set()

    def _receive_lines(self, handle: LocalProcess, data: bytes) -> None:
        *lines, rest = (handle.rest + data).split(b"\n")
        if len(rest) > _LINE_NBYTES_MAX or not data:
            handle.log.write(rest)
            rest = b""
        handle.rest = rest
        for line in lines:
            try:
                handle.status = _status.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                handle.log.write(line + b"\n")


def _write_all(pipe: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(pipe.fileno(), view) :]


def _has_ended(handle: LocalProcess) -> bool:
    """Whether a worker has ended; it is not waited for yet."""
    if handle.process.returncode is not None:
        return True
    if not hasattr(os, "waitid"):
        return handle.process.poll() is not None
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, handle.pid, flags) is not None

"""Workers as processes: started, asked to stop, killed, and nothing is left of them."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from beamstream.errors import StorageError
from beamstream.worker.jobs import Job, Status
from beamstream.worker.pipelines.launchers import Ended, Running, Task, make_launcher
from beamstream.worker.pipelines.launchers.local import LocalLauncher, LocalProcess
from beamstream.worker.pipelines.launchers.rotating import RotatingLog

Make = Callable[[str], LocalLauncher]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[LocalLauncher] = []

    def make(program: str) -> LocalLauncher:
        made.append(LocalLauncher(command=[sys.executable, "-uc", program]))
        return made[-1]

    yield make
    for launcher in made:
        launcher.close()


def task(folder: Path, **environment: str) -> Task:
    return Task(Job("x:y", step_id="p.bin", token="secret"), folder, environment, folder / "log")


def ended(launcher: LocalLauncher, handle: LocalProcess) -> Ended:
    """Wait until a process has ended, as the kernel tells."""
    os.waitid(os.P_PID, handle.pid, os.WEXITED | os.WNOWAIT)
    found = launcher.poll(handle)
    assert isinstance(found, Ended)
    return found


def said(handle: LocalProcess) -> None:
    """Wait until a process has closed its output."""
    assert handle.silent.wait(30)


WAITS = "import sys; sys.stdin.read()"
STATUS = '{"state": "running", "done": 3}'


def test_it_gets_its_job_and_says_how_it_goes(make: Make, tmp_path: Path) -> None:
    launcher = make(
        "import json, os, sys; job = json.loads(sys.stdin.readline());"
        f"print('{STATUS}'); print(job['step_id'], os.environ['COLOUR'], os.getcwd());"
        "print('to stderr', file=sys.stderr); print('no newline', end=''); sys.exit(3)"
    )
    handle = launcher.start(task(tmp_path, COLOUR="red"))
    found = ended(launcher, handle)
    assert found == Ended(3, Status("running", done=3))
    assert launcher.poll(handle) == found
    first, *lines = (tmp_path / "log").read_text().splitlines()
    assert re.fullmatch(rf"--- \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d process {handle.pid}", first)
    assert sorted(lines) == sorted([f"p.bin red {tmp_path}", "to stderr", "no newline"])
    assert "secret" not in Path(tmp_path / "log").read_text()


def test_stdin_stays_open_until_it_is_let_go(make: Make, tmp_path: Path) -> None:
    launcher = make(f"print('{STATUS}', flush=True); {WAITS}")
    handle = launcher.start(task(tmp_path))
    assert isinstance(launcher.poll(handle), Running)
    launcher.close()
    assert launcher.poll(handle) == Ended(-signal.SIGKILL, handle.status)


def test_it_is_asked_to_stop_before_it_is_killed(make: Make, tmp_path: Path) -> None:
    launcher = make(
        "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0));"
        "print('here', file=sys.stderr, flush=True); signal.pause()"
    )
    handle = launcher.start(task(tmp_path))
    wait_for_log(tmp_path / "log", "here")
    launcher.stop(handle, 60.0)
    assert ended(launcher, handle).code == 0


def test_one_that_does_not_listen_is_killed(make: Make, tmp_path: Path) -> None:
    launcher = make(
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "import sys; print('here', file=sys.stderr, flush=True)\nwhile True: signal.pause()"
    )
    handle = launcher.start(task(tmp_path))
    wait_for_log(tmp_path / "log", "here")
    launcher.stop(handle, 60.0)
    assert isinstance(launcher.poll(handle), Running)
    launcher.stop(handle, 0.0)
    assert launcher.poll(handle) == Ended(-signal.SIGKILL, None)


def test_what_it_has_started_itself_goes_with_it(tmp_path: Path) -> None:
    launcher = LocalLauncher(command=["sh", "-c", "sleep 1000 & echo $! >&2; exit 1"])
    try:
        handle = launcher.start(task(tmp_path))
        assert ended(launcher, handle).code == 1
        child = int((tmp_path / "log").read_text().splitlines()[1])
        # It was killed; whoever inherits it may not have taken note of it yet.
        assert state_of(child) in ("", "Z")
    finally:
        launcher.close()


def test_one_that_cannot_be_started_says_why(tmp_path: Path) -> None:
    launcher = make_launcher({"kind": "local", "python": str(tmp_path / "no-python")})
    try:
        with pytest.raises(StorageError, match="cannot be started: No such file"):
            launcher.start(task(tmp_path))
    finally:
        launcher.close()


def test_one_that_ends_before_it_reads_its_job(make: Make, tmp_path: Path) -> None:
    launcher = make("import os; os.close(0); os._exit(5)")
    handle = launcher.start(task(tmp_path))
    assert ended(launcher, handle).code == 5


def test_endless_lines_are_cut(make: Make, tmp_path: Path) -> None:
    launcher = make("print('x' * 1_000_000, end='')")
    handle = launcher.start(task(tmp_path))
    assert ended(launcher, handle).code == 0
    assert (tmp_path / "log").read_text().count("x") == 1_000_000


def test_many_at_once(make: Make, tmp_path: Path) -> None:
    launcher = make(f"print('{STATUS}')")
    handles = [launcher.start(Task(Job("x:y"), tmp_path, {}, tmp_path / f"{i}")) for i in range(8)]
    for handle in handles:
        said(handle)
        assert ended(launcher, handle) == Ended(0, Status("running", done=3))


SUPERVISOR = """
import sys, threading
from pathlib import Path
from beamstream.worker.jobs import Job
from beamstream.worker.pipelines.launchers import Task
from beamstream.worker.pipelines.launchers import local

local.MODULE = "hanging_worker"
launcher = local.LocalLauncher()
folder = Path(sys.argv[1])
handle = launcher.start(Task(Job("x:y"), folder, {}, folder / "log"))
print(handle.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel has to do it")
def test_workers_that_hang_die_with_their_supervisor(tmp_path: Path) -> None:
    (tmp_path / "hanging_worker.py").write_text(
        "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('hanging', file=sys.stderr, flush=True)\nwhile True: signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as supervisor:  # fmt: skip
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        wait_for_log(tmp_path / "log", "hanging")
        watched = os.pidfd_open(pid)
        supervisor.kill()
    [ready], _, _ = select.select([watched], [], [], 30)
    assert ready == watched
    assert state_of(pid) in ("", "Z")
    os.close(watched)


def state_of(pid: int) -> str:
    """R, S, Z …; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_for_log(path: Path, word: str) -> None:
    """Wait until a log has a word: the process that writes it is there then."""
    turn = threading.Event()
    for _ in range(3000):
        if path.exists() and word in path.read_text():
            return
        turn.wait(0.01)
    raise AssertionError(f"{path} never had {word!r}")


# ------------------------------------------------------------------------------ logs


def test_logs_begin_anew_when_they_are_full(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "a.log", nbytes_max=100, kept=2)
    for number in range(40):
        log.write(b"line %04d\n" % number)
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log", "a.log.1", "a.log.2"]
    assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())
    text = "".join((tmp_path / name).read_text() for name in ("a.log.2", "a.log.1", "a.log"))
    assert text.splitlines() == [f"line {number:04}" for number in range(10, 40)]


def test_a_log_goes_on_where_it_was(tmp_path: Path) -> None:
    for _ in range(2):
        log = RotatingLog(tmp_path / "a.log", nbytes_max=10, kept=1)
        log.write(b"123456\n")
        log.close()
    assert (tmp_path / "a.log").read_bytes() == b"123456\n"
    assert (tmp_path / "a.log.1").read_bytes() == b"123456\n"


def test_a_log_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "none" / "a.log")
    log.write(b"123")
    assert log.dropped_nbytes == 3

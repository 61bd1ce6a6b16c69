"""A real node in a process of its own, for tests, benchmarks and the demo."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from beamstream.errors import ConnectionLost, Error, TimedOut

_READY: Final = b"BEAMSTREAM_URL="
_UNEXPECTED: Final = re.compile(
    r"^(?=[^\n]*\berror\b)[^\n]*\bunexpected\b|Traceback \(most recent call last\)", re.I | re.M
)
_ANY_PORT: Final = "127.0.0.1:0"
_LOG_TAIL_NBYTES: Final = 8_000


class UnexpectedLog(AssertionError):
    """The node logged an error that nobody expects: a bug of the node."""


class NodeProcess:
    """A node as ``beamstream up`` starts it, on free ports of this machine.

    It runs from the end of `start` (or of ``with``'s first line) on. Its output goes to `log`.

    Parameters
    ----------
    data : data folder; without it a temporary one, removed at the end of ``with``.
    cache : size of the cache as the command line takes it.
    durability : the node's level, ``cache``, ``os`` or ``disk``.
    args : more arguments of ``beamstream up``.
    env : more environment variables.
    wrap : a command that starts the node's (``strace …``); signals go to the node alone.
    module : the Python module that is run in place of the command line's.
    start_s : how long the node may take to be ready, seconds.
    monitor : start the process behind the page, too.
    """

    def __init__(
        self,
        data: Path | None = None,
        *,
        cache: str = "256MiB",
        durability: str = "disk",
        args: Iterable[str] = (),
        env: Mapping[str, str] | None = None,
        wrap: Sequence[str] = (),
        module: str = "beamstream.cli.main",
        start_s: float = 60.0,
        monitor: bool = False,
    ) -> None:
        self._temporary: Path | None = None
        if data is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="beamstream-"))
            data = self._temporary / "data"
        self.data = data
        self.log = data.with_name(f"{data.name}.log")
        self.connect: dict[str, Any] = {}
        doors = ("--http", "--ingest", "--data-port", "--native")
        self._addresses = dict.fromkeys(doors, _ANY_PORT)
        self._options = ["--cache", cache, "--durability", durability, *args]
        self._options.append("--monitor" if monitor else "--no-monitor")
        # A node of a test is not the one that programs of this user look for.
        self._env = {**os.environ, "BEAMSTREAM_CONNECT_FILE": "", **(env or {})}
        self._wrap = list(wrap)
        self._module = module
        self._start_s = start_s
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._tokens: dict[tuple[str, ...], str] = {}

    # ------------------------------------------------------------------ life

    def start(self) -> Self:
        """Start the node and return when it takes connections.

        Raises
        ------
        ConnectionLost : it ended before that; the message has the end of its log.
        TimedOut : it is not ready in time (it has been killed).
        """
        if self.running:
            return self
        self.data.parent.mkdir(parents=True, exist_ok=True)
        command = [*self._wrap, sys.executable, "-m", self._module, "up", "--data", str(self.data)]
        for flag, address in self._addresses.items():
            command += [flag, address]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [*command, *self._options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._env,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        ready, ended = threading.Event(), threading.Event()
        self._reader = threading.Thread(
            target=_drain, args=(self._process.stdout, self.log, ready, ended), daemon=True
        )
        self._reader.start()
        if not ready.wait(self._start_s):
            self.kill()
            raise TimedOut(f"the node is not ready after {self._start_s} s:\n{self.log_tail()}")
        if ended.is_set():
            code = self._ended(10.0)
            raise ConnectionLost(f"the node ended with status {code}:\n{self.log_tail()}")
        self.connect = json.loads(self.connect_file.read_bytes())
        self._keep_addresses()
        return self

    def terminate(self, timeout_s: float = 60.0) -> int:
        """Ask the node to stop (SIGTERM), wait, and return its exit status.

        Raises
        ------
        TimedOut : it does not stop in time (it has been killed).
        UnexpectedLog : its log has an error that nobody expects.
        """
        if self._process is None:
            return 0
        if self.running:
            os.kill(self.pid, signal.SIGTERM)
        code = self._ended(timeout_s)
        self.check_log()
        return code

    def kill(self) -> None:
        """Kill the node (SIGKILL) and wait until it is gone."""
        if self._process is None:
            return
        if self._process.poll() is None:
            # The node may run below a command like strace: both are in the group made for them.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._ended(30.0)

    def restart(self, *, kill: bool = False) -> Self:
        """Stop (or `kill`) the node and start it again on the same folder and ports."""
        if kill:
            self.kill()
        else:
            self.terminate()
        return self.start()

    def wait(self, timeout_s: float = 60.0) -> int:
        """Wait until the node ends by itself and return its exit status (negative: the signal)."""
        return self._ended(timeout_s)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self._remove()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.terminate()
            else:
                self.kill()
        finally:
            self.kill()
            self._remove()

    # ------------------------------------------------------------------ use

    @property
    def connect_file(self) -> Path:
        return self.data / "connect.json"

    @property
    def endpoint(self) -> str:
        """``HOST:PORT`` of the node's HTTP door: what ASAPO's clients call the endpoint."""
        return str(self.connect["url"]).split("://", 1)[-1].rstrip("/")

    def token(
        self, beamtime: str = "demo", access: str = "read,write,writeraw", *, beamline: str = ""
    ) -> str:
        """Return a token made by ``beamstream token new``; for `beamline` if that is given."""
        subject = ("--beamline", beamline) if beamline else ("--beamtime", beamtime)
        key = (*subject, access)
        if key not in self._tokens:
            self._tokens[key] = self.cli(
                "token",
                "new",
                "--data",
                str(self.data),
                *subject,
                "--access",
                access,
                "--days",
                "2",
            ).strip()
        return self._tokens[key]

    def cli(self, *args: str) -> str:
        """Run ``beamstream ARGS`` and return what it prints; `Error` with its text if it fails."""
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "beamstream.cli.main", *args],
            capture_output=True,
            text=True,
            env=self._env,
            timeout=60,
            check=False,
            # Ctrl-C in a terminal is for whoever runs this, not for its commands.
            start_new_session=True,
        )
        if done.returncode:
            call = " ".join(args[:2])
            raise Error(f"beamstream {call} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    # ------------------------------------------------------------------ eyes

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the node itself, also below a `wrap` command."""
        if self._process is None:
            raise ConnectionLost("the node has not been started")
        if not self._wrap:
            return self._process.pid
        return int(self.connect.get("pid", 0)) or _youngest_child(self._process.pid)

    def rss_nbytes(self) -> int:
        """Resident memory, mapped pages of the cache included."""
        return self._status_nbytes("VmRSS")

    def peak_rss_nbytes(self) -> int:
        """The largest resident memory since the start."""
        return self._status_nbytes("VmHWM")

    def cpu_s(self) -> float:
        """Processor time of user and system since the start, all threads, seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def fds(self) -> int:
        """How many file descriptors are open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def log_text(self) -> str:
        """All that the node has written to stdout and stderr so far, over all its starts."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_tail(self) -> str:
        return self.log_text()[-_LOG_TAIL_NBYTES:]

    def check_log(self) -> None:
        """Raise `UnexpectedLog` if the log has a traceback or an "ERROR unexpected"."""
        text = self.log_text()
        found = _UNEXPECTED.search(text)
        if found:
            raise UnexpectedLog(f"in {self.log}:\n{text[max(0, found.start() - 500) :][:4000]}")

    # ------------------------------------------------------------------ inside

    def _status_nbytes(self, key: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
        raise ConnectionLost(f"process {self.pid} has no {key}: it has ended")

    def _keep_addresses(self) -> None:
        # Clients keep addresses for a while, so that a node that comes back has to be there again.
        self._addresses["--http"] = self.endpoint
        kept = (("--ingest", "ingest"), ("--data-port", "data_port"), ("--native", "native"))
        for flag, key in kept:
            address = self.connect.get(key)
            if isinstance(address, str) and ":" in address:
                self._addresses[flag] = address.split("://", 1)[-1]

    def _ended(self, timeout_s: float) -> int:
        assert self._process is not None
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
            raise TimedOut(
                f"the node did not stop within {timeout_s} s:\n{self.log_tail()}"
            ) from None
        if self._reader is not None:
            self._reader.join(10)
            self._reader = None
        if self._process.stdout is not None:
            self._process.stdout.close()
        return code

    def _remove(self) -> None:
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


def _drain(stdout: IO[bytes], log: Path, ready: threading.Event, ended: threading.Event) -> None:
    try:
        with log.open("ab", buffering=0) as out:
            for line in stdout:
                out.write(line)
                if _READY in line:
                    ready.set()
    finally:
        ended.set()
        ready.set()


def _youngest_child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    if not children:
        raise ConnectionLost(f"process {pid} has no child: the node has ended")
    return int(children[-1])

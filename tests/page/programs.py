"""Programs of their own with ASAPO's official clients, for a test to start, ask and kill."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from beamstream.testing.node import NodeProcess

PROGRAM: Final = Path(__file__).with_name("asapo_program.py")
BEAMTIME: Final = "demo"
WAIT_S: Final = 60.0


class Program:
    """A process that sends or reads; `told` is what it said last."""

    def __init__(self, node: NodeProcess, does: str, **task: Any) -> None:
        self.told: dict[str, Any] = {}
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        job = {"does": does, "endpoint": node.endpoint, "beamtime": BEAMTIME, **task}
        job["token"] = node.token(BEAMTIME)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    @classmethod
    def sends(
        cls,
        node: NodeProcess,
        source: str,
        *,
        rate: float,
        stream: str = "s",
        count: int = 1_000_000,
        nbytes: int = 4096,
        instance: str = "auto",
        step: str = "asapo_camera",
    ) -> Self:
        return cls(
            node, "send", source=source, rate=rate, stream=stream, count=count, nbytes=nbytes,
            instance=instance, step=step,
        )  # fmt: skip

    @classmethod
    def reads(
        cls,
        node: NodeProcess,
        source: str,
        group: str,
        *,
        stream: str = "s",
        count: int = 1_000_000,
        every_s: float = 0.0,
        keep_s: float = 0.0,
        instance: str = "auto",
        step: str = "asapo_reader",
    ) -> Self:
        return cls(
            node, "read", source=source, group=group, stream=stream, count=count,
            every_s=every_s, keep_s=keep_s, instance=instance, step=step,
        )  # fmt: skip

    def until(self, **least: float) -> dict[str, Any]:
        """Wait until it has told of at least so much."""
        while not all(self.told.get(key, -1) >= value for key, value in least.items()):
            told = self._lines.get(timeout=WAIT_S)
            assert told is not None, "the program has ended"
            self.told = told
        return self.told

    def newest(self) -> dict[str, Any]:
        """What it has told last."""
        while not self._lines.empty():
            self.told = self._lines.get() or self.told
        return self.told

    def kill(self) -> None:
        """End it as a crash does."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
        self._thread.join()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)

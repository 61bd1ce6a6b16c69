"""The monitor, a process of its own: started with the node, watched over, started again.

It is told where the node is by one line of JSON on its standard input, and ends when that is
closed: it never outlives its node.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any, Final

import msgspec
import structlog

log = structlog.get_logger("monitor")

_BACKOFF_S: Final = (1.0, 2.0, 5.0, 15.0, 30.0)
_GOOD_S: Final = 60.0
"""Who has run for so long is started again at once."""
_STOP_S: Final = 5.0


class MonitorProcess:
    """Keeps a monitor running.

    Parameters
    ----------
    job : what it is told; has a secret, and is written nowhere.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, job: dict[str, Any]) -> None:
        self._loop = loop
        self._job = msgspec.json.encode(job) + b"\n"
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = self._loop.create_task(self._watch_over())

    async def stop(self) -> None:
        """End it; killed if it does not end soon."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _watch_over(self) -> None:
        failures = 0
        while True:
            began = self._loop.time()
            try:
                status = await self._run()
            except OSError as error:
                status = -1
                log.error("the monitor cannot be started", reason=error.strerror or str(error))
            failures = 1 if self._loop.time() - began > _GOOD_S else failures + 1
            wait_s = _BACKOFF_S[min(failures, len(_BACKOFF_S)) - 1]
            log.warning("the monitor has ended", status=status, again_in_s=wait_s)
            await asyncio.sleep(wait_s)

    async def _run(self) -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "beamstream.monitor",
            stdin=asyncio.subprocess.PIPE,
            # What it prints is its log, beside the node's.
            stdout=sys.stderr,
        )
        self._process = process
        assert process.stdin is not None
        process.stdin.write(self._job)
        with contextlib.suppress(ConnectionError):
            await process.stdin.drain()
        return await process.wait()

"""The first thing that a worker process does: it makes sure to die with its supervisor.

``python -m beamstream.worker.pipelines.launchers.child PARENT MODULE`` goes on as ``python -m
MODULE``. A worker notices by its closed stdin that its supervisor is gone, unless its code hangs.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def die_with(parent: int) -> None:
    """Let the kernel kill this process when `parent` ends, where the kernel can do that."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # It was gone before it could be asked for.
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

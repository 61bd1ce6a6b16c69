"""How producers end: when nobody holds them, and when the program ends."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Final

from beamstream.client.asapo.outbox import Outbox
from beamstream.compat.producer_log import Log

LAST_MOMENT_SECONDS: Final = 2.0
"""What is on its way when a producer is stopped has this long to arrive; what waits is lost."""

_LIVING: Final[weakref.WeakKeyDictionary[Outbox, Log]] = weakref.WeakKeyDictionary()


def end_with(holder: object, outbox: Outbox, log: Log) -> None:
    """Let `outbox` send what is queued and end when `holder` is gone, and stop with the program."""
    weakref.finalize(holder, outbox.end).atexit = False
    _LIVING[outbox] = log


def stop(outbox: Outbox, log: Log, *, join: bool = True) -> None:
    """Stop `outbox` now, and say what was not sent."""
    lost = outbox.stop(LAST_MOMENT_SECONDS, join=join)
    if lost:
        log("error", f"{outbox.what}: {lost} messages were not sent: the producer was ended")


@atexit.register
def _stop_all() -> None:
    for outbox, log in list(_LIVING.items()):
        # A thread may be in a callback that waits for what the program has ended already.
        stop(outbox, log, join=False)


# Connections and threads are those of the process that made them.
os.register_at_fork(after_in_child=_LIVING.clear)

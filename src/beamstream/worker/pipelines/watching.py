"""How the steps of a pipeline go, as the node sees it: asked each second, in a thread."""

from __future__ import annotations

import fnmatch
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from beamstream.client.native import lookup
from beamstream.client.native.messages import DatasetMessage, Message
from beamstream.errors import Error
from beamstream.wire.address import IdRange
from beamstream.wire.native import calls
from beamstream.worker.pipelines.plan import Plan, PlannedStep

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub

EVERY_S: Final = 1.0
_PATIENCE_S: Final = 2.0
_RATES_S: Final = 3.0
"""Rates are those since a look at least so long ago."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """How a step goes.

    Parameters
    ----------
    done, made, failed, dead : inputs that are done with, messages in the source that it writes,
        in that of its failures, and inputs that it has given up.
    behind : inputs that are not done yet, also those in the hands of workers.
    lag_s : how long the oldest open one has waited.
    in_hz, out_hz : inputs and results per second.
    delay_s : from the input of its newest result to that result; None while there is none.
    """

    done: int = 0
    made: int = 0
    failed: int = 0
    dead: int = 0
    behind: int = 0
    lag_s: float = 0.0
    in_hz: float = 0.0
    out_hz: float = 0.0
    delay_s: float | None = None


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """One look at all steps; `number` counts them, `note` says what went wrong."""

    number: int = 0
    at_s: float = 0.0
    steps: dict[str, Figures] = {}
    note: str = ""


def count(
    step: PlannedStep,
    groups: Iterable[calls.GroupRow],
    inputs: Iterable[calls.StreamRow],
    outputs: Iterable[calls.StreamRow],
    failures: Iterable[calls.StreamRow],
) -> Figures:
    """The figures of a step without rates: of its groups, and of the streams around it."""
    reads = step.reads_now
    rows = {
        row.stream: row
        for row in groups
        if row.group == step.step_id and row.source == reads.source
    }
    wanted = [row for row in inputs if fnmatch.fnmatchcase(row.stream, reads.pattern)]
    # A stream that no worker has seen yet is open as a whole.
    unseen = sum(row.count for row in wanted if row.stream not in rows)
    return Figures(
        done=sum(row.acked + row.done + row.dead for row in rows.values()),
        made=sum(row.count for row in outputs),
        failed=sum(row.count for row in failures),
        dead=sum(row.dead for row in rows.values()),
        behind=unseen + sum(row.open + row.leased for row in rows.values()),
        lag_s=max((row.lag_s for row in rows.values() if row.open), default=0.0),
    )


class Watcher:
    """Looks at the steps of a plan again and again.

    Parameters
    ----------
    connect : gives a connection to the node; called again when one is lost for good.
    clock : seconds.
    """

    def __init__(
        self,
        plan: Plan,
        connect: Callable[[], Hub],
        *,
        clock: Callable[[], float] = time.monotonic,
        every_s: float = EVERY_S,
    ) -> None:
        self.look = Look()
        self._plan = plan
        self._connect = connect
        self._clock = clock
        self._every_s = every_s
        self._hub: Hub | None = None
        self._before: list[Look] = []
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="pipeline-watch", daemon=True)

    def start(self) -> None:
        """Look once, then again and again.

        Raises
        ------
        Error : the node cannot be reached.
        """
        self._turn()
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(_PATIENCE_S)
        hub = self._hub
        if hub is not None:
            # While the node is away a question waits for it: it fails now.
            hub.close(0.0 if self._thread.is_alive() else 1.0)
        if self._thread.ident is not None:
            self._thread.join()

    def after(self, number: int, timeout_s: float) -> Look:
        """Wait for a look later than that of this `number`; the newest one if none comes."""
        with self._changed:
            self._changed.wait_for(lambda: self.look.number > number, timeout_s)
            return self.look

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self._turn()
            except Error as error:
                self._keep(msgspec.structs.replace(self.look, note=f"the node: {error}"))
                self._drop_lost()

    def _turn(self) -> None:
        if self._hub is None:
            self._hub = self._connect()
        self._keep(self._seen(self._hub))

    def _drop_lost(self) -> None:
        if self._hub is not None and self._hub.closed:
            self._hub = None

    def _keep(self, look: Look) -> None:
        with self._changed:
            self.look = msgspec.structs.replace(look, number=self.look.number + 1)
            self._changed.notify_all()

    def _seen(self, hub: Hub) -> Look:
        asked: dict[str, list[calls.StreamRow]] = {}

        def streams(source: str | None) -> list[calls.StreamRow]:
            if source is None:
                return []
            if source not in asked:
                asked[source] = hub.source(source).streams().rows()
            return asked[source]

        groups = hub.groups()
        at_s = self._clock()
        before = next((look for look in self._before if at_s - look.at_s >= _RATES_S), None)
        before = before or (self._before[-1] if self._before else None)
        found = {}
        for step in self._plan.steps:
            outputs = streams(step.writes)
            now = count(
                step, groups, streams(step.reads_now.source), outputs, streams(step.failures)
            )
            was = before.steps.get(step.name) if before is not None else None
            passed_s = at_s - before.at_s if before is not None else 0.0
            found[step.name] = msgspec.structs.replace(
                now,
                in_hz=_rate(now.done, was.done, passed_s) if was else 0.0,
                out_hz=_rate(now.made, was.made, passed_s) if was else 0.0,
                delay_s=_delay_s(hub, step, outputs),
            )
        look = Look(at_s=at_s, steps=found)
        self._before = [look, *self._before][: int(_RATES_S / max(self._every_s, 0.05)) + 2]
        return look


def _rate(now: int, was: int, passed_s: float) -> float:
    # A stream or group that was removed begins anew, with less.
    return max(now - was, 0) / passed_s if passed_s > 0 else 0.0


def _delay_s(hub: Hub, step: PlannedStep, outputs: Sequence[calls.StreamRow]) -> float | None:
    """From the arrival of an input to that of its result, for the newest result of a step."""
    if step.writes is None:
        return None
    newest = max(outputs, key=lambda row: row.last_ns, default=None)
    if newest is None or not newest.count:
        return None
    result = _last(hub, step.writes, newest.stream)
    if result is None:
        return None
    origin = hub.source(step.writes).stream(newest.stream).origin(result.id)
    if origin is None or not origin.inputs or not origin.inputs[-1].id:
        return None
    last = origin.inputs[-1]
    stream = hub.source(last.source).stream(last.stream)
    came = next(stream.messages(IdRange(last.id, last.id + 1), payloads=False), None)
    return None if came is None else max(_time_ns(result) - _time_ns(came), 0) / 1e9


def _last(hub: Hub, source: str, stream: str) -> Message | DatasetMessage | None:
    """The message with the largest id, without payload."""
    params = calls.FetchLast(source=source, stream=stream, payloads=False)
    found = lookup.messages(source, stream, *hub._call_body(params))
    return found[-1] if found else None


def _time_ns(message: Message | DatasetMessage) -> int:
    """When it came; a dataset comes with its last part."""
    if isinstance(message, Message):
        return message.timestamp_ns
    return max((part.timestamp_ns for part in message.parts), default=0)

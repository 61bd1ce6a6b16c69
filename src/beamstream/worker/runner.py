"""A worker: a step at a node, from its first message until it is told to end."""

from __future__ import annotations

import contextlib
import enum
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from beamstream.client.native.messages import Message
from beamstream.client.native.subscription import AHEAD_NBYTES
from beamstream.errors import BadParameter, BadStep, Error
from beamstream.model import Level, check_label
from beamstream.worker import runs, versions
from beamstream.worker.calling import AWAITED_MAX, Code
from beamstream.worker.engine import Engine, Hook, Stopped
from beamstream.worker.extending import Keeper
from beamstream.worker.hub_port import HubPort
from beamstream.worker.joining import Joiner, join_source
from beamstream.worker.policy import OnError
from beamstream.worker.steps import Read, Step, parse_read

if TYPE_CHECKING:
    from beamstream.client.native.group import Group
    from beamstream.client.native.hub import Hub
    from beamstream.client.native.subscription import Subscription
    from beamstream.worker.counts import Counts

TURN_S: Final = 0.1
"""How long a worker waits for messages before it looks after other things."""

JOIN_S: Final = 1.0
"""How often a join looks for new streams."""

AHEAD: Final = 16
"""Messages that a step is sent ahead: few, so that slow workers do not sit on them while others
have none."""

AHEAD_ALONE: Final = 1_024
"""The same for steps whose streams are read by one worker at a time."""


class Ending(enum.Enum):
    """Why a worker has ended."""

    DRAINED = "drained"
    STOPPED = "stopped"
    """By the policy of the step."""


class Worker:
    """A step at a node.

    Parameters
    ----------
    step_id : its group, and the name of its failures and parameters; the step's name without it.
    parameters : that it is started with.
    reads : ``source`` or ``source/pattern`` in place of what the step is declared to read.
    writes : in place of what it is declared to write; empty: nothing.
    level : durability of results in place of the declared one.
    instance : name of this worker.
    ahead : messages that may be sent ahead; 0: by themselves.
    start : where a new group begins: "begin" or "new".
    hook : see `beamstream.worker.engine.Hook`.

    Raises
    ------
    BadStep, BadParameter : it cannot work.
    """

    def __init__(
        self,
        hub: Hub,
        step: Step,
        *,
        step_id: str = "",
        parameters: Mapping[str, Any] | None = None,
        on_error: OnError | None = None,
        reads: Sequence[str] = (),
        writes: str | None = None,
        level: Level | str | None = None,
        instance: str = "",
        ahead: int = 0,
        start: str = "begin",
        hook: Hook | None = None,
    ) -> None:
        self.hub = hub
        self.step = step
        self.step_id = check_label("group", step_id or step.name)
        self.reads = tuple(map(parse_read, reads)) or step.reads
        self.writes = (step.writes if writes is None else writes) or ""
        self._on_error = on_error or OnError()
        self._given = dict(parameters or {})
        self._ahead = ahead
        self._start = start
        self._joiner: Joiner | None = None
        self._joined_at = float("-inf")
        self._stop = threading.Event()
        self._source = self._one_source()
        self._code = Code(step, self._given)
        version = runs.code_version(step)
        self._port = HubPort(hub, group=self.step_id, writes=self.writes, level=level or step.level)

        def document(
            values: Mapping[str, Any], parameters_version: int, header_version: int
        ) -> dict[str, Any]:
            return runs.run_document(
                step, self.step_id, version, values, parameters_version=parameters_version,
                header_version=header_version, reads=tuple(map(str, self.reads)),
                writes=self.writes,
            )  # fmt: skip

        self.book = runs.RunBook(document, self._port.run)
        self.engine = Engine(
            step,
            self._code,
            self._port,
            self.book,
            step_id=self.step_id,
            worker=instance or f"{socket.gethostname()}:{os.getpid()}",
            on_error=self._on_error,
            clock=time.monotonic,
            time_ns=time.time_ns,
            pause=self._pause,
            ending=lambda: self._stop.is_set(),
            writes=self.writes,
            hook=hook,
        )
        self.state = "starting"

    @property
    def counts(self) -> Counts:
        return self.engine.counts

    def _one_source(self) -> Read:
        if not self.reads:
            raise BadStep(
                f"step {self.step.name!r} does not say what it reads",
                hint='@step(reads="SOURCE"), or `reads:` in the pipeline, or --reads SOURCE',
            )
        if self.writes and any(read.source == self.writes for read in self.reads):
            raise BadStep(
                f"step {self.step.name!r} reads and writes {self.writes!r}",
                hint="it would get its own results",
            )
        if len(self.reads) == 1:
            return self.reads[0]
        into = join_source(self.step_id)
        self._joiner = Joiner(self.hub, self.reads, into)
        return Read(into)

    # ------------------------------------------------------------------ running

    def run(self, stop: threading.Event) -> Ending:
        """Work until `stop` is set: then finish what is in hand, and leave.

        Raises
        ------
        BadParameter : the parameters do not suit the step.
        Error : the node cannot be had any more, or refuses what nothing can be done about.
        """
        self._stop = stop
        if len(self.step.parameters):
            self._begin_parameters()
        ending = Ending.DRAINED
        try:
            with self._group().subscribe() as member, Keeper(member, self.step.lease):
                self.state = "running"
                try:
                    self._loop(member, stop)
                except Stopped:
                    ending = Ending.DRAINED if stop.is_set() else Ending.STOPPED
                except BaseException:
                    # Nothing of it is the fault of what is in hand.
                    with contextlib.suppress(Error):
                        self.engine.let_go()
                    raise
                self.state = "draining"
                self.engine.drain()
        finally:
            self.state = "ended"
            self._code.close()
        self._port.close_all()
        return ending

    def _loop(self, member: Subscription, stop: threading.Event) -> None:
        watch = self._watch() if len(self.step.parameters) else None
        try:
            while not stop.is_set():
                if self._joiner is not None:
                    self._join()
                event = member.next_event(TURN_S)
                if watch is not None:
                    # Behind the wait: what was set before a message was sent holds for it.
                    self._look_at_parameters(watch)
                if event is not None:
                    self.engine.handle(event)
                elif member.end is not None:
                    return
                else:
                    self.engine.idle()
        finally:
            if watch is not None:
                watch.close()

    def _pause(self, seconds: float) -> bool:
        return self._stop.wait(seconds)

    def _join(self) -> None:
        now = time.monotonic()
        if self._joiner is not None and now >= self._joined_at + JOIN_S:
            self._joined_at = now
            self._joiner.look()

    def _group(self) -> Group:
        step = self.step
        ordered = step.ordered
        ahead = self._ahead or (
            AHEAD_ALONE if step.exclusive
            else max(4 * step.batch, AWAITED_MAX if step.is_async else AHEAD)
        )  # fmt: skip
        streams = self.hub.source(self._source.source).streams(self._source.pattern)
        return streams.group(
            self.step_id,
            mode="ordered" if ordered else "unordered",
            gaps="finished" if ordered else "wait",
            ack="manual",
            start=self._start,
            lease=step.lease,
            max_attempts=self._on_error.attempts_max,
            exclusive=step.exclusive,
            settled=step.output == "ordered" and not ordered,
            headers=True,
            key=step.key,
            sticky=step.sticky,
            min_parts=step.min_parts,
            wait=step.wait,
            batch_max=max(step.batch, 1) if step.batch else max(ahead // 2, 1),
            ahead_messages=ahead,
            ahead_nbytes=AHEAD_NBYTES,
        )

    # ------------------------------------------------------------------ parameters

    def _begin_parameters(self) -> None:
        found = versions.begin(self.hub, self.step_id, self._given, "start")
        try:
            self.engine.set_parameters(found.parameters, found.version)
        except BadParameter:
            # What was set once does not suit the code of today; what we are started with does.
            found = versions.begin(self.hub, self.step_id, self._given, "start", instead_of=found)
            self.engine.set_parameters(found.parameters, found.version)

    def _watch(self) -> Subscription:
        stream = versions.stream_of(self.hub, self.step_id)
        since = self.book.parameters_version + 1
        return stream.group("", ack="none", start=since).subscribe()

    def _look_at_parameters(self, watch: Subscription) -> None:
        while isinstance(message := watch.poll(), Message):
            found = versions.version_of(message)
            try:
                self.engine.set_parameters(found.parameters, found.version)
            except BadParameter as error:
                self.counts.note = f"parameters of version {found.version} are not used: {error}"

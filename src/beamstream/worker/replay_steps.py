"""Running a step on a range of a stream, as its workers would, into a stream of its own."""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from beamstream import limits
from beamstream.client.native.events import Header, Settled, StreamEnd
from beamstream.client.native.messages import Batch, DatasetMessage, Message
from beamstream.client.native.origins import Origin
from beamstream.errors import BadInput, Error
from beamstream.worker import failures, loading, parameters, runs, versions
from beamstream.worker.calling import Code, Input
from beamstream.worker.engine import Engine, Stopped
from beamstream.worker.pipelines.plan import load_plan
from beamstream.worker.policy import OnError
from beamstream.worker.results import NOTHING
from beamstream.worker.steps import Form
from beamstream.worker.works import Publication

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub
    from beamstream.client.native.writer import Writer
    from beamstream.worker.port import Ticket
    from beamstream.worker.replaying import Replay
    from beamstream.worker.steps import Step

__all__ = ["StepJob", "find_job", "header_of", "keeps_state"]


class StepJob:
    """A step as a replay runs it.

    Parameters
    ----------
    step_id : whose parameters and failures it has.
    base : parameters that its workers are started with, as JSON has them.
    typed : those that are set for this replay alone, as the step gets them.
    writes : data source of the results.
    level : durability of the results; None: as the node is set.
    """

    def __init__(
        self,
        step: Step,
        step_id: str,
        base: Mapping[str, Any],
        typed: Mapping[str, Any],
        writes: str = "",
        level: str | None = None,
    ) -> None:
        self.step = step
        self.step_id = step_id
        self._base = dict(base)
        self._typed = dict(typed)
        self.given = step.parameters.check(base, partial=True) | dict(typed)
        self._version = 0
        self.beamtime = ""
        """Whose pipeline it is of; empty: anybody's."""
        self.writes = writes or step.writes or ""
        self.level = level or step.level
        self.code = runs.code_version(step)

    def __repr__(self) -> str:
        return f"<StepJob {self.step_id}: {self.step.where}>"

    @property
    def stateful(self) -> bool:
        """Whether a result may depend on the inputs before it: then it begins at the beginning."""
        return keeps_state(self.step)

    def warnings(self, ids: range) -> tuple[str, ...]:
        """What somebody should know before it is run on these."""
        found = []
        if not self.code.source:
            found.append("the code lies in no file: nobody will be able to say which it was")
        elif self.code.commit.endswith("+dirty"):
            found.append("the code is not as it is committed: its digest is recorded, itself not")
        if self.stateful:
            found.append(f"the step keeps a state: here it begins with id {ids.start}")
        if self.block(ids.start) != ids.start:
            found.append(f"windows begin with id {self.block(ids.start)}: the first one has a part")
        return tuple(found)

    def look(self, hub: Hub) -> None:
        """Take over what was set while its workers run, as a worker that is started now does."""
        found = versions.current(hub, self.step_id)
        if found.version and found.base == parameters.plain(self._base):
            self.given = self.step.parameters.check(found.parameters, partial=True) | self._typed
            self._version = 0 if self._typed else found.version

    # ------------------------------------------------------------------ ids

    def block(self, id: int) -> int:
        """The first id of the window that an id lies in; of other steps the id itself."""
        window = self.step.window
        return id - (id - 1) % window if window else id

    # ------------------------------------------------------------------ what it is

    def document(
        self, hub: Hub, source: str, stream: str, replay_of: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Of its run.

        Raises
        ------
        BadParameter : values that the step does not take.
        BadInput : messages that it cannot read.
        """
        read = hub.source(source).stream(stream)
        there = read.info()
        if len(self.step.reads) > 1 and there is not None and not there.datasets:
            raise BadInput(
                f"step {self.step_id!r} joins {len(self.step.reads)} sources, {source}/{stream} is "
                "one of single messages",
                hint=f"the stream that was joined for it: {self.step_id}.join/{stream}",
            )
        row = read.header()
        version = 0 if row is None else row.version
        header = header_of(hub, source, stream, version)
        return self._run(self._effective(header), self._version, version, source, replay_of)

    def _effective(self, header: Mapping[str, Any]) -> dict[str, Any]:
        told = {name: header[name] for name in self.step.header if name in header}
        return self.step.parameters.check(self.given | told)

    def _run(
        self,
        values: Mapping[str, Any],
        parameters_version: int,
        header_version: int,
        source: str,
        replay_of: Mapping[str, Any],
    ) -> dict[str, Any]:
        return runs.run_document(
            self.step,
            self.step_id,
            self.code,
            values,
            parameters_version=parameters_version,
            header_version=header_version,
            reads=(source,),
            writes=self.writes,
            replay_of=replay_of,
        )

    # ------------------------------------------------------------------ doing it

    def replay(self, doing: Replay, stop: threading.Event) -> Iterator[None]:
        """Do what was planned; a turn for each piece of it."""
        made, hub = doing.plan, doing.hub
        assert made.document is not None
        of, version = made.document["replay_of"], made.document["header_version"]
        header = header_of(hub, made.source, made.stream, version)
        code = Code(self.step, self.given)
        with _Port(doing, self) as port:
            engine = self._engine(port, code, made.source, of, stop)
            engine.handle(Header(made.source, made.stream, version, header))
            # Inputs come in order, one after the other: nothing has to wait for its turn.
            engine.handle(Settled(made.source, made.stream, limits.ID_MAX))
            for page in doing.paced(stop, payloads=True):
                self._give(engine, page, stop)
                doing.took(page)
                doing.tell(engine.counts)
                yield
            if stop.is_set():
                engine.drain()
            else:
                end = StreamEnd(made.source, made.stream, "finished", last_id=made.hi - 1)
                engine.handle(end)
            doing.tell(engine.counts)
        code.close()

    def _give(self, engine: Engine, page: Sequence[Input], stop: threading.Event) -> None:
        if not page:
            engine.idle()
            return
        try:
            engine.handle(_Page(page))
        except Stopped:
            stop.set()

    def _engine(
        self,
        port: _Port,
        code: Code,
        source: str,
        of: Mapping[str, Any],
        stop: threading.Event,
    ) -> Engine:
        def document(
            values: Mapping[str, Any], parameters_version: int, header_version: int
        ) -> dict[str, Any]:
            return self._run(values, parameters_version, header_version, source, of)

        book = runs.RunBook(document, port.run)
        book.parameters_version = self._version
        return Engine(
            self.step,
            code,
            port,
            book,
            step_id=self.step_id,
            worker=f"{socket.gethostname()}:{os.getpid()}",
            on_error=OnError(),
            clock=time.monotonic,
            time_ns=time.time_ns,
            pause=stop.wait,
            writes=self.writes,
        )


class _Page(Batch):
    """Messages that were looked up, as a run of them that has come."""

    def __init__(self, messages: Sequence[Input]) -> None:
        super().__init__(messages[0]._columns.arrived, None)
        self._messages = messages

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[Message | DatasetMessage]:
        return iter(self._messages)


class _Done:
    """The answer to what needs none."""

    def done(self) -> bool:
        return True

    def exception(self, timeout: float | None = None) -> Error | None:
        return None


class _Port:
    """The node as the engine sees it: results go to the stream of the replay, nothing is leased."""

    def __init__(self, doing: Replay, job: StepJob) -> None:
        made = doing.plan
        self._hub = doing.hub
        self._out = self._hub.source(made.to_source).stream(made.to_stream)
        self._writer = self._out.writer(level=job.level, finish=False)
        failed = f"{job.step_id}{failures.SUFFIX}"
        self._failed_stream = self._hub.source(failed).stream(made.to_stream)
        self._failed: Writer | None = None
        # Under automatic ids nobody would see that something is missing in between.
        self._one_by_one = job.step.many
        self._latest: Ticket = _Done()

    def __enter__(self) -> _Port:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for writer in (self._writer, self._failed):
            if writer is not None and kind is None:
                writer.close()

    def publish(self, made: Publication) -> Ticket:
        if not made.values:
            ids = itertools.chain.from_iterable(itertools.starmap(range, made.skips))
            self._writer.skip(ids)
            return _Done()
        origin = Origin(
            run=made.run,
            source=made.source,
            stream=made.stream,
            seqs=made.seqs,
            ks=made.ks,
            spans=made.spans,
            skips=made.skips,
        )
        if self._one_by_one:
            self._latest.exception()
        self._latest = self._writer.publish(
            made.values, made.metas, made=origin, ids=made.ids, name=made.name
        )
        return self._latest

    def fail(
        self, message: Input, inputs: Sequence[Input], run: int, meta: dict[str, Any]
    ) -> Ticket:
        if self._failed is None:
            self._failed = self._failed_stream.writer(finish=False)
        origin = Origin(run=run, source=message.source, stream=message.stream, seqs=(message.seq,))
        return self._failed.publish([NOTHING], [meta], made=origin)

    def acknowledge(self, inputs: Sequence[Input]) -> None:
        """Nobody has leased them."""

    def give_back(self, message: Input, delay_s: float, *, counted: bool) -> None:
        """Nobody has leased it; what is not done is done when the replay goes on."""

    def finish(self, stream: str, last_id: int | None, next_stream: str) -> None:
        self._writer.flush()
        self._out.finish(last_id)

    def close(self, stream: str) -> None:
        """Its writer is closed at the end."""

    def run(self, document: Mapping[str, Any]) -> int:
        return self._hub.define_run(dict(document)).no

    def read_to_its_end(self, source: str, stream: str, id: int) -> bool:
        """Whether a window that waits for more has to be closed: never before the end."""
        return False


def keeps_state(step: Step) -> bool:
    """Whether results may depend on inputs before theirs."""
    return bool(step.hooks) or (step.form is Form.CLASS and step.ordered)


def header_of(hub: Hub, source: str, stream: str, version: int) -> dict[str, Any]:
    """A version of the header of a stream; empty when there is none (version 0).

    Raises
    ------
    BadInput : it is not kept any more.
    """
    if not version:
        return {}
    row = hub.source(source).stream(stream).header(version)
    if row is None:
        raise BadInput(f"version {version} of the header of {source}/{stream} is not kept any more")
    return msgspec.json.decode(row.document, type=dict[str, Any])


# ------------------------------------------------------------------------------- finding


def find_job(
    name: str, pipeline: Path | None = None, given: Mapping[str, str] | None = None
) -> StepJob:
    """A step by its name.

    Parameters
    ----------
    name : as `beamstream.worker.loading.load` takes it; with `pipeline` a step of that file.
    given : parameters as they are typed, in place of the pipeline's and the defaults.

    Raises
    ------
    BadStep, BadPipeline, BadParameter : there is none, or it cannot work so.
    """
    if pipeline is None:
        step = loading.load(name)
        typed = step.parameters.check_text(given or {}, partial=True)
        return StepJob(step, step.name, {}, typed)
    found = load_plan(pipeline)
    planned = found.step(name)
    step = loading.load(planned.where)
    typed = step.parameters.check_text(given or {}, partial=True)
    writes, level = planned.writes or "", planned.entry.level
    job = StepJob(step, planned.step_id, planned.parameters, typed, writes, level)
    job.beamtime = found.file.beamtime
    return job

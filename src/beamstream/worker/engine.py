"""The order of things in a worker: what comes is given to the step, what it makes is published.

Pure but for the step itself and its `Port`: clock and pauses are arguments. Results gather until
they are worth a publication; the answers to publications are looked at later, oldest first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from beamstream import limits
from beamstream.client.native.events import Gap, Header, Settled, StreamEnd
from beamstream.client.native.messages import Batch
from beamstream.errors import BadParameter, Error, StepFailed
from beamstream.worker import policy, works
from beamstream.worker.calling import Code, Input
from beamstream.worker.counts import Counts
from beamstream.worker.failures import Notes, type_name
from beamstream.worker.flows import Flow
from beamstream.worker.policy import GiveUp, OnError, Retry
from beamstream.worker.port import Port
from beamstream.worker.publishing import Publisher
from beamstream.worker.works import Work

if TYPE_CHECKING:
    from beamstream.worker.results import Result
    from beamstream.worker.runs import RunBook
    from beamstream.worker.steps import Step

HELD_WORKS: Final = 1_000
HELD_NBYTES: Final = 256 * limits.MIB
"""What a worker holds back for the order of results, before it gives inputs back."""

GIVEN_BACK_S: Final = 0.5
Hook = Callable[[str, int], None]
"""Called with "called", "made" or "published" and the number of the input (`jobs.Faults`)."""


class Stopped(Exception):  # noqa: N818
    """The policy of the step is to stop; or the worker has been told to."""


class Engine:
    """One worker.

    Parameters
    ----------
    step_id, worker : for the notes about failures.
    clock, time_ns : seconds that never go back; nanoseconds since 1970 UTC.
    pause : waits so many seconds; True when the worker is to end.
    hook : see `Hook`.
    ending : whether the worker is to end: asked between inputs.
    """

    def __init__(
        self,
        step: Step,
        code: Code,
        port: Port,
        book: RunBook,
        *,
        step_id: str,
        worker: str,
        on_error: OnError,
        clock: Callable[[], float],
        time_ns: Callable[[], int],
        pause: Callable[[float], bool],
        writes: str | None,
        hook: Hook | None = None,
        ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self.step = step
        self.code = code
        self.port = port
        self.book = book
        self.counts = Counts()
        self.error: Exception | None = None
        """Of the last input that was given up."""
        self._notes = Notes(port, self.counts, step=step_id, worker=worker, time_ns=time_ns)
        self._policy = on_error
        self._clock = clock
        self._pause = pause
        self._ending = ending
        self._writes = writes
        self._hook = hook
        self._flows: dict[tuple[str, str], Flow] = {}
        self._in_hand: dict[int, Input] = {}
        """All that is leased and of which it is not known yet that it is settled."""
        self._given = 0
        self._publisher = Publisher(
            step, port, self.counts, failed=self._unstored, published=self._was_published,
            done=lambda work: self._over(work.inputs), clock=clock, pause=pause,
        )  # fmt: skip
        # An input that failed waits its turn here when others must not overtake it, or get it.
        self._in_place = step.exclusive or step.output == "ordered"

    # ------------------------------------------------------------------ what comes

    def handle(self, event: Batch | Gap | Header | Settled | StreamEnd) -> None:
        """Do what follows from an event of the subscription.

        Raises
        ------
        Stopped : the policy says so, or the worker is to end: `drain` is what follows.
        """
        match event:
            case Batch():
                self._batch(event)
            case Header():
                self._header(event)
            case Settled():
                flow = self._flow(event.source, event.stream)
                flow.settled = max(flow.settled, event.seq)
                self._release(flow)
            case Gap():
                flow = self._flow(event.source, event.stream)
                if flow.passed(event.hi, self.step.window):
                    self._close_window(flow)
            case StreamEnd():
                self._end(event)
        self._publisher.flush()
        self._publisher.reap()

    def idle(self) -> None:
        """Nothing comes at the moment."""
        self._publisher.flush()
        self._publisher.reap()
        for flow in list(self._flows.values()):
            if flow.window and self.port.read_to_its_end(
                flow.source, flow.stream, flow.window[-1].id
            ):
                self._close_window(flow)
                self._publisher.flush()

    def set_parameters(self, values: dict[str, object], version: int) -> None:
        """Use other parameters from the next input on.

        Raises
        ------
        BadParameter : they do not suit the step; then nothing has changed.
        """
        self.code.set(values)
        self.book.parameters_version = version

    # ------------------------------------------------------------------ inputs

    def _flow(self, source: str, stream: str) -> Flow:
        flow = self._flows.get((source, stream))
        if flow is None:
            flow = self._flows[source, stream] = Flow(source, stream)
        return flow

    def _header(self, event: Header) -> None:
        flow = self._flow(event.source, event.stream)
        flow.header, flow.header_version = event.meta, event.version
        flow.wrong = None
        if flow.caller is not None:
            try:
                flow.caller.set_header(event.meta)
            except BadParameter as error:
                # Inputs fail with it, one by one, until the header is corrected.
                flow.wrong = error

    def _prepare(self, flow: Flow) -> None:
        """Make what calls the step for a stream; its inputs fail with what is wrong about it."""
        if flow.begun:
            return
        try:
            if flow.caller is None:
                flow.caller = self.code.stream(flow.header)
        except BadParameter as error:
            flow.wrong = error
            return
        except Exception as error:
            # It would go wrong for every input: that is not their fault.
            raise StepFailed(
                f"no instance of step {self.step.name!r} can be made: {type_name(error)}: {error}"
            ) from error
        try:
            flow.caller.begin()
            flow.begun, flow.wrong = True, None
        except Exception as error:
            flow.wrong = error

    def _batch(self, batch: Batch) -> None:
        flow = self._flow(batch.source, batch.stream)
        inputs = list(batch)
        self._in_hand.update((id(one), one) for one in inputs)
        self._prepare(flow)
        if self.step.window:
            self._windows(flow, inputs)
        else:
            self._each(flow, inputs)

    def _each(self, flow: Flow, inputs: list[Input]) -> None:
        width = 1 if flow.caller is None else flow.caller.width
        for at in range(0, len(inputs), width):
            if self._ending():
                raise Stopped("told to end")
            some = inputs[at : at + width]
            began = self._clock()
            self._called(some)
            outcomes = flow.call(some)
            now = self._clock()
            self.counts.busy_s += now - began
            for message, outcome in zip(some, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    self._failed(flow, message, outcome)
                else:
                    self._made(flow, Work((message,), outcome, self._run(flow)))
            self._publisher.flush_due(now)

    def _called(self, inputs: Sequence[Input]) -> None:
        if self._hook is not None:
            for _ in inputs:
                self._given += 1
                self._hook("called", self._given)

    def _was_published(self) -> None:
        if self._hook is not None:
            self._hook("published", self._given)

    def _run(self, flow: Flow) -> int:
        values = flow.caller.values if flow.caller is not None else self.code.given
        known = (self.book.parameters_version, flow.header_version)
        if flow.run_values is not values or flow.run_versions != known:
            flow.run = self.book.number(values, flow.header_version)
            flow.run_values, flow.run_versions = values, known
        return flow.run

    # ------------------------------------------------------------------ windows

    def _windows(self, flow: Flow, inputs: list[Input]) -> None:
        size = self.step.window
        for message in inputs:
            if flow.passed(message.id, size):
                self._close_window(flow)
            flow.window.append(message)
            self._called([message])
            if message.id % size == 0:
                self._close_window(flow)

    def _close_window(self, flow: Flow) -> None:
        inputs, flow.window = flow.window, []
        block = flow.block(inputs[0].id, self.step.window)
        results = self._insisting(flow, inputs)
        if results is not None:
            self._made(flow, Work(inputs, results, self._run(flow), id=block))

    def _insisting(self, flow: Flow, inputs: list[Input]) -> list[Result] | None:
        """Call the step until it does not fail, or the policy gives up (None)."""
        attempt = max(one.delivery for one in inputs)
        while True:
            began = self._clock()
            try:
                return flow.call_window(inputs)
            except Exception as error:
                decision = policy.decide(self._policy, attempt, lasting=policy.lasting(error))
                if isinstance(decision, GiveUp):
                    self._give_up(flow, inputs, error, attempt, decision)
                    return None
                self._wait(decision)
                attempt += 1
            finally:
                self.counts.busy_s += self._clock() - began

    def _wait(self, retry: Retry) -> None:
        self.counts.retried += 1
        self._publisher.flush()
        if self._pause(retry.after_s) or self._ending():
            raise Stopped("told to end")

    # ------------------------------------------------------------------ results

    def _made(self, flow: Flow, work: Work) -> None:
        if "on_stream_end" in self.step.hooks and work.inputs:
            flow.latest = work.inputs[-1]
        if self._hook is not None and work.inputs:
            self._hook("made", self._given)
        if not self._writes:
            if work.results:
                error = StepFailed(
                    f"step {self.step.name!r} gave a result, and writes nothing",
                    hint='@step(writes="SOURCE"), or `writes:` in the pipeline',
                )
                self._give_up(flow, work.inputs, error, 1, GiveUp(self._policy.then))
                return
            self._acknowledge(work.inputs)
            return
        if self.step.output == "ordered" and not self.step.ordered:
            flow.hold(work)
            self._release(flow)
            self._make_room(flow)
        else:
            self._add(work)

    def _acknowledge(self, inputs: Sequence[Input]) -> None:
        self.port.acknowledge(inputs)
        self.counts.finished(len(inputs), 0, 0)
        self._over(inputs)

    def _release(self, flow: Flow) -> None:
        for work in flow.released():
            self._add(work)

    def _make_room(self, flow: Flow) -> None:
        # Whoever has the one that all wait for may need another worker that is free to take it.
        while len(flow.held) > HELD_WORKS or flow.held_nbytes > HELD_NBYTES:
            if len(flow.held) <= 1:
                return
            self._give_back(flow.drop_last().inputs, GIVEN_BACK_S)

    def _add(self, work: Work) -> None:
        if works.is_one_unit(work) or self.step.at_least_once:
            self._publisher.add(work)
            return
        error = StepFailed(
            f"step {self.step.name!r} gave {len(work.results)} named results for one input",
            hint="declare @step(at_least_once=True): they are stored one by one",
        )
        self._unstored(work, error)

    def _unstored(self, work: Work, error: Error) -> None:
        if not work.inputs:
            self.counts.note = f"the end of {work.stream} is not stored: {error}"
            return
        attempt = max(one.delivery for one in work.inputs)
        flow = self._flow(work.source, work.stream)
        self._give_up(flow, work.inputs, error, attempt, GiveUp(self._policy.then))

    # ------------------------------------------------------------------ failures

    def _failed(self, flow: Flow, message: Input, error: Exception) -> None:
        attempt = message.delivery
        decision = policy.decide(self._policy, attempt, lasting=policy.lasting(error))
        if isinstance(decision, GiveUp):
            self._give_up(flow, [message], error, attempt, decision)
        elif self._in_place:
            self._try_again(flow, message, decision, attempt)
        else:
            self.counts.retried += 1
            self._give_back([message], decision.after_s, counted=True)

    def _try_again(self, flow: Flow, message: Input, retry: Retry, attempt: int) -> None:
        while True:
            self._wait(retry)
            self._prepare(flow)
            [outcome] = flow.call([message])
            if not isinstance(outcome, Exception):
                self._made(flow, Work((message,), outcome, self._run(flow)))
                return
            attempt += 1
            decision = policy.decide(self._policy, attempt, lasting=policy.lasting(outcome))
            if isinstance(decision, GiveUp):
                self._give_up(flow, [message], outcome, attempt, decision)
                return
            retry = decision

    def _give_up(
        self, flow: Flow, inputs: Sequence[Input], error: Exception, attempt: int, what: GiveUp
    ) -> None:
        """Write the failure down, and do with the inputs what the policy says."""
        self.error = error
        run = self._run_or_none(flow)
        dead = what.then == "dead"
        if not self._notes.write(inputs, error, run, attempt, what.then, dead=dead) or dead:
            self._over(inputs)
        elif what.then == "stop":
            raise Stopped(self.counts.note)
        elif not self._writes:
            self._acknowledge(inputs)
        else:
            block = flow.block(inputs[0].id, self.step.window) if self.step.window else 0
            self._add(Work(inputs, [], run, id=block))

    def _run_or_none(self, flow: Flow) -> int:
        try:
            return self._run(flow)
        except StepFailed:
            return 0

    def _give_back(
        self, inputs: Sequence[Input], delay_s: float = 0.0, *, counted: bool = False
    ) -> None:
        self._over(inputs)
        for message in inputs:
            self.port.give_back(message, delay_s, counted=counted)

    def _over(self, inputs: Sequence[Input]) -> None:
        for message in inputs:
            self._in_hand.pop(id(message), None)

    # ------------------------------------------------------------------ ends

    def _end(self, event: StreamEnd) -> None:
        key = (event.source, event.stream)
        flow = self._flow(*key)
        if flow.window:
            self._close_window(flow)
        self._release(flow)
        self._last_words(flow, event.reason)
        self._publisher.settle_all()
        del self._flows[key]
        if flow.caller is not None:
            self.code.forget(flow.caller)
        if not self._writes:
            return
        if event.reason == "finished":
            self.port.finish(event.stream, self._last_id(event.last_id), event.next_stream)
        self.port.close(event.stream)

    def _last_words(self, flow: Flow, reason: str) -> None:
        """What ``on_stream_end`` gives belongs to the last input that this worker has seen."""
        if not flow.begun or flow.latest is None or flow.caller is None:
            return
        try:
            results = flow.caller.end(reason)
        except Exception as error:
            self.error = error
            self._notes.write([flow.latest], error, self._run_or_none(flow), 1, "end", dead=False)
            return
        if results and self._writes:
            run = self._run(flow)
            self._add(Work((), results, run, first_k=works.AT_THE_END, like=flow.latest))

    def _last_id(self, last_id: int) -> int | None:
        if not works.keeps_ids(self.step):
            return None
        return -(-last_id // self.step.window) if self.step.window else last_id

    def drain(self) -> None:
        """Publish what is ready, and give back the rest: windows, results that have to wait."""
        for flow in self._flows.values():
            self._release(flow)
        self._publisher.settle_all()
        self.let_go()

    def let_go(self) -> None:
        """Give back all that is in hand, at once; no attempt is counted."""
        self._give_back(list(self._in_hand.values()))
        for flow in self._flows.values():
            flow.held, flow.window = [], []

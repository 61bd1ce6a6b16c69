"""Calling the code of a step: messages in, results out, whatever its form is."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from beamstream.client.native.messages import DatasetMessage, Message, arrays_of
from beamstream.errors import DataLost, StepFailed
from beamstream.worker.results import Result, gather, of_value
from beamstream.worker.steps import Form, Step, has_init

Input = Message | DatasetMessage
Outcome = list[Result] | Exception
"""What became of one input: its results, or what was raised."""

_READY: Final = (np.ndarray, list, Result)
"""What steps mostly return: nothing that has to be waited for."""

AWAITED_MAX: Final = 64
"""Inputs of an async step that are under way at once."""


class Code:
    """The code of a step in this process, with its parameters.

    Parameters
    ----------
    values : of parameters; those that are missing have their defaults.

    Raises
    ------
    BadParameter : values that the step does not take.
    """

    def __init__(self, step: Step, values: Mapping[str, object] | None = None) -> None:
        self.step = step
        self.given: dict[str, Any] = {}
        self._runner: asyncio.Runner | None = None
        self._shared: Any = None
        self._callers: list[Caller] = []
        self.set(values or {})

    def set(self, values: Mapping[str, object]) -> None:
        """Use other parameters from the next call on."""
        self.step.parameters.check(values, later=self.step.header)
        self.given = dict(values)
        for caller in self._callers:
            caller.refresh()

    def stream(self, header: Mapping[str, Any] | None = None) -> Caller:
        """What calls the code for the messages of one stream."""
        caller = Caller(self, dict(header or {}))
        self._callers.append(caller)
        return caller

    def forget(self, caller: Caller) -> None:
        """A stream has ended."""
        if caller in self._callers:
            self._callers.remove(caller)

    def instance(self, values: dict[str, Any]) -> Any:
        """The object that is called: the function, or an instance of the class."""
        step = self.step
        if step.form is not Form.CLASS:
            return step.target
        own = step.exclusive or bool(step.header)
        if not own and self._shared is not None:
            return self._shared
        made = _make(step, values)
        if not own:
            self._shared = made
        return made

    def wait(self, awaitable: Any) -> Any:
        """Run a coroutine on the loop of this step, to its end."""
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(_await(awaitable))

    def close(self) -> None:
        """End the loop, if there is one."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None


class Caller:
    """Calls a step for the messages of one stream, one after the other."""

    def __init__(self, code: Code, header: dict[str, Any]) -> None:
        self._code = code
        self._step = code.step
        self.header = header
        self.values = self._effective()
        self._instance = code.instance(self.values)
        self._call: Callable[..., Any] = (
            getattr(self._instance, self._step.method) if self._step.method else self._instance
        )
        self._named: dict[str, Any] = {} if self._step.form is Form.CLASS else self.values

    # ------------------------------------------------------------------ parameters

    def set_header(self, header: Mapping[str, Any]) -> None:
        """The header of the stream has changed."""
        self.header = dict(header)
        self.refresh()

    def refresh(self) -> None:
        """Parameters, or the header, have changed."""
        before, self.values = self.values, self._effective()
        if self._step.form is not Form.CLASS:
            self._named = self.values
            return
        for name, value in self.values.items():
            if value != before.get(name):
                setattr(self._instance, name, value)

    def _effective(self) -> dict[str, Any]:
        given = dict(self._code.given)
        given.update({name: self.header[name] for name in self._step.header if name in self.header})
        return self._step.parameters.check(given)

    # ------------------------------------------------------------------ stream

    def begin(self) -> None:
        """The stream begins: ``on_stream_start``, if there is one."""
        if "on_stream_start" in self._step.hooks:
            self._finished(self._instance.on_stream_start(self.header))

    def end(self, reason: str) -> list[Result]:
        """The stream has ended: the results of ``on_stream_end``, if there is one."""
        self._code.forget(self)
        if "on_stream_end" not in self._step.hooks:
            return []
        value = self._finished(self._instance.on_stream_end(reason))
        results = gather(self._step.name, value, many=self._step.many)
        if results and not self._step.many:
            raise StepFailed(
                f"step {self._step.name!r} gives results at the end of a stream",
                hint="they have no input whose id they could keep: declare @step(many=True)",
            )
        return results

    # ------------------------------------------------------------------ calling

    @property
    def width(self) -> int:
        """How many inputs are best given at once to `several`."""
        step = self._step
        return step.batch or (AWAITED_MAX if step.is_async and not step.exclusive else 1)

    def several(self, inputs: Sequence[Input]) -> list[Outcome]:
        """What became of each of them; one that fails does not harm the others."""
        step = self._step
        if step.batch:
            return self._batch(inputs)
        if step.is_async and len(inputs) > 1:
            found: list[Outcome] = self._code.wait(self._together(inputs))
            return found
        return [self._caught(one) for one in inputs]

    def one(self, message: Input) -> list[Result]:
        """The results of one input; raises what the step raises."""
        step = self._step
        if step.batch:
            return self._lists([message])[0]
        value = self._invoke(*self._arguments(message), **self._filled(message))
        return self._gathered(self._finished(value))

    def window(self, inputs: Sequence[Input]) -> list[Result]:
        """The one result of a window, or none; raises what the step raises."""
        arguments, filled = self._of_lists(inputs)
        value = self._finished(self._invoke(*arguments, **filled))
        return gather(self._step.name, value, many=False)

    def _caught(self, message: Input) -> Outcome:
        try:
            return self.one(message)
        except Exception as error:
            return error

    def _batch(self, inputs: Sequence[Input]) -> list[Outcome]:
        try:
            return list(self._lists(inputs))
        except Exception as error:
            if len(inputs) == 1:
                return [error]
        # One of them is to blame: only that one has to suffer.
        return [self._caught(one) for one in inputs]

    def _lists(self, inputs: Sequence[Input]) -> list[list[Result]]:
        step = self._step
        arguments, filled = self._of_lists(inputs)
        values = self._finished(self._invoke(*arguments, **filled))
        if values is None:
            return [[] for _ in inputs]
        if not hasattr(values, "__len__") or len(values) != len(inputs):
            count = len(values) if hasattr(values, "__len__") else "no number of"
            raise StepFailed(
                f"step {step.name!r} returned {count} results for {len(inputs)} inputs",
                hint="a step with batch returns a list: for each input a result or None",
            )
        if step.many:
            return [self._gathered(value) for value in values]
        found = [of_value(step.name, value) for value in values]
        return [[] if one is None else [one] for one in found]

    async def _together(self, inputs: Sequence[Input]) -> list[Outcome]:
        async def one(message: Input) -> Outcome:
            try:
                value = self._invoke(*self._arguments(message), **self._filled(message))
                return self._gathered(await _await(value))
            except Exception as error:
                return error

        return list(await asyncio.gather(*map(one, inputs)))

    def _invoke(self, *arguments: Any, **filled: Any) -> Any:
        return self._call(*arguments, **self._named, **filled)

    def _finished(self, value: Any) -> Any:
        if value is None or isinstance(value, _READY):
            return value
        if inspect.isawaitable(value) or inspect.isasyncgen(value):
            return self._code.wait(value)
        return value

    def _gathered(self, value: object) -> list[Result]:
        step = self._step
        return gather(step.name, value, many=step.many, unbounded=step.at_least_once)

    # ------------------------------------------------------------------ arguments

    def _arguments(self, message: Input) -> Sequence[Any]:
        step = self._step
        if step.takes_message:
            return (message,)
        if step.inputs == 1:
            return (self._array(message),)
        return list(self._parts(message)) if step.inputs else ()

    def _array(self, message: Input) -> Any:
        if isinstance(message, Message):
            return message.array()
        raise StepFailed(
            f"step {self._step.name!r} wants one array, input {message.id} of stream "
            f"{message.stream!r} is a dataset of {len(message)} parts",
            hint="annotate its argument: DatasetMessage",
        )

    def _parts(self, message: Input) -> Iterator[Any]:
        if not isinstance(message, DatasetMessage):
            raise StepFailed(
                f"step {self._step.name!r} joins {self._step.inputs} sources, input {message.id} "
                f"of stream {message.stream!r} is a single message"
            )
        for number in range(1, self._step.inputs + 1):
            try:
                yield message.array(number)
            except DataLost:
                if number not in message.missing:
                    raise
                yield None

    def _filled(self, message: Input) -> dict[str, Any]:
        wants = self._step.wants
        if not wants:
            return {}
        made: dict[str, Any] = {}
        if "meta" in wants:
            made["meta"] = message.meta
        if "header" in wants:
            made["header"] = self.header
        if "message" in wants:
            made["message"] = message
        return made

    def _of_lists(self, inputs: Sequence[Input]) -> tuple[Sequence[Any], dict[str, Any]]:
        step = self._step
        columns: list[list[Any]]
        messages = [one for one in inputs if isinstance(one, Message)]
        if step.inputs == 1 and not step.takes_message and len(messages) == len(inputs):
            columns = [arrays_of(messages)]
        else:
            columns = [list(column) for column in zip(*map(self._arguments, inputs), strict=True)]
        filled: dict[str, Any] = {}
        if "meta" in step.wants:
            filled["meta"] = [one.meta for one in inputs]
        if "header" in step.wants:
            filled["header"] = self.header
        if "message" in step.wants:
            filled["message"] = list(inputs)
        return columns, filled


async def _await(value: Any) -> Any:
    if inspect.isasyncgen(value):
        return [one async for one in value]
    return await value if inspect.isawaitable(value) else value


def _make(step: Step, values: dict[str, Any]) -> Any:
    if has_init(step.target):
        return step.target(**values)
    made = step.target()
    for name, value in values.items():
        setattr(made, name, value)
    return made

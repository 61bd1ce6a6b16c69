"""`step`: a function, or a class, and what it reads and writes."""

from __future__ import annotations

import enum
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple, overload

from beamstream import limits
from beamstream.errors import BadInput, BadStep
from beamstream.model import check_label
from beamstream.worker import parameters
from beamstream.worker.parameters import Parameters

__all__ = ["Form", "Read", "Step", "parse_read", "step"]

Order = Literal["unordered", "ordered"]
WANTED: Final = ("meta", "header", "message")
"""Arguments of these names are filled by the framework, and are no parameters."""

WINDOW_MAX: Final = 1_000_000
_MESSAGE: Final = re.compile(r"\b(Dataset)?Message\b")
_MANY: Final = re.compile(
    r"^(typing\.|collections\.abc\.)?(Async)?(list|Iterator|Iterable|Generator)\b"
)
_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Form(enum.Enum):
    """How the code of a step is written."""

    FUNCTION = "function"
    GENERATOR = "generator"
    CLASS = "class"


class Read(NamedTuple):
    """What a step reads: a source, and which of its streams."""

    source: str
    pattern: str = "*"

    def __str__(self) -> str:
        return self.source if self.pattern == "*" else f"{self.source}/{self.pattern}"


def parse_read(text: str) -> Read:
    """``source``, or ``source/pattern``.

    >>> parse_read("eiger"), parse_read("eiger/scan*")
    (Read(source='eiger', pattern='*'), Read(source='eiger', pattern='scan*'))

    Raises
    ------
    BadStep : it names nothing.
    """
    source, _, pattern = text.partition("/")
    try:
        found = Read(check_label("source", source), pattern or "*")
        check_label("stream", found.pattern)
    except BadInput as error:
        raise BadStep(f"{text[:80]!r} is nothing to read: {error.message}", hint="SOURCE or "
                      "SOURCE/PATTERN") from None  # fmt: skip
    return found


class Step:
    """A step: code, and how it is used. Made by `step`; called, it is what was decorated.

    Attributes
    ----------
    name, reads, writes : the data sources it lies between; `writes` None: it gives nothing.
    parameters : those that it takes.
    mode, output, many, batch, window, key, sticky, lease, level, header, min_parts, wait,
    at_least_once : as given to `step`.
    form : function, generator or class; `is_async`: it has to be awaited.
    inputs : how many positional arguments are payloads; several for a join, 0 for metadata alone.
    takes_message : they are the messages themselves.
    wants : of `WANTED`, which arguments are filled.
    """

    name: str
    reads: tuple[Read, ...]
    writes: str | None
    parameters: Parameters
    mode: Order
    output: Order
    many: bool
    batch: int
    window: int
    key: str
    sticky: int
    lease: float
    level: str | None
    header: tuple[str, ...]
    min_parts: int
    wait: float
    at_least_once: bool
    form: Form
    is_async: bool
    inputs: int
    takes_message: bool
    wants: tuple[str, ...]

    def __init__(self, target: Callable[..., Any], **how: Any) -> None:
        if not (inspect.isclass(target) or inspect.isroutine(target)):
            raise BadStep(f"{target!r} is no function and no class")
        self.target = target
        self.doc = inspect.getdoc(target) or ""
        self.__doc__ = target.__doc__
        self.__name__ = getattr(target, "__name__", "step")
        self.__module__ = target.__module__
        self.__wrapped__ = target
        self.where = f"{target.__module__}:{getattr(target, '__qualname__', self.__name__)}"
        """Where `beamstream.worker.loading.load` finds it."""
        for name, value in how.items():
            setattr(self, name, value)
        self._read_code()
        self._check()

    def __repr__(self) -> str:
        reads = ", ".join(map(str, self.reads)) or "nothing yet"
        return f"<Step {self.name}: {reads} -> {self.writes or 'nothing'}>"

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function, or make an instance of the class, as if it were not decorated."""
        return self.target(*arguments, **named)

    @property
    def hooks(self) -> tuple[str, ...]:
        """Those of ``on_stream_start`` and ``on_stream_end`` that its class has."""
        if self.form is not Form.CLASS:
            return ()
        return tuple(
            name for name in ("on_stream_start", "on_stream_end") if hasattr(self.target, name)
        )

    @property
    def exclusive(self) -> bool:
        """One worker at a time reads a stream: order, windows and state need that."""
        return self.ordered or bool(self.hooks)

    @property
    def ordered(self) -> bool:
        return self.mode == "ordered" or self.window > 0

    @property
    def lists(self) -> bool:
        """Its arguments are lists."""
        return bool(self.batch or self.window)

    @property
    def module(self) -> Any:
        """The module that its code is in."""
        return sys.modules.get(self.target.__module__)

    # ------------------------------------------------------------------ reading the code

    def _read_code(self) -> None:
        target = self.target
        if inspect.isclass(target):
            self.form = Form.CLASS
            method = "process" if hasattr(target, "process") else "__call__"
            code = getattr(target, method, None)
            if not inspect.isfunction(code):
                raise BadStep(
                    f"class {target.__name__!r} has no method `process`",
                    hint="def process(self, frame): …",
                )
            self.method = method
            arguments = list(inspect.signature(code).parameters.values())[1:]
        else:
            code, self.method = target, ""
            arguments = list(inspect.signature(code).parameters.values())
            generates = inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code)
            self.form = Form.GENERATOR if generates else Form.FUNCTION
        self.generates = inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code)
        self.is_async = inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code)
        if self.many is None:
            self.many = self.generates or (not self.lists and _gives_many(code))
        self._read_arguments(arguments)

    def _read_arguments(self, arguments: list[inspect.Parameter]) -> None:
        positional = [one for one in arguments if one.kind in _POSITIONAL]
        if positional and positional[0].name == "message":
            # `def step(message)` is about its first argument, whatever that is called.
            first, self.takes_message = positional.pop(0), True
            payloads = [first]
        else:
            payloads, self.takes_message = [], False
        payloads += [one for one in positional if one.name not in WANTED]
        named = [one for one in arguments if one.kind is inspect.Parameter.KEYWORD_ONLY]
        self.wants = tuple(
            one.name for one in arguments if one.name in WANTED and one not in payloads
        )
        self.takes_message |= any(_MESSAGE.search(_text(one.annotation)) for one in payloads)
        self.inputs = len(payloads)
        many = len(self.reads) if len(self.reads) > 1 else 1
        if len(payloads) > many and not (many == 1 and self.takes_message):
            extra = payloads[many].name
            raise BadStep(
                f"step {self.name!r} has {len(payloads)} arguments for {many} inputs",
                hint=f"parameters stand behind a star: (…, *, {extra}: …)",
            )
        if any(one.kind in _VARIABLE for one in arguments):
            raise BadStep(f"step {self.name!r} takes any arguments", hint="name its parameters")
        self.parameters = self._declared(named)

    def _declared(self, named: list[inspect.Parameter]) -> Parameters:
        found = [one for one in named if one.name not in WANTED]
        names = dict(vars(self.module)) if self.module is not None else {}
        if self.form is not Form.CLASS:
            return parameters.declare(self.name, found, names, self.doc)
        if found:
            raise BadStep(
                f"parameters of step {self.name!r} are of its class, not of {self.method!r}",
                hint="def __init__(self, *, …)",
            )
        assert inspect.isclass(self.target)
        return parameters.declare(self.name, _fields(self.target), names, self.doc)

    # ------------------------------------------------------------------ checking

    def _check(self) -> None:
        name = self.name
        if not _SAFE_NAME.fullmatch(name):
            raise BadStep(f"{name[:80]!r} is no name of a step", hint="letters, digits, _ . -")
        if self.writes is not None:
            check_label("source", self.writes)
        if self.mode not in ("unordered", "ordered") or self.output not in ("unordered", "ordered"):
            raise BadStep(f"step {name!r}: mode and output are 'unordered' or 'ordered'")
        if not 0 <= self.batch <= limits.NATIVE_BATCH_MAX:
            raise BadStep(f"step {name!r}: a batch has 1 … {limits.NATIVE_BATCH_MAX} inputs")
        if not 0 <= self.window <= WINDOW_MAX:
            raise BadStep(f"step {name!r}: a window has 1 … {WINDOW_MAX} ids")
        if self.window and (self.batch or self.many or self.key or self.sticky):
            raise BadStep(f"step {name!r} has a window", hint="without batch, many, key and sticky")
        if self.key and self.sticky:
            raise BadStep(f"step {name!r} is keyed or sticky, not both")
        if len(self.reads) > 1 and (self.key or self.sticky):
            raise BadStep(f"step {name!r} joins sources", hint="without key and sticky")
        if self.sticky < 0 or self.lease <= 0 or self.min_parts < 0 or self.wait < 0:
            raise BadStep(f"step {name!r} has a negative number")
        if self.lists and self.generates:
            raise BadStep(f"step {name!r} takes lists, and gives lists: it cannot be a generator")
        for one in self.header:
            if one not in self.parameters:
                raise BadStep(
                    f"step {name!r}: {one!r} of `header` is none of its parameters",
                    hint=", ".join(self.parameters.names) or "it has none",
                )


_POSITIONAL: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)
_VARIABLE: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _text(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _gives_many(code: Callable[..., Any]) -> bool:
    return bool(_MANY.match(_text(inspect.signature(code).return_annotation)))


def has_init(target: Any) -> bool:
    """Whether instances of a class are made with arguments, not by setting attributes."""
    return target.__init__ is not object.__init__


def _fields(target: type) -> Iterable[inspect.Parameter]:
    """What makes an instance: arguments of ``__init__``, or annotated attributes."""
    if has_init(target):
        arguments = list(inspect.signature(target).parameters.values())
        return [one for one in arguments if one.kind not in _VARIABLE]
    found: dict[str, Any] = {}
    for base in reversed(target.__mro__):
        found |= vars(base).get("__annotations__", {})
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(target, name, inspect.Parameter.empty),
            annotation=annotation,
        )
        for name, annotation in found.items()
        if not name.startswith("_") and "ClassVar" not in _text(annotation)
    ]


@overload
def step(target: Callable[..., Any], /) -> Step: ...
@overload
def step(
    target: None = None,
    /,
    *,
    reads: str | Sequence[str] = (),
    writes: str | None = None,
    name: str = "",
    mode: Order = "unordered",
    output: Order = "unordered",
    many: bool | None = None,
    batch: int = 0,
    window: int = 0,
    key: str = "",
    sticky: int = 0,
    lease: float = 60.0,
    level: str | None = None,
    header: Sequence[str] = (),
    min_parts: int = 0,
    wait: float = 0.0,
    at_least_once: bool = False,
) -> Callable[[Callable[..., Any]], Step]: ...
@overload
def step(
    target: Callable[..., Any],
    /,
    *,
    reads: str | Sequence[str] = (),
    writes: str | None = None,
    name: str = "",
    mode: Order = "unordered",
    output: Order = "unordered",
    many: bool | None = None,
    batch: int = 0,
    window: int = 0,
    key: str = "",
    sticky: int = 0,
    lease: float = 60.0,
    level: str | None = None,
    header: Sequence[str] = (),
    min_parts: int = 0,
    wait: float = 0.0,
    at_least_once: bool = False,
) -> Step: ...
def step(
    target: Callable[..., Any] | None = None,
    /,
    *,
    reads: str | Sequence[str] = (),
    writes: str | None = None,
    name: str = "",
    mode: Order = "unordered",
    output: Order = "unordered",
    many: bool | None = None,
    batch: int = 0,
    window: int = 0,
    key: str = "",
    sticky: int = 0,
    lease: float = 60.0,
    level: str | None = None,
    header: Sequence[str] = (),
    min_parts: int = 0,
    wait: float = 0.0,
    at_least_once: bool = False,
) -> Step | Callable[[Callable[..., Any]], Step]:
    """Make a step of a function or a class.

    Its first argument is the payload as an ndarray; annotated `Message` or `DatasetMessage`, the
    message itself. Arguments named ``meta``, ``header`` and ``message`` are filled with metadata,
    header of the stream and message. Other keyword-only arguments are its parameters.

    Parameters
    ----------
    reads : ``source`` or ``source/pattern``; several are joined by id, an argument for each.
    writes : data source of the results; None: it gives none.
    name : of the step; that of the function without one.
    mode : "unordered", or "ordered": by id, one worker at a time for each stream.
    output : "ordered": results in the order of their inputs, though the work is not.
    many : it gives any number of results for an input, under automatic ids; None: if it is a
        generator, or annotated to return a list or iterator.
    batch : takes lists of up to so many inputs, and returns a list with as many results.
    window : takes the list of all inputs of so many ids in a row, and gives one result.
    key : inputs with the same value under this key of their metadata go to one worker.
    sticky : so many ids in a row go to one worker.
    lease : seconds after which an input of a worker that went silent is given to another one.
    level : "cache", "os" or "disk" for results; None: as the node is set.
    header : parameters that the header of the stream may set.
    min_parts, wait : of joins: so many parts are enough after so many seconds.
    at_least_once : more results for an input than one unit holds are allowed; a crash may repeat
        some of them.

    Returns
    -------
    Step : callable as what was decorated.

    Raises
    ------
    BadStep : what cannot be.

    >>> @step(reads="eiger", writes="binned")
    ... def bin2(frame, *, factor: int = 2):
    ...     return frame[::factor, ::factor]
    >>> bin2
    <Step bin2: eiger -> binned>
    >>> bin2.parameters.check({"factor": 4})
    {'factor': 4}
    """

    def decorate(code: Callable[..., Any]) -> Step:
        texts = [reads] if isinstance(reads, str) else list(reads)
        return Step(
            code,
            name=name or getattr(code, "__name__", "step"),
            reads=tuple(parse_read(text) for text in texts),
            writes=writes,
            mode=mode,
            output=output,
            many=many,
            batch=batch,
            window=window,
            key=key,
            sticky=sticky,
            lease=float(lease),
            level=level,
            header=tuple(header),
            min_parts=min_parts,
            wait=float(wait),
            at_least_once=at_least_once,
        )

    return decorate if target is None else decorate(target)

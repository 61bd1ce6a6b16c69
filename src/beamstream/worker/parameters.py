"""The parameters of a step: named, typed, with defaults and help, checked before use."""

from __future__ import annotations

import difflib
import enum
import inspect
import math
import re
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, Literal

import msgspec

from beamstream.errors import BadParameter, BadStep

_PLAIN: Final = (int, float, bool, str)
_NONE: Final = type(None)
_TYPE_WORDS: Final = re.compile(r"((int|float|bool|str|list|tuple|optional|array|ndarray)\b|\{)")


class Parameter(msgspec.Struct, frozen=True):
    """One parameter.

    Parameters
    ----------
    type : what its values are: int, float, bool, str, `Literal`, an `Enum`, lists and tuples of
        them, or one of them or None; limits by ``Annotated[int, msgspec.Meta(ge=1)]``.
    default : used when it is not given; `msgspec.UNSET` when it has to be.
    help : from the docstring.
    """

    name: str
    type: Any
    default: Any = msgspec.UNSET
    help: str = ""

    @property
    def required(self) -> bool:
        return self.default is msgspec.UNSET

    @property
    def type_name(self) -> str:
        """The type as people read it.

        >>> Parameter("how", Literal["sum", "mean"]).type_name, Parameter("n", int | None).type_name
        ("'sum' or 'mean'", 'int or null')
        """
        return _type_name(self.type)

    def check(self, value: object) -> Any:
        """`value`, as JSON or YAML has it, as the step gets it.

        Raises
        ------
        BadParameter : it is of another type.
        """
        given = value.value if isinstance(value, enum.Enum) else value
        try:
            return _finite(msgspec.convert(given, self.type))
        except msgspec.ValidationError as error:
            raise self._bad(given, str(error)) from None

    def check_text(self, text: str) -> Any:
        """`text`, as it is typed at a terminal, as the step gets it.

        >>> Parameter("sizes", list[int]).check_text("1,2,3")
        [1, 2, 3]

        Raises
        ------
        BadParameter : it cannot be read so.
        """
        try:
            return _finite(_from_text(text, self.type))
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise self._bad(text, str(error)) from None

    def _bad(self, value: object, why: str) -> BadParameter:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:80]}…"
        return BadParameter(
            f"parameter {self.name!r} is {self.type_name}, not {shown}", hint=why.split(" - ")[0]
        )


class Parameters:
    """All parameters of a step, in the order of their declaration.

    >>> found = Parameters([Parameter("factor", int, 2)])
    >>> found.check({}), found.check_text({"factor": "4"})
    ({'factor': 2}, {'factor': 4})
    """

    def __init__(self, declared: Iterable[Parameter] = ()) -> None:
        self._by_name = {one.name: one for one in declared}

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Parameter:
        """A parameter by name.

        Raises
        ------
        BadParameter : there is none; the hint has names that are like it.
        """
        found = self._by_name.get(name)
        if found is None:
            close = difflib.get_close_matches(name, self._by_name, n=1, cutoff=0.5)
            there = ", ".join(self._by_name) or "none"
            raise BadParameter(
                f"there is no parameter {name[:80]!r}",
                hint=f"do you mean {close[0]!r}?" if close else f"there are: {there}",
            )
        return found

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._by_name)

    def check(
        self,
        values: Mapping[str, object],
        *,
        partial: bool = False,
        later: Collection[str] = (),
    ) -> dict[str, Any]:
        """Values as the step gets them; with defaults for what is not given, unless `partial`.

        Parameters
        ----------
        later : those that need not be there yet: a header may set them.

        Raises
        ------
        BadParameter : one is unknown, of another type, or missing.
        """
        found = {name: self[name].check(value) for name, value in values.items()}
        return found if partial else self._filled(found, later)

    def check_text(
        self,
        values: Mapping[str, str],
        *,
        partial: bool = False,
        later: Collection[str] = (),
    ) -> dict[str, Any]:
        """As `check`, of values as they are typed."""
        found = {name: self[name].check_text(text) for name, text in values.items()}
        return found if partial else self._filled(found, later)

    def _filled(self, given: dict[str, Any], later: Collection[str]) -> dict[str, Any]:
        needed = [one.name for one in self if one.required and one.name not in later]
        missing = [name for name in needed if name not in given]
        if missing:
            raise BadParameter(
                f"parameter {missing[0]!r} is missing", hint=f"it is {self[missing[0]].type_name}"
            )
        found = {one.name: given.get(one.name, one.default) for one in self}
        return {name: value for name, value in found.items() if value is not msgspec.UNSET}


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of parameters as JSON has them."""
    found: dict[str, Any] = msgspec.to_builtins(dict(values))
    return found


# -------------------------------------------------------------------------- declaring


def declare(
    owner: str,
    arguments: Iterable[inspect.Parameter],
    names: Mapping[str, Any],
    doc: str = "",
) -> Parameters:
    """The parameters that arguments of a function or class stand for.

    Parameters
    ----------
    owner : the step, for errors.
    arguments : those that are parameters.
    names : what the names in annotations mean (the globals of the module).
    doc : docstring with the help texts.

    Raises
    ------
    BadStep : an argument without a type, or of one that cannot be a parameter's.
    """
    texts = read_help(doc)
    found = []
    for one in arguments:
        kind = _kind(owner, one, names)
        default: Any = msgspec.UNSET
        if one.default is not inspect.Parameter.empty:
            default = _default(owner, one, kind)
        found.append(Parameter(one.name, kind, default, texts.get(one.name, "")))
    return Parameters(found)


def _kind(owner: str, argument: inspect.Parameter, names: Mapping[str, Any]) -> Any:
    annotation = argument.annotation
    if annotation is inspect.Parameter.empty:
        if isinstance(argument.default, _PLAIN):
            return type(argument.default)
        raise BadStep(
            f"parameter {argument.name!r} of step {owner!r} has no type",
            hint=f"{argument.name}: int = …",
        )
    kind = resolve(annotation, names)
    if kind is None or not _allowed(kind):
        raise BadStep(
            f"parameter {argument.name!r} of step {owner!r} is {_shown(annotation)}",
            hint="int, float, bool, str, Literal, Enum, lists, tuples of them, or one or None; "
            "what the annotation names has to be known in the module",
        )
    return kind


def resolve(annotation: Any, names: Mapping[str, Any]) -> Any:
    """What an annotation means; None if it names something that is not there at run time."""
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, dict(names), include_extras=True)["it"]
    except (NameError, AttributeError, TypeError, SyntaxError):
        return None


def _default(owner: str, argument: inspect.Parameter, kind: Any) -> Any:
    value = argument.default
    try:
        return msgspec.convert(msgspec.to_builtins(value), kind)
    except (msgspec.ValidationError, TypeError) as error:
        raise BadStep(
            f"the default of parameter {argument.name!r} of step {owner!r} is {value!r}: {error}"
        ) from None


def _allowed(kind: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        return _allowed(typing.get_args(kind)[0])
    if origin in (list, tuple, typing.Union, types.UnionType):
        inner = typing.get_args(kind)
        return all(one is _NONE or one is Ellipsis or _allowed(one) for one in inner)
    if origin is Literal:
        return all(isinstance(one, int | str) for one in typing.get_args(kind))
    return kind in _PLAIN or (isinstance(kind, type) and issubclass(kind, enum.Enum))


def _type_name(kind: Any) -> str:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is _NONE:
        return "null"
    if origin is typing.Annotated:
        limits = [one for one in inner[1:] if isinstance(one, msgspec.Meta)]
        return " ".join([_type_name(inner[0]), *map(_limits, limits)]).rstrip()
    if origin is Literal:
        return " or ".join(repr(one) for one in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(one) for one in inner)
    if origin is list or (origin is tuple and inner[-1:] == (Ellipsis,)):
        return f"list of {_type_name(inner[0])}"
    if origin is tuple:
        return f"[{', '.join(_type_name(one) for one in inner)}]"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return " or ".join(repr(one.value) for one in kind)
    return getattr(kind, "__name__", str(kind))


def _limits(meta: msgspec.Meta) -> str:
    signs = (("≥", meta.ge), (">", meta.gt), ("≤", meta.le), ("<", meta.lt))
    return " ".join(f"{sign} {value:g}" for sign, value in signs if value is not None)


def _finite(value: Any) -> Any:
    """JSON has no others, and a run has to be written down."""
    for one in value if isinstance(value, list | tuple) else (value,):
        if isinstance(one, float) and not math.isfinite(one):
            raise msgspec.ValidationError("a number that is finite")
    return value


def _shown(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else _type_name(annotation)


def _from_text(text: str, kind: Any) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated and typing.get_origin(inner[0]) in (list, tuple):
        return msgspec.convert(_from_text(text, inner[0]), kind)
    if origin in (typing.Union, types.UnionType):
        if _NONE in inner and text == "null":
            return None
        error: Exception = msgspec.ValidationError("nothing of this fits")
        for one in inner:
            try:
                return _from_text(text, one)
            except (msgspec.ValidationError, msgspec.DecodeError) as found:
                error = found
        raise error
    if origin in (list, tuple):
        if text.lstrip().startswith("["):
            return msgspec.convert(msgspec.json.decode(text), kind)
        parts = [part.strip() for part in text.split(",")] if text else []
        return msgspec.convert(parts, kind, strict=False)
    if kind is str:
        return text
    return msgspec.convert(text, kind, strict=False)


# ------------------------------------------------------------------------------- help


def read_help(doc: str) -> dict[str, str]:
    """What the "Parameters" section of a docstring says of each.

    >>> read_help('''Bin.
    ...
    ... Parameters
    ... ----------
    ... factor : pixels in a row that
    ...     become one.
    ... mode : str
    ...     What is done.
    ... ''')
    {'factor': 'pixels in a row that become one.', 'mode': 'What is done.'}
    """
    lines = inspect.cleandoc(doc).splitlines()
    underlined = range(len(lines) - 1)
    starts = [k for k in underlined if lines[k].strip() == "Parameters" and _rule(lines[k + 1])]
    found: dict[str, str] = {}
    names: list[str] = []
    for at in range(starts[0] + 2, len(lines)) if starts else ():
        line = lines[at]
        if at + 1 < len(lines) and _rule(lines[at + 1]):
            break
        if line and not line[0].isspace():
            head, _, text = line.partition(":")
            names = [name.strip(" *`") for name in head.split(",")]
            text = "" if _TYPE_WORDS.match(text.strip()) else text.strip()
            found.update(dict.fromkeys(names, text))
        else:
            for name in names:
                found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def _rule(line: str) -> bool:
    return len(line.strip()) >= 3 and not line.strip("- ")


def summary(doc: str) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join(inspect.cleandoc(doc).partition("\n\n")[0].split()) if doc else ""

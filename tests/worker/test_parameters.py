"""Parameters: what may be declared, how values are checked, what people are told."""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.errors import BadParameter, BadStep
from beamstream.worker import step
from beamstream.worker.parameters import Parameter, plain, read_help


class Kind(enum.Enum):
    SUM = "sum"
    MEAN = "mean"


@step(reads="det", writes="out")
def many(
    frame: Any,
    *,
    factor: Annotated[int, msgspec.Meta(ge=1, le=8)] = 2,
    scale: float = 1,
    how: Literal["sum", "mean"] = "sum",
    kind: Kind = Kind.SUM,
    sizes: list[int] = [1, 2],  # noqa: B006
    centre: tuple[float, float] | None = None,
    quick=True,
    label: str,
) -> Any:
    """Do a lot.

    Parameters
    ----------
    frame : array
        What comes.
    factor : pixels in a row that
        become one.
    label : str
        What it is called.

    Returns
    -------
    nothing : that matters.
    """


def test_declared() -> None:
    found = many.parameters
    assert found.names == (
        "factor", "scale", "how", "kind", "sizes", "centre", "quick", "label",
    )  # fmt: skip
    assert found["scale"].default == 1.0
    assert isinstance(found["scale"].default, float)
    assert found["factor"].help == "pixels in a row that become one."
    assert found["label"].help == "What it is called."
    assert [one.name for one in found if one.required] == ["label"]
    assert [one.type_name for one in found] == [
        "int ≥ 1 ≤ 8", "float", "'sum' or 'mean'", "'sum' or 'mean'", "list of int",
        "[float, float] or null", "bool", "str",
    ]  # fmt: skip


def test_checked_with_defaults() -> None:
    found = many.parameters.check({"label": "x", "kind": "mean", "centre": [1, 2.5], "scale": 3})
    assert found["kind"] is Kind.MEAN
    assert found["centre"] == (1.0, 2.5)
    assert found["scale"] == 3.0
    assert found["factor"] == 2
    assert plain(found)["kind"] == "mean"
    assert many.parameters.check(plain(found)) == found
    assert many.parameters.check({"factor": 3}, partial=True) == {"factor": 3}
    assert "label" not in many.parameters.check({}, later=["label"])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"factor": "4"}, "'factor' is int ≥ 1 ≤ 8, not '4'"),
        ({"factor": 9}, "not 9"),
        ({"factor": True}, "'factor'"),
        ({"how": "max"}, "'sum' or 'mean', not 'max'"),
        ({"sizes": [1, "a"]}, "'sizes'"),
        ({"quick": 1}, "'quick' is bool, not 1"),
        ({"fcator": 3}, "do you mean 'factor'"),
        ({}, "'label' is missing"),
    ],
)
def test_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(BadParameter, match="parameter") as caught:
        many.parameters.check(given)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("factor", "4", 4),
        ("scale", "1e-3", 0.001),
        ("quick", "false", False),
        ("how", "mean", "mean"),
        ("kind", "mean", Kind.MEAN),
        ("sizes", "1, 2,3", [1, 2, 3]),
        ("sizes", "[4,5]", [4, 5]),
        ("sizes", "", []),
        ("centre", "1,2.5", (1.0, 2.5)),
        ("centre", "null", None),
        ("label", "1", "1"),
    ],
)
def test_typed_at_a_terminal(name: str, text: str, value: Any) -> None:
    assert many.parameters[name].check_text(text) == value


@pytest.mark.parametrize(
    ("name", "text"), [("factor", "x"), ("factor", "0"), ("sizes", "[1"), ("quick", "maybe")]
)
def test_typed_wrongly(name: str, text: str) -> None:
    with pytest.raises(BadParameter, match=name):
        many.parameters[name].check_text(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for one in many.parameters:
        try:
            value = one.check_text(text)
        except BadParameter:
            continue
        assert one.check(msgspec.to_builtins(value)) == value


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_any_value_is_taken_or_refused(value: Any) -> None:
    for one in many.parameters:
        try:
            found = one.check(value)
        except BadParameter:
            continue
        assert one.check(msgspec.to_builtins(found)) == found or found != found


@given(st.text())
def test_any_docstring_can_be_read(doc: str) -> None:
    found = read_help(f"{doc}\n\nParameters\n----------\nfactor : pixels.\n")
    assert isinstance(found, dict)


class Odd:
    pass


def test_what_cannot_be_a_parameter() -> None:
    def untyped(frame, *, thing=None):  # type: ignore[no-untyped-def]
        pass

    def odd(frame, *, thing: Odd):  # type: ignore[no-untyped-def]
        pass

    def unknown(frame, *, thing: NotThere):  # type: ignore[no-untyped-def,name-defined]  # noqa: F821
        pass

    def wrong(frame, *, thing: int = "two"):  # type: ignore[no-untyped-def,assignment]
        pass

    for code in (untyped, odd, unknown, wrong):
        with pytest.raises(BadStep, match="thing"):
            step(code)


def test_a_value_is_shown_as_it_is_and_not_too_long() -> None:
    with pytest.raises(BadParameter) as caught:
        Parameter("n", int).check("x" * 1_000)
    assert len(str(caught.value)) < 300

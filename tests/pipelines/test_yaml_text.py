"""YAML as pipeline files use it: plain values, lines, and no way to make much out of little."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from beamstream.worker.pipelines.yaml_text import DEPTH_MAX, NODES_MAX, Refused, read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1", {"a": 1}),
        ("[on, no, yes, 12:30, 1_000]", ["on", "no", "yes", "12:30", "1_000"]),
        ("[true, False, null, ~, '']", [True, False, None, None, ""]),
        ("[0x1F, 0o17, 017, -3, +4]", [31, 15, 17, -3, 4]),
        ("[1e-3, 1., .5, -2.5E2]", [1e-3, 1.0, 0.5, -250.0]),
        ("['1', \"true\", 1e999, .inf]", ["1", "true", "1e999", ".inf"]),
        ("2026-11-22", "2026-11-22"),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
        ("1: a", {"1": "a"}),
    ],
)
def test_words_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert read(text).plain() == value


def test_values_know_their_lines() -> None:
    top = read("# first\na: 1\nb:\n  c:\n    - x\n    - y\n")
    assert (top.value["a"].line, top.value["b"].line, top.value["b"].value["c"].line) == (2, 3, 4)
    assert [one.line for one in top.value["b"].value["c"].value] == [5, 6]


def doubled(levels: int) -> str:
    lines = ["a0: &a0 [1, 1]"]
    lines += [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", 1, "empty"),
        ("a: [1\n", 2, "no YAML"),
        ("a: 1\n b: 2", 2, "no YAML"),
        ("a: 1\na: 2", 2, "'a' comes twice"),
        ("? [a]\n: 1", 1, "has to be text"),
        ("a: 1\nb: !!python/object:os.system x", 2, "tag"),
        ("a: !!set {b}", 1, "tag"),
        ("a: *b", 1, "alias"),
        ("a: 1\n---\nb: 2", 2, "single document"),
        ("a: \0", 0, "control characters"),
        ("&a [*a]", 1, "levels"),
        ("[" * (DEPTH_MAX + 1), 1, "levels"),
        ("[" * 100_000, 1, "levels"),
        ("[" + "1," * (NODES_MAX + 1) + "]", 1, "values"),
        (doubled(14), 1, "with its aliases"),
        ("#" * 1_100_000, 0, "too many"),
    ],
)
def test_what_is_refused(text: str, line: int, what: str) -> None:
    with pytest.raises(Refused) as refused:
        read(text)
    assert what in refused.value.problem.text
    assert refused.value.problem.line == line


def test_aliases_count_for_what_they_stand_for() -> None:
    assert len(read(doubled(9)).plain()["a8"]) == 2


WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.sampled_from("äπ表"))
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(WORDS, below, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(WORDS.filter(lambda key: len(key) < 100), PLAIN, max_size=5))
def test_json_is_read_as_it_is(value: dict[str, object]) -> None:
    try:
        found = read(json.dumps(value, ensure_ascii=False)).plain()
    except Refused as refused:
        event("refused")
        if "levels" not in refused.problem.text:
            raise
    else:
        assert found == value


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(Refused):
        assert read(text).line >= 1

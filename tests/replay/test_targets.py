"""Where a replay may go to, as it is typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.errors import BadInput
from beamstream.worker.replay_plan import Target, digest_of, parse_target


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("step:my.py:find", Target("step", "my.py:find")),
        ("step:beamstream.workers:bin", Target("step", "beamstream.workers:bin")),
        ("stream:", Target("stream", "")),
        ("stream:lab/trial", Target("stream", "lab/trial")),
        ("group:azint", Target("group", "azint")),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert parse_target(text) == target
    assert str(target) == text


@pytest.mark.parametrize("text", ["", "step", "step:", "group:", "steps:x", ":x", "Step:x"])
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(BadInput, match="nothing to replay to"):
        parse_target(text)


@given(st.text(max_size=30))
def test_any_text_is_a_target_or_refused(text: str) -> None:
    try:
        found = parse_target(text)
    except BadInput:
        return
    assert str(found) == text


def test_a_replay_is_known_by_what_it_is_not_by_how_it_is_written() -> None:
    first = {"kind": "copy", "replay_of": {"ids": [1, 5], "run": 0}}
    second = {"replay_of": {"run": 0, "ids": [1, 5]}, "kind": "copy"}
    assert digest_of(first) == digest_of(second)
    assert digest_of(first) != digest_of(first | {"kind": "step"})

"""What the bench sends in a phase, and what it takes for the end of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.peers.interface import Buffer
from benchmarks.peers.traffic import (
    HEAD,
    HEAD_NBYTES,
    PLAIN,
    Phase,
    WrongMessages,
    payload,
    take,
)

SIZE = 1_000


class Clock:
    """Goes on by itself, a step at each look, and by what is slept."""

    def __init__(self, step_ns: int) -> None:
        self.now_ns, self._step_ns = 10**12, step_ns

    def __call__(self) -> int:
        self.now_ns += self._step_ns
        return self.now_ns


def arriving(heads: list[bytes], body: bytes = payload(SIZE)) -> Iterator[tuple[Buffer, Buffer]]:
    return ((head, head + body[HEAD_NBYTES:]) for head in heads)


@given(
    size=st.integers(1_000, 9_000_000),
    count=st.integers(1, 2_000),
    seconds=st.floats(0.001, 1.0),
    step_ns=st.integers(1_000, 10**8),
)
def test_a_flat_out_phase_ends_by_count_or_time(
    size: int, count: int, seconds: float, step_ns: int
) -> None:
    clock = Clock(step_ns)
    started_ns = clock.now_ns
    phase = Phase(size, count, seconds, clock=clock)
    heads = [turn for turn in phase.turns() if isinstance(turn, bytes)]
    assert len(heads) == phase.sent <= count
    assert [HEAD.unpack(head)[2] for head in heads] == [False] * (phase.sent - 1) + [True]
    assert HEAD.unpack(heads[-1])[1] == phase.sent
    in_time = clock.now_ns - started_ns <= seconds * 1e9
    assert phase.sent == count or not in_time


@given(rate=st.floats(1.0, 100_000.0), count=st.integers(1, 500), seconds=st.floats(0.01, 1.0))
def test_a_paced_phase_sends_when_it_is_due(rate: float, count: int, seconds: float) -> None:
    clock = Clock(1_000)
    started_ns = clock.now_ns
    phase = Phase(SIZE, count, seconds, rate, clock)
    sent = []
    for turn in phase.turns():
        if isinstance(turn, float):
            assert turn > 0
            clock.now_ns += int(turn * 1e9)
        else:
            sent.append(HEAD.unpack(turn))
    assert [number for _, number, _ in sent] == list(range(1, len(sent) + 1))
    assert [last for *_, last in sent] == [False] * (len(sent) - 1) + [True]
    assert len(sent) == max(1, min(count, int(rate * seconds)))
    for index, (sent_ns, *_) in enumerate(sent):
        # 20 us early is near enough for not falling asleep.
        assert sent_ns - started_ns >= index / rate * 1e9 - 20_000


def test_the_consumer_stops_after_the_last_and_takes_delays() -> None:
    clock = Clock(0)
    heads = [HEAD.pack(clock.now_ns - 500, 1, False), HEAD.pack(clock.now_ns - 700, 2, True)]
    messages = arriving([*heads, PLAIN])
    assert take(messages, SIZE, timed=True, expected=payload(SIZE), clock=clock) == (2, [500, 700])
    assert next(messages)[0] == PLAIN


@pytest.mark.parametrize(
    ("heads", "body", "reason"),
    [
        ([HEAD.pack(0, 3, True)], payload(SIZE), "3 messages were sent, 1 arrived"),
        ([PLAIN, HEAD.pack(0, 1, True)], payload(SIZE), "1 messages were sent, 2 arrived"),
        ([HEAD.pack(0, 1, True)], payload(SIZE)[:-1], "message 1 has 999 bytes, 1000 were sent"),
        ([HEAD.pack(0, 1, True)], payload(SIZE)[:-1] + b"\0", "other bytes"),
    ],
)
def test_the_consumer_sees_what_is_wrong(heads: list[bytes], body: bytes, reason: str) -> None:
    with pytest.raises(WrongMessages, match=reason):
        take(arriving(heads, body), SIZE, expected=payload(SIZE))


def test_payloads_are_the_same_on_both_sides_and_random() -> None:
    assert payload(SIZE) == payload(SIZE)
    assert len(payload(SIZE)) == SIZE
    assert len(set(payload(SIZE))) > 200

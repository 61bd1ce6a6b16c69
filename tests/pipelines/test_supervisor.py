"""Which workers run: by hand, and against a simple world in which they start and end."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from beamstream.worker.jobs import CRASHED, DRAINED, REFUSED, STOPPED
from beamstream.worker.pipelines.supervisor import (
    BACKOFF_S,
    BACKOFF_S_MAX,
    Life,
    Start,
    StepCare,
    Stop,
    Verdict,
)


def waits(care: StepCare, number: int, ran_s: list[float], now_s: float = 0.0) -> list[float]:
    """How long a worker waits each time that it ends after running so long."""
    found = []
    for seconds in ran_s:
        now_s += seconds
        care.ended(number, CRASHED, now_s)
        due_s = care.due_s()
        assert due_s is not None
        assert care.actions(due_s - 0.001) == []
        assert care.actions(due_s) == [Start(number)]
        found.append(due_s - now_s)
        now_s = due_s
    return found


def test_a_worker_that_ends_is_started_later_and_later() -> None:
    care = StepCare(1)
    assert care.actions(0.0) == [Start(1)]
    assert waits(care, 1, 9 * [0.0]) == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert care.restarts == 9


def test_a_minute_of_work_makes_all_good() -> None:
    care = StepCare(1)
    care.actions(0.0)
    waits(care, 1, 9 * [0.0])
    [wait] = waits(care, 1, [60.0], now_s=1000.0)
    assert wait < 2 * BACKOFF_S
    assert waits(care, 1, [10.0], now_s=2000.0)[0] < 2 * BACKOFF_S


def test_workers_that_are_killed_now_and_then_do_not_wait_long() -> None:
    care = StepCare(1)
    care.actions(0.0)
    assert max(waits(care, 1, 100 * [15.0])) <= 2 * BACKOFF_S


@pytest.mark.parametrize(("status", "verdict"), [(REFUSED, "failed"), (STOPPED, "stopped")])
def test_what_cannot_work_is_not_started_again(status: int, verdict: str) -> None:
    care = StepCare(1)
    care.actions(0.0)
    care.ended(1, status, 1.0)
    assert care.actions(100.0) == []
    assert (care.state, care.done, care.due_s()) == (verdict, True, None)
    care.scale(1, 200.0)
    assert care.actions(200.0) == [Start(1)]
    assert not care.done


def test_one_that_stops_stops_all_of_its_step() -> None:
    care = StepCare(3)
    care.actions(0.0)
    care.ended(2, STOPPED, 1.0)
    assert care.actions(1.0) == [Stop(1), Stop(3)]
    care.ended(1, DRAINED, 2.0)
    assert not care.done
    care.ended(3, DRAINED, 2.0)
    assert care.done


def test_one_that_is_refused_leaves_the_others_alone() -> None:
    care = StepCare(2)
    care.actions(0.0)
    care.ended(2, REFUSED, 1.0)
    assert care.actions(1.0) == []
    assert care.count(Life.RUNNING) == 1
    care.ended(1, -9, 2.0)
    assert care.actions(100.0) == []
    assert care.done


def test_scaling_down_stops_the_last_and_up_waits_for_nobody() -> None:
    care = StepCare(3)
    care.actions(0.0)
    care.scale(1, 1.0)
    assert care.actions(1.0) == [Stop(2), Stop(3)]
    care.scale(2, 2.0)
    # Those that are still stopping keep their numbers, and their logs.
    assert care.actions(2.0) == [Start(4)]
    care.ended(2, DRAINED, 3.0)
    care.ended(3, -9, 3.0)
    care.scale(4, 4.0)
    assert care.actions(4.0) == [Start(2), Start(3)]
    assert care.restarts == 0


def test_none_are_wanted_for_a_while() -> None:
    care = StepCare(1)
    care.actions(0.0)
    care.scale(0, 1.0)
    assert care.state == "stopping"
    assert care.actions(1.0) == [Stop(1)]
    care.ended(1, DRAINED, 2.0)
    assert (care.state, care.done) == ("paused", False)


def test_closing_starts_nobody() -> None:
    care = StepCare(2)
    care.actions(0.0)
    care.ended(1, CRASHED, 1.0)
    care.close()
    assert care.actions(50.0) == [Stop(2)]
    care.ended(2, CRASHED, 51.0)
    assert (care.state, care.done, care.restarts) == ("ended", True, 1)


class Supervision(RuleBasedStateMachine):
    """A world with processes that start when they are told to, and end as they like."""

    @initialize(wanted=st.integers(0, 5))
    def begin(self, wanted: int) -> None:
        self.now_s = 0.0
        self.care = StepCare(wanted)
        self.running: set[int] = set()
        self.stopping: set[int] = set()
        self.ended_at_s: dict[int, float] = {}
        self.lost = False
        self.closed = False

    def act(self) -> None:
        for action in self.care.actions(self.now_s):
            if isinstance(action, Start):
                assert action.replica not in self.running
                assert not self.closed
                assert not self.lost
                since_s = self.now_s - self.ended_at_s.get(action.replica, float("-inf"))
                assert since_s >= BACKOFF_S
                self.running.add(action.replica)
            else:
                assert action.replica in self.running - self.stopping
                self.stopping.add(action.replica)

    @rule(seconds=st.floats(0.0, 100.0))
    def time_goes_on(self, seconds: float) -> None:
        self.now_s += seconds
        self.act()
        due_s = self.care.due_s()
        if due_s is not None:
            assert self.now_s < due_s <= self.now_s + BACKOFF_S_MAX

    @rule(choice=st.integers(0, 100), status=st.sampled_from([0, 1, 2, 4, 127, -9, -15]))
    def one_ends(self, choice: int, status: int) -> None:
        if not self.running:
            return
        number = sorted(self.running)[choice % len(self.running)]
        asked = number in self.stopping
        self.running.discard(number)
        self.stopping.discard(number)
        if not asked and not self.closed:
            self.ended_at_s[number] = self.now_s
            self.lost |= status in (REFUSED, STOPPED)
        self.care.ended(number, status, self.now_s)

    @rule(wanted=st.integers(0, 5))
    def somebody_scales(self, wanted: int) -> None:
        if not self.closed:
            self.care.scale(wanted, self.now_s)
            self.lost = False
            # All that waited may be started at once now.
            self.ended_at_s.clear()
            self.act()
            assert len(self.running - self.stopping) == wanted

    @rule()
    def it_closes(self) -> None:
        self.care.close()
        self.closed = True
        self.act()
        assert self.running == self.stopping

    @invariant()
    def what_it_says_is_true(self) -> None:
        if not hasattr(self, "care"):
            return
        assert self.care.count(Life.RUNNING) == len(self.running - self.stopping)
        assert self.care.count(Life.STOPPING) == len(self.stopping)
        assert (self.care.verdict is not Verdict.GOOD) == self.lost
        if self.care.done:
            assert not self.running

    def teardown(self) -> None:
        """From wherever it is, all comes to the wanted number in bounded time."""
        if not hasattr(self, "care") or self.closed or self.lost:
            return
        for number in sorted(self.stopping):
            self.care.ended(number, 0, self.now_s)
            self.running.discard(number)
        self.stopping.clear()
        self.ended_at_s.clear()
        for _ in range(3):
            self.now_s += BACKOFF_S_MAX
            self.act()
        assert len(self.running) == self.care.wanted


TestSupervision = Supervision.TestCase

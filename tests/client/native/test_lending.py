"""Granted memory on the client's side, against a node that grants what it likes."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from beamstream.client.native.lending import AHEAD_MAX, DENIED_S, Lending, Piece
from beamstream.wire.native.frames import Frame, Grant, ReturnMemory, WantMemory

CHANNEL = 3
SIZES = st.sampled_from([65_536, 65_540, 70_000, 100_000, 300_000, 5_000_000])


class AgainstANode(RuleBasedStateMachine):
    """No piece is had twice, none is forgotten, and whoever waits will get one."""

    def __init__(self) -> None:
        super().__init__()
        self.lending = Lending()
        self.lending.enabled = True
        self.asked: list[WantMemory] = []
        self.generation = 0
        self.out: set[int] = set()
        """Generations that the node has granted in this connection, and not got back."""
        self.pieces: list[Piece] = []
        self.waiting = 0
        self.refused = False
        """Whoever waits then goes by the socket."""
        self.now = 0.0

    def send(self, frames: list[Frame]) -> None:
        for frame in frames:
            if isinstance(frame, WantMemory):
                self.asked.append(frame)
            else:
                assert isinstance(frame, ReturnMemory)
                for generation in frame.generations:
                    self.out.remove(generation)

    @rule(nbytes=SIZES)
    def send_message(self, nbytes: int) -> None:
        if self.waiting and self.lending.usable(CHANNEL, self.now):
            nbytes = self.waiting
        self.refused = False
        self.send(self.lending.want(CHANNEL, nbytes, self.now))
        self.took(nbytes)

    def took(self, nbytes: int) -> None:
        piece = self.lending.take(CHANNEL, nbytes)
        if piece is None:
            self.waiting = nbytes if self.lending.usable(CHANNEL, self.now) else 0
            return
        self.waiting = 0
        assert piece.grant.nbytes >= nbytes
        assert piece.grant.generation in self.out
        assert not any(piece.grant == other.grant and not other.stale for other in self.pieces)
        self.pieces.append(piece)

    @precondition(lambda self: self.asked)
    @rule(denied=st.integers(0, 9))
    def grant(self, denied: int) -> None:
        asked = self.asked.pop(0)
        self.generation += 1
        nbytes = 0 if denied == 0 else asked.nbytes
        self.refused = self.refused or not nbytes
        if nbytes:
            self.out.add(self.generation)
        self.send(self.lending.granted(Grant(CHANNEL, 1, 0, nbytes, self.generation), self.now))
        if self.waiting:
            if self.refused:
                self.waiting = 0
            else:
                self.took(self.waiting)

    @precondition(lambda self: self.pieces)
    @rule(data=st.data(), put=st.booleans())
    def done(self, data: st.DataObject, put: bool) -> None:
        piece = self.pieces.pop(data.draw(st.integers(0, len(self.pieces) - 1)))
        if put:
            piece.release()
            if not piece.stale:
                self.out.remove(piece.grant.generation)
        else:
            self.send(self.lending.give_back(piece))

    @rule()
    def time_passes(self) -> None:
        self.now += DENIED_S

    @rule()
    def connection_breaks(self) -> None:
        self.lending.lost()
        assert not self.lending.usable(CHANNEL, self.now)
        self.asked.clear()
        self.out.clear()
        self.waiting = 0
        self.lending.enabled = True
        assert all(piece.stale for piece in self.pieces)
        assert self.lending.usable(CHANNEL, self.now) is not bool(self.pieces)

    @invariant()
    def who_waits_is_awaited(self) -> None:
        if self.waiting and self.lending.usable(CHANNEL, self.now) and not self.refused:
            assert self.asked

    @invariant()
    def not_too_much_is_asked_for(self) -> None:
        assert len(self.asked) <= AHEAD_MAX

    @invariant()
    def nothing_is_forgotten(self) -> None:
        channel = self.lending._channels.get(CHANNEL)
        waiting = {grant.generation for grant in channel.grants} if channel else set()
        using = {piece.grant.generation for piece in self.pieces if not piece.stale}
        assert waiting | using == self.out


AgainstANode.TestCase.settings = settings(
    max_examples=100, stateful_step_count=60, deadline=None, print_blob=True
)
TestAgainstANode = AgainstANode.TestCase


def test_more_is_asked_for_as_long_as_it_is_used() -> None:
    lending = Lending()
    lending.enabled = True
    asked, generation = [], 0
    for _ in range(100):
        wanted = lending.want(1, 1_000_000, 0.0)
        asked.append(len(wanted))
        for _ in wanted:
            generation += 1
            lending.granted(Grant(1, 1, 0, 1_000_000, generation), 0.0)
        piece = lending.take(1, 1_000_000)
        assert piece is not None
        piece.release()
    assert asked[0] == 2
    assert max(asked) >= 16
    assert sum(asked) <= 100 + AHEAD_MAX


def test_what_was_refused_is_asked_for_again_later() -> None:
    lending = Lending()
    lending.enabled = True
    for _ in lending.want(1, 100_000, 0.0):
        lending.granted(Grant(1, 0, 0, 0, 0), 0.0)
    assert not lending.usable(1, 0.0)
    assert lending.want(1, 100_000, 0.0) == []
    assert lending.usable(2, 0.0)
    assert lending.want(1, 100_000, DENIED_S)
    lending.refuse(1)
    assert not lending.usable(1, 1e9)


def test_a_writer_that_has_ended_keeps_nothing() -> None:
    lending = Lending()
    lending.enabled = True
    lending.want(1, 100_000, 0.0)
    lending.close(1)
    assert lending.granted(Grant(1, 5, 0, 100_000, 9), 0.0) == [ReturnMemory(1, (9,))]
    assert lending.granted(Grant(1, 0, 0, 0, 0), 0.0) == []

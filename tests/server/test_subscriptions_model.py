"""Members come, go, break, acknowledge, refuse; whatever happens, nothing is lost or shared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stage import SOURCE, STREAM, Client, Got, Stage, run

from beamstream import limits
from beamstream.errors import StaleLease
from beamstream.server.settling import Settling
from beamstream.store import catalog as ops
from beamstream.wire.native.frames import Held, Mode

LEASE_S = 5.0
REFUSED = ops.DeleteStream("no such source", "s")


class Party:
    """Some clients of one group, and what they have in hand."""

    def __init__(self, stage: Stage, data: st.DataObject, mode: Mode) -> None:
        self.stage = stage
        self.data = data
        self.mode = mode
        self.clients: dict[str, Client] = {}
        self.hands: dict[str, list[Got]] = {name: [] for name in "abc"}
        self.acked: set[int] = set()
        self.sent = 0
        self.under_way: list[tuple[Client, Got, Settling]] = []

    def collect(self) -> None:
        for name, client in self.clients.items():
            for got in client.take():
                assert not self.acked & set(got.seqs), "acknowledged, and offered again"
                self.hands[name].append(got)
        leased = [
            run.left for run in self.stage.deliveries.group(self.view, "g")._leases.runs.values()
        ]
        seqs = [seq for left in leased for lo, hi in left for seq in range(lo, hi)]
        assert len(seqs) == len(set(seqs)), "leased twice"

    @property
    def view(self):  # type: ignore[no-untyped-def]
        return self.stage.view()

    def held(self, name: str) -> tuple[Held, ...]:
        return tuple(
            Held(SOURCE, STREAM, got.tag, tuple((seq, seq + 1) for seq in got.seqs))
            for got in self.hands[name]
        )

    async def put(self) -> None:
        count = self.data.draw(st.integers(1, 6))
        self.stage.put(count=count)
        self.sent += count

    async def come(self) -> None:
        name = self.data.draw(st.sampled_from("abc"))
        if name in self.clients:
            return
        client = self.clients[name] = Client(self.stage, name)
        client.subscribe(
            mode=self.mode, lease_s=LEASE_S, batch_max=self.data.draw(st.integers(1, 4)),
            credit_messages=self.data.draw(st.integers(1, 12)), held=self.held(name),
        )  # fmt: skip
        still = {lease.tag for frame in client.opened for lease in frame.held}
        self.hands[name] = [got for got in self.hands[name] if got.tag in still]

    async def go(self) -> None:
        client = self.pick()
        if client is not None:
            name = client.who.instance
            self.stage.subscriptions.close(client, 1)
            self.hands[name] = []
            del self.clients[name]

    async def break_off(self) -> None:
        client = self.pick()
        if client is not None:
            self.stage.subscriptions.disconnected(client)
            del self.clients[client.who.instance]

    async def acknowledge(self) -> None:
        client = self.pick()
        hand = self.hands[client.who.instance] if client else []
        if client is None or not hand:
            return
        got = hand.pop(self.data.draw(st.integers(0, len(hand) - 1)))
        error = await client.ack(got)
        assert error is None or isinstance(error, StaleLease)
        if error is None:
            self.acked |= set(got.seqs)
        client.credit(len(got.seqs), 1000)

    async def settle(self) -> None:
        """Settle with results; the unit may be refused, and much may happen before that."""
        client = self.pick()
        hand = self.hands[client.who.instance] if client else []
        if client is None or not hand:
            return
        got = self.data.draw(st.sampled_from(hand))
        try:
            settling = client.settle(got)
        except StaleLease:
            hand.remove(got)
            return
        self.under_way.append((client, got, settling))

    async def outcome(self) -> None:
        if not self.under_way:
            return
        at = self.data.draw(st.integers(0, len(self.under_way) - 1))
        _, got, settling = self.under_way.pop(at)
        if await self.stage.store(settling, *self.data.draw(st.sampled_from([(), (REFUSED,)]))):
            self.acked |= set(got.seqs)

    async def refuse(self) -> None:
        client = self.pick()
        hand = self.hands[client.who.instance] if client else []
        if client is None or not hand:
            return
        got = hand.pop(self.data.draw(st.integers(0, len(hand) - 1)))
        counted = self.data.draw(st.booleans())
        await client.nack(got, delay_s=self.data.draw(st.sampled_from([0.0, 2.0])), counted=counted)
        client.credit(len(got.seqs), 1000)

    async def wait(self) -> None:
        await self.stage.turns.pass_time(self.data.draw(st.sampled_from([0.5, LEASE_S, 11.0])))

    async def restart(self) -> None:
        self.under_way.clear()
        await self.stage.restart()
        self.clients.clear()

    def pick(self) -> Client | None:
        names = sorted(self.clients)
        return self.clients[self.data.draw(st.sampled_from(names))] if names else None

    async def drain(self) -> None:
        """Somebody with time and credit takes the rest."""
        while self.under_way:
            await self.outcome()
        for client in self.clients.values():
            self.stage.subscriptions.disconnected(client)
        self.clients.clear()
        await self.stage.turns.pass_time(limits.NATIVE_RESUME_SECONDS + 1)
        last = Client(self.stage, "last")
        last.subscribe(mode=self.mode, lease_s=LEASE_S)
        self.stage.finish(self.sent)
        for _ in range(50):
            await self.stage.turns.pass_time(1.0)
            for got in last.take():
                assert not self.acked & set(got.seqs)
                assert await last.ack(got) is None
                self.acked |= set(got.seqs)
            if last.ends:
                break
        assert [(end.reason, end.missing) for end in last.ends] == [("finished", ())]
        assert self.acked == set(range(1, self.sent + 1))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), mode=st.sampled_from([Mode.UNORDERED, Mode.ORDERED]))
def test_nothing_is_lost_and_nothing_is_leased_twice(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, mode: Mode
) -> None:
    async def test(stage: Stage) -> None:
        party = Party(stage, data, mode)
        steps: list[Callable[[], object]] = [
            party.put, party.put, party.come, party.come, party.go, party.break_off,
            party.acknowledge, party.acknowledge, party.acknowledge, party.refuse, party.wait,
            party.settle, party.settle, party.settle, party.outcome, party.outcome, party.restart,
        ]  # fmt: skip
        for step in data.draw(st.lists(st.sampled_from(steps), max_size=25)):
            await step()  # type: ignore[misc]
            await stage.turns.settle()
            party.collect()
        await party.drain()

    run(Path(tmp_path_factory.mktemp("party")), test)

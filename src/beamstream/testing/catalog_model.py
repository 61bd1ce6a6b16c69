"""Conformance: any sequence of operations does to a catalog what it does to plain dicts."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from beamstream.errors import StreamFinished
from beamstream.store.catalog.interface import (
    Ack,
    Acked,
    AlreadyAcked,
    Catalog,
    Claim,
    Claimed,
    Conflicted,
    DeleteStream,
    Done,
    Duplicate,
    Finish,
    Mark,
    Nack,
    Op,
    Ranges,
    Refused,
    Result,
    Seek,
    Skip,
    State,
    Stored,
    StoredMany,
    Unit,
)
from beamstream.testing.catalog_ops import BT, NOW, SOURCE, batch, put, reopen

STREAMS = ("run1", "run10")
GROUPS = ("g", "h")
PRODUCERS = (b"", b"p" * 16, b"q" * 16)
ids = st.integers(1, 12)
spans = st.tuples(st.integers(1, 14), st.integers(0, 6)).map(lambda pair: (pair[0], sum(pair)))


class ModelStream:
    """Ids by seq, contents by id, and a state by (group, seq)."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.contents: dict[int, str] = {}
        self.last_id = -1
        self.states: dict[tuple[str, int], State] = {}
        self.early: set[tuple[str, int]] = set()
        self.sent: dict[tuple[bytes, int], int] = {}

    @property
    def max_id(self) -> int:
        return max(self.ids, default=0)

    def add(self, ident: int, content: str) -> None:
        self.ids.append(ident)
        self.contents[ident] = content
        for group in GROUPS:
            if (group, ident) in self.early:
                self.early.remove((group, ident))
                self.states[group, len(self.ids)] = State.ACKED

    def put(self, ident: int, content: str) -> type:
        ident = ident or self.max_id + 1
        if ident in self.contents:
            return Duplicate if self.contents[ident] == content else Conflicted
        if 0 <= self.last_id < ident:
            return Refused
        self.add(ident, content)
        return Stored

    def put_counted(
        self, ident: int, content: str, producer: bytes, sequence: int
    ) -> tuple[type, int]:
        """The kind of result, and the id."""
        key = (producer, sequence)
        if producer and not ident and key in self.sent:
            known = self.sent[key]
            return (Duplicate, known) if self.contents.get(known) == content else (Conflicted, 0)
        kind = self.put(ident, content)
        if kind not in (Stored, Duplicate):
            return kind, ident
        stored = ident or max(self.ids)
        if producer:
            self.sent.setdefault(key, 0 if ident else stored)
        return kind, stored

    def skip(self, lo: int, hi: int) -> type:
        if hi <= lo or 0 <= self.last_id < hi - 1:
            return Refused
        if any(ident in self.contents for ident in range(lo, hi)):
            return Conflicted
        for ident in range(lo, hi):
            self.add(ident, "")
        return Stored

    def finish(self, last_id: int) -> type:
        if self.last_id >= 0:
            return Duplicate if self.last_id == last_id else Conflicted
        if self.max_id > last_id:
            return Conflicted
        self.last_id = last_id
        return Done

    def seqs(self, lo: int, hi: int) -> list[int]:
        return [seq for seq in range(lo, hi) if 1 <= seq <= len(self.ids)]

    def ranges(self, group: str, state: State) -> Ranges:
        seqs = sorted(seq for (g, seq), s in self.states.items() if (g, s) == (group, state))
        result: list[tuple[int, int]] = []
        for seq in seqs:
            if result and result[-1][1] == seq:
                result[-1] = (result[-1][0], seq + 1)
            else:
                result.append((seq, seq + 1))
        return tuple(result)


class AgainstAModel(RuleBasedStateMachine):
    def __init__(self, make_catalog: Callable[[], Catalog]) -> None:
        super().__init__()
        self.catalog = make_catalog()
        self.model = {name: ModelStream() for name in STREAMS}

    def teardown(self) -> None:
        self.catalog.close()

    def do(self, op: Op) -> Result:
        return self.catalog.apply(BT, [op])[0]

    @rule(stream=st.sampled_from(STREAMS), ident=ids | st.just(0), content=st.sampled_from("ab"))
    def put(self, stream: str, ident: int, content: str) -> None:
        model = self.model[stream]
        op = put(ident, stream=stream, name=content, digest=content.encode() * 16)
        assert type(self.do(op)) is model.put(ident, content)

    @rule(
        stream=st.sampled_from(STREAMS),
        puts=st.lists(st.tuples(ids | st.just(0), st.sampled_from("ab")), max_size=4),
        together=st.booleans(),
    )
    def put_many(self, stream: str, puts: list[tuple[int, str]], together: bool) -> None:
        model = self.model[stream]
        before = (list(model.ids), dict(model.contents), dict(model.states), set(model.early))
        expected = [model.put(ident, content) for ident, content in puts]
        ops = [
            put(ident, stream=stream, name=content, digest=content.encode() * 16)
            for ident, content in puts
        ]
        results: list[Result] = self.catalog.apply(BT, [Unit(tuple(ops))] if together else ops)
        if together:
            assert isinstance(results[0], tuple)
            results = list(results[0])
            if Conflicted in expected or Refused in expected:
                model.ids, model.contents, model.states, model.early = before
        assert [type(result) for result in results] == expected

    @rule(
        stream=st.sampled_from(STREAMS),
        first=ids | st.just(0),
        steps=st.lists(st.integers(-1, 2), max_size=3),
        content=st.sampled_from("ab"),
        producer=st.sampled_from(PRODUCERS),
        sequence=st.integers(1, 6),
        together=st.booleans(),
    )
    def put_batch(
        self,
        stream: str,
        first: int,
        steps: list[int],
        content: str,
        producer: bytes,
        sequence: int,
        together: bool,
    ) -> None:
        """Automatic ids, or `first` and others some steps away."""
        model = self.model[stream]
        before = (
            list(model.ids), dict(model.contents), dict(model.states), set(model.early),
            dict(model.sent),
        )  # fmt: skip
        count = len(steps) + 1
        given = tuple(max(1, first + sum(steps[:n])) for n in range(count)) if first else None
        op = msgspec.structs.replace(
            batch(count, ids=given, names=(content,) * count, producer=producer, stream=stream),
            sizes=(1000,) * count,
            digests=content.encode() * 16 * count,
            sequence=sequence if producer else 0,
        )
        expected = [
            model.put_counted(given[n] if given else 0, content, producer, sequence + n)
            for n in range(count)
        ]
        (result,) = self.catalog.apply(BT, [Unit((op,))] if together else [op])
        if isinstance(result, tuple):
            (result,) = result
            if {kind for kind, _ in expected} & {Conflicted, Refused}:
                model.ids, model.contents, model.states, model.early, model.sent = before
        kinds = [kind for kind, _ in expected]
        if isinstance(result, Refused):
            assert set(kinds) <= {Conflicted, Refused}
            return
        assert isinstance(result, StoredMany)
        found: list[type] = [Stored] * count
        for lo, hi in result.duplicates:
            found[lo:hi] = [Duplicate] * (hi - lo)
        for index, error in result.failures:
            found[index] = Refused if isinstance(error, StreamFinished) else Conflicted
        assert found == kinds
        ids_found = result.ids or tuple(range(result.id, result.id + count))
        assert list(ids_found) == [ident for _, ident in expected]
        assert result.count == kinds.count(Stored)
        assert [n for lo, hi in result.new(count) for n in range(lo, hi)] == [
            n for n, kind in enumerate(kinds) if kind is Stored
        ]
        if result.count and not together:
            assert result.seq == len(model.ids) - result.count + 1

    @rule()
    def reopen(self) -> None:
        reopen(self.catalog)

    @rule(stream=st.sampled_from(STREAMS), span=spans)
    def skip(self, stream: str, span: tuple[int, int]) -> None:
        op = Skip(SOURCE, stream, *span, NOW)
        assert type(self.do(op)) is self.model[stream].skip(*span)

    @rule(stream=st.sampled_from(STREAMS), last_id=st.integers(6, 14))
    def finish(self, stream: str, last_id: int) -> None:
        op = Finish(SOURCE, stream, last_id, "", NOW)
        assert type(self.do(op)) is self.model[stream].finish(last_id)

    @precondition(lambda self: sum(len(model.ids) for model in self.model.values()) > 8)
    @rule(stream=st.sampled_from(STREAMS))
    def delete(self, stream: str) -> None:
        known = self.catalog.stream(BT, SOURCE, stream) is not None
        result = self.do(DeleteStream(SOURCE, stream))
        assert type(result) is (Done if known else Refused)
        self.model[stream] = ModelStream()

    @rule(
        group=st.sampled_from(GROUPS),
        stream=st.sampled_from(STREAMS),
        span=spans,
        state=st.sampled_from(State),
    )
    def mark(self, group: str, stream: str, span: tuple[int, int], state: State) -> None:
        model = self.model[stream]
        self.do(Mark(group, SOURCE, stream, state, (span,)))
        for seq in model.seqs(*span):
            there = model.states.get((group, seq), State.DONE)
            weaker = state is State.ACKED or there is State.DONE or there is state
            if weaker:
                model.states[group, seq] = state

    @rule(
        group=st.sampled_from(GROUPS),
        stream=st.sampled_from(STREAMS),
        span=spans,
        early=st.sets(ids, max_size=2),
        strict=st.booleans(),
    )
    def ack(
        self, group: str, stream: str, span: tuple[int, int], early: set[int], strict: bool
    ) -> None:
        model = self.model[stream]
        seqs = set(model.seqs(*span))
        seqs |= {model.ids.index(ident) + 1 for ident in early if ident in model.contents}
        early = {ident for ident in early if ident not in model.contents}
        known = {seq for seq in seqs if model.states.get((group, seq)) is State.ACKED}
        known_early = {ident for ident in early if (group, ident) in model.early}
        op = Ack(group, SOURCE, stream, (span,), tuple(early | self.ids_of(model, seqs)), strict)
        result = self.do(op)
        if strict and (known or known_early):
            assert isinstance(result, AlreadyAcked)
            return
        assert isinstance(result, Acked)
        assert result.count == len(seqs - known) + len(early - known_early)
        model.states |= dict.fromkeys([(group, seq) for seq in seqs], State.ACKED)
        model.early |= {(group, ident) for ident in early}

    @staticmethod
    def ids_of(model: ModelStream, seqs: set[int]) -> set[int]:
        return {model.ids[seq - 1] for seq in seqs}

    @rule(group=st.sampled_from(GROUPS), stream=st.sampled_from(STREAMS), span=spans)
    def nack(self, group: str, stream: str, span: tuple[int, int]) -> None:
        self.do(Nack(group, SOURCE, stream, (span,)))
        for seq in range(*span):
            self.model[stream].states.pop((group, seq), None)

    @rule(group=st.sampled_from(GROUPS), stream=st.sampled_from(STREAMS), seq=st.integers(1, 12))
    def seek(self, group: str, stream: str, seq: int) -> None:
        model = self.model[stream]
        self.do(Seek(group, SOURCE, stream, seq, ((1, seq),), ((seq, 2**62),)))
        for other in model.seqs(1, seq):
            model.states.setdefault((group, other), State.DONE)
        for other in model.seqs(seq, 99):
            model.states.pop((group, other), None)
        model.early = {(g, i) for g, i in model.early if g != group or i <= seq}

    @rule(group=st.sampled_from(GROUPS), stream=st.sampled_from(STREAMS), span=spans)
    def claim(self, group: str, stream: str, span: tuple[int, int]) -> None:
        model = self.model[stream]
        result = self.do(Claim(group, SOURCE, stream, "me", *span, 5, 1, 2))
        assert isinstance(result, Claimed)
        granted = [seq for lo, hi in result.ranges for seq in range(lo, hi)]
        free = [seq for seq in range(*span) if (group, seq) not in model.states]
        assert granted == free[:5]

    @invariant()
    def same(self) -> None:
        for name, model in self.model.items():
            stream = self.catalog.stream(BT, SOURCE, name)
            if stream is None:
                assert not model.ids
                continue
            present = [(s, i) for s, i in enumerate(model.ids, 1) if model.contents[i]]
            assert (stream.last_seq, stream.max_id) == (len(model.ids), model.max_id)
            assert (stream.last_id, stream.count) == (model.last_id, len(present))
            assert stream.in_order == (model.ids == sorted(model.ids))
            items = self.catalog.items_by_seq(BT, stream.no, 0, 99)
            assert [(item.seq, item.id) for item in items] == present
            names = [getattr(item, "name", None) for item in items]
            assert names == [model.contents[ident] for _, ident in present]
            by_id = self.catalog.ids(BT, stream.no, 0, 99, 99)
            assert by_id == sorted((ident, seq) for seq, ident in present)
            missing = [ident for ident in range(1, 16) if ident not in model.contents]
            gaps = self.catalog.gaps(BT, stream.no, 1, 16, 99)
            assert [ident for lo, hi in gaps for ident in range(lo, hi)] == missing
            for producer in PRODUCERS:
                sent = [sequence for p, sequence in model.sent if p == producer]
                position = self.catalog.producer_position(BT, SOURCE, name, producer)
                assert position == max(sent, default=0)
            self.same_groups(name, model)

    def same_groups(self, name: str, model: ModelStream) -> None:
        for group in GROUPS:
            found = self.catalog.group(BT, group, SOURCE, name)
            expected = [model.ranges(group, state) for state in State]
            early = sorted(ident for g, ident in model.early if g == group)
            if found is None:
                assert expected == [(), (), ()]
                assert early == []
                continue
            assert [found.done, found.acked, found.dead] == expected
            assert list(found.early_acks) == early
            acked = {model.ids[seq - 1] for lo, hi in found.acked for seq in range(lo, hi)}
            largest = self.catalog.last_acked_id(BT, group, SOURCE, name)
            assert largest == max(acked | set(early), default=0)


class ModelTests:
    model_examples = 25
    """How many sequences of operations are tried; more find more."""

    def test_against_a_model(self, make_catalog: Callable[[], Catalog]) -> None:
        class Machine(AgainstAModel):
            def __init__(self) -> None:
                super().__init__(make_catalog)

        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=self.model_examples,
                stateful_step_count=25,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )

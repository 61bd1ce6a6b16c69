"""Conformance: claims, marks, acknowledgements, seeks and the life of groups."""

from __future__ import annotations

from beamstream.errors import AlreadyAcknowledged, StaleLease
from beamstream.limits import EARLY_ACKS_MAX, ID_MAX
from beamstream.store.catalog.interface import (
    END_OF_SEQS,
    Ack,
    Acked,
    AlreadyAcked,
    Catalog,
    Claim,
    Claimed,
    DeleteGroup,
    DeleteStream,
    Done,
    Expire,
    Mark,
    Nack,
    Ranges,
    Refused,
    Release,
    Renew,
    Seek,
    Skip,
    State,
    Stored,
    Unit,
)
from beamstream.testing.catalog_ops import (
    BT,
    NOW,
    SOURCE,
    STREAM,
    info,
    one,
    put,
    reopen,
    state,
    store,
)


def claim(
    owner: str,
    lo: int,
    hi: int,
    count: int = 100,
    now: int = 10,
    until: int = 100,
    group: str = "g",
) -> Claim:
    return Claim(group, SOURCE, STREAM, owner, lo, hi, count, now, until)


def granted(catalog: Catalog, op: Claim) -> Ranges:
    return one(catalog, op, Claimed).ranges


def mark(
    kind: State, *ranges: tuple[int, int], owner: str = "", now: int = 0, position: int = -1
) -> Mark:
    return Mark("g", SOURCE, STREAM, kind, ranges, position, (), owner, now)


def ack(
    *ranges: tuple[int, int], early: tuple[int, ...] = (), strict: bool = False, now: int = 0
) -> Ack:
    return Ack("g", SOURCE, STREAM, ranges, early, strict, now)


class GroupTests:
    # --------------------------------------------------------------------------- claims

    def test_a_claim_grants_open_messages_lowest_first(self, catalog: Catalog) -> None:
        store(catalog, *range(1, 21))
        one(catalog, ack((3, 5)), Acked)
        one(catalog, mark(State.DONE, (6, 7)), Done)
        one(catalog, mark(State.DEAD, (8, 9)), Done)
        claimed = one(catalog, claim("a", 1, 21, 5), Claimed)
        assert claimed.ranges == ((1, 3), (5, 6), (7, 8), (9, 10))
        assert claimed.stream == info(catalog)
        assert granted(catalog, claim("a", 12, 14)) == ((12, 14),)
        assert granted(catalog, claim("a", 1, 21, 0)) == ()
        assert granted(catalog, claim("a", 5, 5)) == ()

    def test_two_owners_share_nothing(self, catalog: Catalog) -> None:
        store(catalog, *range(1, 11))
        assert granted(catalog, claim("a", 1, 11, 4)) == ((1, 5),)
        assert granted(catalog, claim("b", 1, 11, 3)) == ((5, 8),)
        assert granted(catalog, claim("a", 1, 11, 99)) == ((1, 5), (8, 11))
        assert granted(catalog, claim("b", 1, 11)) == ((5, 8),)
        assert granted(catalog, claim("c", 1, 11)) == ()
        assert granted(catalog, claim("c", 1, 11, group="other")) == ((1, 11),)

    def test_a_claim_ends_with_its_time(self, catalog: Catalog) -> None:
        store(catalog, *range(1, 11))
        assert granted(catalog, claim("a", 1, 6, until=100)) == ((1, 6),)
        assert granted(catalog, claim("b", 1, 11, now=99, until=300)) == ((6, 11),)
        assert granted(catalog, claim("b", 3, 11, now=100, until=300)) == ((3, 11),)
        assert granted(catalog, claim("a", 1, 11, now=101, until=300)) == ((1, 3),)
        one(catalog, mark(State.DONE, (1, 3), owner="a", now=101), Done)
        one(catalog, mark(State.DONE, (3, 5), owner="a", now=101), Refused)
        one(catalog, mark(State.DONE, (3, 5), owner="b", now=101), Done)

    def test_a_claim_may_cover_what_will_come(self, catalog: Catalog) -> None:
        everything = granted(catalog, claim("a", 1, END_OF_SEQS, END_OF_SEQS))
        assert everything == ((1, END_OF_SEQS),)
        assert info(catalog).last_seq == 0
        assert catalog.streams(BT, SOURCE) == []
        store(catalog, 1, 2, 3)
        assert granted(catalog, claim("b", 1, END_OF_SEQS)) == ()
        one(catalog, mark(State.DONE, (1, 3), owner="a", now=50), Done)
        assert granted(catalog, claim("a", 1, END_OF_SEQS, END_OF_SEQS)) == ((3, END_OF_SEQS),)

    def test_renew_and_release(self, catalog: Catalog) -> None:
        store(catalog, *range(1, 5))
        granted(catalog, claim("a", 1, 3))
        granted(catalog, claim("b", 3, 5))
        one(catalog, Renew("a", 500), Done)
        assert granted(catalog, claim("c", 1, 5, now=200, until=300)) == ((3, 5),)
        one(catalog, Release("a"), Done)
        assert granted(catalog, claim("b", 1, 5, now=200, until=300)) == ((1, 3),)
        one(catalog, Release("nobody"), Done)

    # ---------------------------------------------------------------------------- marks

    def test_marks_need_the_claim_of_their_owner(self, catalog: Catalog) -> None:
        store(catalog, *range(1, 9))
        granted(catalog, claim("a", 1, 4))
        granted(catalog, claim("b", 4, 9))
        for op in (
            mark(State.DONE, (1, 2), owner="b", now=20),
            mark(State.DONE, (3, 5), owner="a", now=20),
            mark(State.DONE, (1, 2), (4, 5), owner="a", now=20, position=7),
            mark(State.DONE, (1, 2), owner="a", now=100),
            mark(State.DONE, (1, 2), owner="c", now=20),
        ):
            refused = one(catalog, op, Refused)
            assert isinstance(refused.error, StaleLease)
        assert (state(catalog).done, state(catalog).id_position) == ((), 0)
        one(catalog, mark(State.DONE, (1, 4), owner="a", now=20, position=3), Done)
        assert (state(catalog).done, state(catalog).id_position) == (((1, 4),), 3)

    def test_marks_keep_what_is_stronger(self, catalog: Catalog) -> None:
        store(catalog, *range(1, 11))
        one(catalog, ack((2, 4)), Acked)
        one(catalog, mark(State.DEAD, (5, 6)), Done)
        one(catalog, mark(State.DONE, (1, 8)), Done)
        found = state(catalog)
        assert (found.done, found.acked) == (((1, 2), (4, 5), (6, 8)), ((2, 4),))
        assert found.dead == ((5, 6),)
        one(catalog, mark(State.DEAD, (3, 5)), Done)
        one(catalog, mark(State.ACKED, (5, 7)), Done)
        found = state(catalog)
        assert (found.done, found.acked, found.dead) == (
            ((1, 2), (7, 8)),
            ((2, 4), (5, 7)),
            ((4, 5),),
        )

    def test_marks_carry_position_and_counts(self, catalog: Catalog) -> None:
        store(catalog, *range(1, 5))
        counts = ((2, 2), (3, 5))
        one(catalog, Mark("g", SOURCE, STREAM, State.DONE, ((1, 3),), 8, counts), Done)
        one(catalog, Mark("g", SOURCE, STREAM, State.DONE, (), -1, ((2, 3),)), Done)
        found = state(catalog)
        assert (found.id_position, found.counts, found.done) == (8, ((2, 3), (3, 5)), ((1, 3),))
        one(catalog, ack((2, 3)), Acked)
        assert state(catalog).counts == ((3, 5),)

    def test_nothing_is_done_before_it_has_come(self, catalog: Catalog) -> None:
        """A position never passes a message that has not arrived."""
        one(catalog, mark(State.DONE, (1, 5)), Refused)
        assert catalog.stream(BT, SOURCE, STREAM) is None
        store(catalog, 1, 2)
        one(catalog, mark(State.DONE, (1, 99)), Done)
        assert one(catalog, ack((2, 99)), Acked).count == 1
        one(catalog, Seek("g", SOURCE, STREAM, 0, ((1, 99),), ()), Done)
        store(catalog, 3)
        found = state(catalog)
        assert (found.done, found.acked) == (((1, 2),), ((2, 3),))
        assert granted(catalog, claim("a", 1, 10, 1)) == ((3, 4),)

    # --------------------------------------------------------------------- acknowledging

    def test_acks_count_what_is_new(self, catalog: Catalog) -> None:
        store(catalog, *range(1, 11))
        one(catalog, mark(State.DONE, (1, 3)), Done)
        one(catalog, mark(State.DEAD, (9, 10)), Done)
        assert one(catalog, ack((2, 5)), Acked).count == 3
        assert one(catalog, ack((4, 6), (8, 10)), Acked).count == 3
        assert one(catalog, ack((2, 6)), Acked).count == 0
        found = state(catalog)
        assert (found.done, found.acked, found.dead) == (((1, 2),), ((2, 6), (8, 10)), ())
        assert catalog.last_acked_id(BT, "g", SOURCE, STREAM) == 9

    def test_a_strict_ack_is_refused_the_second_time(self, catalog: Catalog) -> None:
        store(catalog, *range(1, 11))
        assert one(catalog, ack((3, 4), early=(77,), strict=True), Acked).count == 2
        before = state(catalog)
        for op in (
            ack((3, 4), strict=True),
            ack((1, 9), strict=True),
            ack((1, 2), early=(77,), strict=True),
            ack(early=(3,), strict=True),
        ):
            assert isinstance(one(catalog, op, AlreadyAcked).error, AlreadyAcknowledged)
        assert state(catalog) == before
        assert one(catalog, ack((4, 5), (2, 3), strict=True), Acked).count == 2

    def test_early_acks_turn_into_acks(self, catalog: Catalog) -> None:
        store(catalog, 1)
        assert one(catalog, ack(early=(5, 7, 9, 1)), Acked).count == 4
        assert one(catalog, ack(early=(5,)), Acked).count == 0
        found = state(catalog)
        assert (found.early_acks, found.acked) == ((5, 7, 9), ((1, 2),))
        assert catalog.last_acked_id(BT, "g", SOURCE, STREAM) == 9
        store(catalog, 4, 5, 6)
        one(catalog, Skip(SOURCE, STREAM, 7, 9, NOW), Stored)
        found = state(catalog)
        assert (found.early_acks, found.acked) == ((9,), ((1, 2), (3, 4), (5, 6)))
        assert catalog.last_acked_id(BT, "g", SOURCE, STREAM) == 9
        one(catalog, put(0), Stored)
        assert state(catalog).early_acks == ()
        assert catalog.last_acked_id(BT, "g", SOURCE, STREAM) == 9
        assert granted(catalog, claim("a", 1, 99, 3)) == ((2, 3), (4, 5), (6, 7))

    def test_early_acks_of_other_groups_and_streams(self, catalog: Catalog) -> None:
        one(catalog, ack(early=(1,)), Acked)
        one(catalog, Ack("h", SOURCE, STREAM, (), (2,)), Acked)
        one(catalog, Ack("g", SOURCE, "other", (), (2,)), Acked)
        store(catalog, 2, 1)
        assert state(catalog, "g").acked == ((2, 3),)
        assert state(catalog, "h").acked == ((1, 2),)
        assert state(catalog, "g", "other").early_acks == (2,)

    def test_early_acks_are_bounded(self, catalog: Catalog) -> None:
        first = tuple(range(1, EARLY_ACKS_MAX))
        assert one(catalog, ack(early=first), Acked).count == len(first)
        one(catalog, ack(early=(ID_MAX, ID_MAX - 1)), Refused)
        assert one(catalog, ack(early=(ID_MAX, 5)), Acked).count == 1
        one(catalog, ack(early=(ID_MAX - 1,)), Refused)
        assert catalog.last_acked_id(BT, "g", SOURCE, STREAM) == ID_MAX
        assert len(state(catalog).early_acks) == EARLY_ACKS_MAX

    def test_the_last_acknowledged_id_of_unordered_ids(self, catalog: Catalog) -> None:
        store(catalog, 5, 9, 2, 7)
        for seq, expected in ((3, 2), (1, 5), (4, 7), (2, 9)):
            one(catalog, ack((seq, seq + 1)), Acked)
            assert catalog.last_acked_id(BT, "g", SOURCE, STREAM) == expected
        assert catalog.last_acked_id(BT, "h", SOURCE, STREAM) == 0

    # -------------------------------------------------------------------- nack and seek

    def test_nack_opens_whatever_it_was(self, catalog: Catalog) -> None:
        store(catalog, *range(1, 10))
        one(catalog, mark(State.DONE, (1, 4)), Done)
        one(catalog, ack((4, 7)), Acked)
        one(catalog, mark(State.DEAD, (7, 10)), Done)
        one(catalog, Nack("g", SOURCE, STREAM, ((2, 3), (5, 6), (8, 9))), Done)
        found = state(catalog)
        assert (found.done, found.acked, found.dead) == (
            ((1, 2), (3, 4)),
            ((4, 5), (6, 7)),
            ((7, 8), (9, 10)),
        )
        assert granted(catalog, claim("a", 1, 10)) == ((2, 3), (5, 6), (8, 9))
        one(catalog, ack((5, 6), strict=True), Acked)

    def test_seek(self, catalog: Catalog) -> None:
        store(catalog, *range(1, 10))
        one(catalog, ack((2, 3), (6, 8), early=(20, 30, 40)), Acked)
        one(catalog, mark(State.DEAD, (4, 5)), Done)
        counts = ((3, 2), (6, 4))
        one(catalog, Mark("g", SOURCE, STREAM, State.DONE, (), -1, counts), Done)
        done = one(catalog, Seek("g", SOURCE, STREAM, 30, ((1, 6),), ((6, 10),)), Done)
        assert done.stream == info(catalog)
        found = state(catalog)
        assert found.id_position == 30
        assert (found.done, found.acked) == (((1, 2), (3, 4), (5, 6)), ((2, 3),))
        assert (found.dead, found.early_acks) == (((4, 5),), (20, 30))
        assert found.counts == ((3, 2),)
        one(catalog, Seek("g", SOURCE, STREAM, 0, (), ((1, END_OF_SEQS),)), Done)
        found = state(catalog)
        assert (found.id_position, found.early_acks) == (0, ())
        assert found.done == found.acked == found.dead == found.counts == ()

    # ---------------------------------------------------------------------- life of groups

    def test_a_group_may_wait_for_a_stream(self, catalog: Catalog) -> None:
        one(catalog, Seek("g", SOURCE, STREAM, 3, (), ()), Done)
        assert state(catalog).id_position == 3
        no = info(catalog).no
        assert catalog.streams(BT, SOURCE) == []
        assert catalog.sources(BT) == []
        assert store(catalog, 1)[0].stream.no == no
        assert [s.no for s in catalog.streams(BT, SOURCE)] == [no]
        assert state(catalog).id_position == 3

    def test_groups_of_a_stream(self, catalog: Catalog) -> None:
        store(catalog, 1)
        for name in ("g10", "g1", "G1"):
            one(catalog, Ack(name, SOURCE, STREAM, ((1, 2),), now_ns=7), Acked)
        found = catalog.groups(BT, SOURCE, STREAM)
        assert [(g.group, g.acked, g.last_used_ns) for g in found] == [
            (name, ((1, 2),), 7) for name in ("G1", "g1", "g10")
        ]
        assert found[1] == catalog.group(BT, "g1", SOURCE, STREAM)
        assert catalog.group(BT, "g", SOURCE, STREAM) is None

    def test_unused_groups_expire(self, catalog: Catalog) -> None:
        store(catalog, 1, 2)
        store(catalog, 1, stream="other")
        one(catalog, ack((1, 2), early=(50,), now=100), Acked)
        one(catalog, Ack("g", SOURCE, "other", ((1, 2),), now_ns=90), Acked)
        one(catalog, Ack("young", SOURCE, STREAM, ((1, 2),), now_ns=300), Acked)
        claiming = claim("a", 1, 3, now=100, until=400, group="claiming")
        assert granted(catalog, claiming) == ((1, 3),)
        one(catalog, Expire(100), Done)
        assert [g.last_used_ns for g in catalog.groups(BT, SOURCE, STREAM)] == [100, 100, 300]
        one(catalog, Expire(200), Done)
        assert [g.group for g in catalog.groups(BT, SOURCE, STREAM)] == ["claiming", "young"]
        assert catalog.groups(BT, SOURCE, "other") == []
        assert catalog.last_acked_id(BT, "g", SOURCE, STREAM) == 0
        one(catalog, ack((2, 3), now=500), Acked)
        assert (state(catalog).acked, state(catalog).early_acks) == (((2, 3),), ())
        one(catalog, Expire(450), Done)
        assert [g.group for g in catalog.groups(BT, SOURCE, STREAM)] == ["g"]

    def test_the_last_use_counts(self, catalog: Catalog) -> None:
        store(catalog, 1, 2)
        for now, last in ((100, 100), (300, 300), (200, 300)):
            one(catalog, ack((1, 2), now=now), Acked)
            assert state(catalog).last_used_ns == last
        reopen(catalog)
        # Of one call: a use that keeps the group, and one that is undone.
        clash = Skip(SOURCE, STREAM, 1, 2, NOW)
        fallen = Unit((ack((1, 2), now=900), Ack("new", SOURCE, STREAM, ((1, 2),)), clash))
        catalog.apply(BT, [fallen, ack((1, 2), now=500), Expire(400)])
        assert catalog.groups_of(BT) == [("g", SOURCE, STREAM, 500)]
        catalog.apply(BT, [ack((2, 3), now=600), fallen, Expire(600)])
        assert catalog.groups_of(BT) == [("g", SOURCE, STREAM, 600)]
        assert state(catalog).acked == ((1, 3),)
        one(catalog, Expire(601), Done)
        assert catalog.groups_of(BT) == []

    def test_counts_end_with_the_acknowledgement(self, catalog: Catalog) -> None:
        store(catalog, 1, 2, 3, 4)
        one(catalog, ack((4, 5), now=1), Acked)
        count = Mark("g", SOURCE, STREAM, State.DONE, (), -1, ((1, 2), (2, 3), (3, 4)), "", NOW)
        one(catalog, count, Done)
        one(catalog, ack((1, 2), now=2), Acked)
        assert state(catalog).counts == ((2, 3), (3, 4))
        reopen(catalog)
        one(catalog, ack((2, 3), now=3), Acked)
        assert state(catalog).counts == ((3, 4),)
        clash = Skip(SOURCE, STREAM, 1, 2, NOW)
        catalog.apply(BT, [Unit((ack((3, 4), now=4), clash))])
        assert state(catalog).counts == ((3, 4),)
        one(catalog, ack((3, 4), now=4), Acked)
        assert state(catalog).counts == ()

    def test_a_group_is_forgotten(self, catalog: Catalog) -> None:
        for stream in (STREAM, "other", "gone"):
            store(catalog, 1, 2, stream=stream)
            for group in ("g", "g1"):
                op = Ack(group, SOURCE, stream, ((1, 2),), (9,), now_ns=5)
                one(catalog, op, Acked)
        one(catalog, DeleteStream(SOURCE, "gone"), Done)
        assert granted(catalog, claim("a", 1, 9)) == ((2, 9),)
        everything = [(g, SOURCE, s) for g in ("g", "g1") for s in ("other", STREAM)]
        assert [row[:3] for row in catalog.groups_of(BT)] == everything
        assert {row[3] for row in catalog.groups_of(BT)} == {10, 5}
        kept = state(catalog, "g1")
        one(catalog, DeleteGroup("g", SOURCE, STREAM), Done)
        assert [row[:3] for row in catalog.groups_of(BT)] == [everything[0], *everything[2:]]
        assert catalog.group(BT, "g", SOURCE, STREAM) is None
        assert granted(catalog, claim("b", 1, 3)) == ((1, 3),)
        for unknown in (
            DeleteGroup("none"),
            DeleteGroup("g", SOURCE, "gone"),
            DeleteGroup("g", "det2", STREAM),
            DeleteGroup("g", SOURCE),
        ):
            one(catalog, unknown, Refused)
        one(catalog, DeleteGroup("g"), Done)
        one(catalog, DeleteGroup("g"), Refused)
        assert [row[:3] for row in catalog.groups_of(BT)] == everything[2:]
        assert state(catalog, "g1") == kept
        one(catalog, ack((2, 3), now=1), Acked)
        assert (state(catalog).acked, state(catalog).last_used_ns) == (((2, 3),), 1)
        assert catalog.groups_of("nothing") == []

"""The queue behind producers, waits that can be interrupted, addresses without a port."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamstream.client.asapo.address import Address, parse_address
from beamstream.client.asapo.http import Http
from beamstream.client.asapo.outbox import Outbox, Parcel
from beamstream.client.asapo.pauses import Pauses
from beamstream.errors import BadInput, TimedOut
from beamstream.wire.asapo.structs import Reply

NOWHERE = "127.0.0.1:1"


class Note(Parcel):
    """A parcel that tells what became of it."""

    def __init__(self, nbytes: int = 1, wanted: bool = True) -> None:
        super().__init__(nbytes, "the note")
        self.wanted = wanted
        self.outcome: queue.SimpleQueue[Reply | Exception] = queue.SimpleQueue()

    def begin(self) -> bool:
        return self.wanted

    def parts(self) -> Sequence[bytes]:
        raise OSError("nothing to send")

    def delivered(self, reply: Reply) -> None:
        self.outcome.put(reply)

    def failed(self, error: Exception) -> None:
        self.outcome.put(error)


class Stuck(Note):
    """A parcel that keeps its thread busy until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()

    def begin(self) -> bool:
        self.begun.set()
        return self.go_on.wait(30)


def outbox(threads: int = 1) -> Outbox:
    return Outbox(
        NOWHERE, "T", b"", what="beamtime bt1", threads=threads, timeout_s=0.0, retry_s=0.0
    )


def always(count: int, nbytes: int) -> bool:
    return True


def test_what_cannot_be_made_fails_with_its_own_error() -> None:
    box, note = outbox(), Note()
    box.post(note, always, wait=False)
    assert isinstance(note.outcome.get(timeout=20), OSError)
    box.flush(20)
    assert (box.count, box.nbytes) == (0, 0)
    assert box.stop() == 0


def test_what_is_not_wanted_any_more_is_passed_over() -> None:
    box, note = outbox(), Note(wanted=False)
    box.post(note, always, wait=False)
    box.flush(20)
    assert note.outcome.empty()
    box.stop()


def test_room_is_waited_for_or_not() -> None:
    box, stuck, note = outbox(), Stuck(), Note(5)

    def one(count: int, nbytes: int) -> bool:
        return count <= 1

    assert box.post(stuck, one, wait=False)
    assert not box.post(note, one, wait=False)
    assert (box.count, box.nbytes) == (1, 1)
    with pytest.raises(TimedOut, match="1 messages"):
        box.flush(0)
    poster = threading.Thread(target=box.post, args=(note, one), kwargs={"wait": True})
    poster.start()
    stuck.go_on.set()
    poster.join(20)
    assert isinstance(note.outcome.get(timeout=20), OSError)
    box.stop()


def test_stop_fails_what_waits_and_waits_for_what_is_under_way() -> None:
    box, stuck, notes = outbox(), Stuck(), [Note(), Note(wanted=False), Note()]
    for parcel in (stuck, *notes):
        box.post(parcel, always, wait=False)
    assert stuck.begun.wait(20)
    dropped: list[int] = []
    stopper = threading.Thread(target=lambda: dropped.append(box.stop(20)))
    stopper.start()
    assert isinstance(notes[2].outcome.get(timeout=20), TimedOut)
    assert notes[1].outcome.empty()
    with pytest.raises(BadInput, match="closed"):
        box.post(Note(), always, wait=True)
    stuck.go_on.set()
    stopper.join(20)
    assert dropped == [3]
    assert isinstance(stuck.outcome.get(timeout=20), OSError)


def test_end_lets_everything_go_first() -> None:
    box, stuck, notes = outbox(2), Stuck(), [Note() for _ in range(20)]
    for parcel in (stuck, *notes):
        box.post(parcel, always, wait=False)
    box.end()
    with pytest.raises(BadInput):
        box.post(Note(), always, wait=False)
    stuck.go_on.set()
    for note in notes:
        assert isinstance(note.outcome.get(timeout=20), OSError)
    box.flush(20)
    assert box.stop() == 0


def test_an_interrupt_ends_the_waits_that_have_begun() -> None:
    pauses = Pauses()
    waits = [pauses.begin() for _ in range(3)]
    ended: queue.SimpleQueue[bool] = queue.SimpleQueue()
    threads = [
        threading.Thread(target=lambda wait=wait: ended.put(wait(60.0))) for wait in waits[:2]
    ]
    for thread in threads:
        thread.start()
    pauses.interrupt()
    assert [ended.get(timeout=20) for _ in threads] == [True, True]
    assert waits[2](0.0)
    later = pauses.begin()
    assert not later(0.0)
    for thread in threads:
        thread.join(20)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("node", Address("node", 80)),
        ("http://node/sub", Address("node", 80, "/sub")),
        ("node:8400", Address("node", 8400)),
        ("[::1]", Address("::1", 80)),
    ],
)
def test_a_port_may_be_left_out_where_one_is_meant(text: str, expected: Address) -> None:
    assert parse_address(text, 80) == expected
    if expected.port == 80:
        with pytest.raises(BadInput):
            parse_address(text)


@given(st.text(max_size=20), st.sampled_from([" ", "\n", "\r\nX: y\r\n", "\0", "é", "\x7f"]))
def test_targets_that_would_be_more_than_a_target_are_refused(text: str, bad: str) -> None:
    http = Http()
    with pytest.raises(BadInput, match="token or beamtime"):
        http.request(Address("127.0.0.1", 1), "GET", f"/{text}{bad}", timeout_s=1.0)

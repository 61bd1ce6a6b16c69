"""Memory handed to clients: real memory, real sockets, one process."""

from __future__ import annotations

import asyncio
import gc
import mmap
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import xxhash

from beamstream import limits
from beamstream.client.native.arenas import LifeLine, known_digest
from beamstream.errors import BadInput, DataLost
from beamstream.server.doors.arenas import ArenaDoor
from beamstream.server.payloads import Spot
from beamstream.server.renewing import Renewing
from beamstream.server.shared import SharedMemory
from beamstream.store.arenas import Arenas
from beamstream.store.cache import Cache, Slot
from beamstream.wire.native import sharing
from beamstream.wire.native.batches import Place
from beamstream.wire.native.frames import Grant, WantMemory

T = TypeVar("T")
SESSION = b"0123456789abcdef"
NBYTES = 100_000
ALL = ("read", "write")


class Hall:
    """A cache with its door, on an event loop of its own."""

    def __init__(self, path: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.path = path
        self.waiting: list[Callable[[], None]] = []
        self.later: list[Callable[[], None]] = []
        self.grants: list[Grant] = []
        self.lines: list[LifeLine] = []
        self.changed = threading.Condition()
        self.on_loop(self._build)

    def _build(self) -> None:
        self.arenas = Arenas(limits.CACHE_NBYTES_MIN, 8)
        renewing = self.renewing = Renewing(self.loop, self.arenas)
        self.cache = Cache(
            self.arenas.views,
            iter(range(1, 10**6)).__next__,
            on_renew=renewing.renew,
            on_retired=renewing.forget,
        )
        self.shared = SharedMemory(
            cache=self.cache,
            room=self.room,
            wait=self.waiting.append,
            later=lambda seconds, call: self.later.append(call),
            machine="this",
        )
        renewing.connect(self.cache, self.room, self.shared.retired)
        self.door = ArenaDoor(self.loop, self.shared, self.arenas, self.path)
        self.door.open()
        self.shared.path = str(self.path)

    def room(self) -> None:
        waiting = tuple(self.waiting)
        self.waiting.clear()
        for call in waiting:
            call()
        with self.changed:
            self.changed.notify_all()

    def close(self) -> None:
        for line in self.lines:
            line.close()
        self.on_loop(self.door.close)
        self.on_loop(self.renewing.close)
        self.on_loop(self.arenas.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def on_loop(self, call: Callable[..., T], *arguments: Any) -> T:
        async def run() -> T:
            return call(*arguments)

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(20)

    def until(self, ready: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(ready, 20)

    # ------------------------------------------------------------------ what a node does

    def greet(self, *access: str, session: bytes = SESSION, beamtime: str = "bt") -> LifeLine:
        path = self.on_loop(self.shared.greet, session, "this", beamtime, access or ALL)
        line = LifeLine.connect(path, session)
        assert line is not None
        self.lines.append(line)
        return line

    def store(self, payload: bytes, beamtime: str = "bt") -> Slot:
        return self.on_loop(self._store, payload, beamtime)

    def _store(self, payload: bytes, beamtime: str) -> Slot:
        slot = self.cache.allocate(beamtime, len(payload))
        assert slot is not None
        self.cache.view(slot)[:] = payload
        self.cache.publish(slot, object())
        self.cache.unpin(slot)
        return slot

    def share(self, slot: Slot, session: bytes = SESSION) -> tuple[Place, ...] | None:
        spot = Spot(slot, 0, slot.nbytes)
        return self.on_loop(self.shared.places, session, [spot], (slot.nbytes,))

    def want(self, channel: int, nbytes: int, session: bytes = SESSION) -> None:
        self.on_loop(self.shared.want, session, WantMemory(channel, nbytes), self.granted)

    def granted(self, grant: Grant) -> None:
        with self.changed:
            self.grants.append(grant)
            self.changed.notify_all()

    def grant(self, channel: int, nbytes: int) -> Grant:
        self.grants.clear()
        self.want(channel, nbytes)
        self.until(lambda: bool(self.grants))
        return self.grants.pop()


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[Hall]:
    made = Hall(tmp_path / "arenas.sock")
    yield made
    made.close()


def payload(number: int, nbytes: int = NBYTES) -> bytes:
    return bytes([number % 255 + 1]) * nbytes


def test_a_reader_sees_the_slot_itself_and_lets_go(hall: Hall) -> None:
    line = hall.greet()
    slot = hall.store(payload(1))
    places = hall.share(slot)
    assert places is not None
    [view] = line.views(places, (NBYTES,))
    assert view.readonly
    assert bytes(view) == payload(1)
    hall.on_loop(hall.cache.view(slot).__setitem__, 0, 99)
    assert view[0] == 99, "it is the same memory"
    assert hall.cache.readers_nbytes == NBYTES
    part = view[10:20]
    del view
    gc.collect()
    assert line.held() == (places[0].pin,)
    del part
    gc.collect()
    assert line.held() == ()
    assert line.due_at() is not None
    hall.on_loop(hall.shared.unpin, SESSION, line.take_gone())
    assert hall.cache.readers_nbytes == hall.cache.pinned_nbytes == 0
    hall.on_loop(hall.shared.unpin, SESSION, (1, 2, 3))


def test_the_digest_of_what_is_looked_at_is_known(hall: Hall) -> None:
    line = hall.greet()
    text, mark = payload(1), xxhash.xxh3_128_digest(payload(1))
    places = hall.share(hall.store(text)) or ()
    [view] = line.views(places, (NBYTES,), mark)
    array = np.frombuffer(view, "<u2").reshape(-1, 2)
    assert known_digest(view) == known_digest(array.reshape(-1).view("u1").data) == mark
    for other in (view[1:], view[:-1], text, memoryview(bytes(view)), array.copy().data.cast("B")):
        assert known_digest(other) is None
    for unknown in (b"", bytes(16)):
        assert known_digest(line.views(places, (NBYTES,), unknown)[0]) is None


def test_the_first_view_that_goes_says_by_when_it_is_to_be_told(hall: Hall) -> None:
    path = hall.on_loop(hall.shared.greet, SESSION, "this", "bt", ALL)
    told: list[float] = []
    line = LifeLine.connect(path, SESSION, told.append)
    assert line is not None
    hall.lines.append(line)
    views = [line.views(hall.share(hall.store(payload(n))) or (), (NBYTES,)) for n in range(3)]
    while views:
        views.pop()
        gc.collect()
    assert told == [line.due_at()]
    assert len(line.take_gone()) == 3
    assert line.due_at() is None


def test_payloads_of_one_slot_are_one_pin(hall: Hall) -> None:
    line = hall.greet()
    slot = hall.store(payload(1, 70_000) + payload(2, 80_000))
    spot = Spot(slot, 0, 150_000)
    places = hall.on_loop(hall.shared.places, SESSION, [spot], (70_000, 80_000))
    one, two = line.views(places, (70_000, 80_000))
    assert (bytes(one), bytes(two)) == (payload(1, 70_000), payload(2, 80_000))
    del one
    gc.collect()
    assert line.held() == (places[0].pin,)
    del two
    gc.collect()
    assert not line.held()


def test_who_holds_much_and_who_may_not_read_get_nothing(hall: Hall) -> None:
    assert hall.on_loop(hall.shared.greet, SESSION, "elsewhere", "bt", ALL) == ""
    assert hall.on_loop(hall.shared.greet, SESSION, "", "bt", ALL) == ""
    hall.greet()
    assert hall.share(hall.store(payload(1, 1000))) is None, "small ones are not worth it"
    held = 0
    while hall.share(hall.store(payload(held))) is not None:
        held += 1
    assert held == hall.shared.session_nbytes_max // NBYTES
    hall.on_loop(hall.shared.unpin, SESSION, (1,))
    assert hall.share(hall.store(payload(0))) is not None
    for number in range(20):
        session = b"session %8d" % number
        hall.greet(session=session)
        while hall.share(hall.store(payload(0)), session) is not None:
            held += 1
    assert held * NBYTES <= hall.cache.nbytes // limits.SHARED_PART
    writer = b"w" * 16
    line = hall.greet("write", session=writer)
    assert hall.share(hall.store(payload(0)), writer) is None
    with pytest.raises(DataLost, match="does not share"):
        line.map(1, writable=False)
    other = hall.greet(session=b"o" * 16, beamtime="other")
    with pytest.raises(DataLost, match="does not share"):
        other.map(1, writable=False)


def test_one_payload_is_shared_even_if_it_is_more_than_a_part(hall: Hall) -> None:
    hall.greet()
    large = hall.shared.session_nbytes_max + 1
    assert hall.share(hall.store(payload(1, large))) is not None
    assert hall.share(hall.store(payload(1, large))) is None


def test_the_life_line_gives_everything_back(hall: Hall) -> None:
    line = hall.greet()
    places = [hall.share(hall.store(payload(number))) for number in range(3)]
    assert hall.cache.readers_nbytes == 3 * NBYTES
    hall.on_loop(hall.shared.left, SESSION)
    assert hall.cache.readers_nbytes == 3 * NBYTES, "it has not been closed"
    assert places[0] is not None
    [view] = line.views(places[0], (NBYTES,))
    line.close()
    assert bytes(view) == payload(0)
    assert hall.cache.readers_nbytes == 3 * NBYTES, "there is a view"
    del view
    gc.collect()
    hall.until(lambda: not hall.cache.readers_nbytes)
    hall.on_loop(lambda: None)
    assert not len(hall.shared)


def test_who_comes_again_says_what_he_has(hall: Hall) -> None:
    line = hall.greet()
    places = [hall.share(hall.store(payload(number))) for number in range(3)]
    assert places[1] is not None
    views = line.views(places[1], (NBYTES,))
    hall.on_loop(hall.shared.greet, SESSION, "this", "bt", ALL)
    hall.on_loop(hall.shared.left, SESSION)
    hall.on_loop(hall.shared.still_held, SESSION, line.held())
    assert hall.cache.readers_nbytes == NBYTES
    assert bytes(views[0]) == payload(1)


def test_a_view_stays_as_it_is_while_the_cache_cycles(hall: Hall) -> None:
    line = hall.greet()
    kept = [line.views(hall.share(hall.store(payload(n))) or (), (NBYTES,))[0] for n in range(3)]
    for number in range(1000):
        hall.store(payload(number + 50))
    for beamtime in range(12):
        for number in range(30):
            hall.store(payload(number + 100), f"other{beamtime}")
    assert [bytes(view) for view in kept] == [payload(n) for n in range(3)]


def test_descriptors_do_what_they_are_for(hall: Hall) -> None:
    line = hall.greet()
    assert hall.share(hall.store(payload(1))) is not None
    fd, nbytes = line._ask(1, False)
    with pytest.raises(OSError):
        mmap.mmap(fd, nbytes, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(OSError):
        os.pwrite(fd, b"x", 0)
    os.close(fd)
    grant = hall.grant(1, NBYTES)
    fd, nbytes = line._ask(grant.arena, True)
    for size in (0, nbytes // 2, 2 * nbytes):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    assert os.fstat(fd).st_mode & 0o777 == 0o400, "nobody opens it again for writing"
    os.close(fd)
    with pytest.raises(DataLost, match="does not share"):
        line.map(1, writable=True)


def test_a_writer_fills_what_it_is_granted_once(hall: Hall) -> None:
    line = hall.greet()
    grant = hall.grant(7, NBYTES)
    line.writable(grant.arena, grant.offset, 90_000)[:] = payload(5, 90_000)
    place = Place(grant.arena, grant.offset, grant.generation)
    take = hall.shared.take
    with pytest.raises(BadInput, match="not granted"):
        hall.on_loop(take, SESSION, 8, place, 90_000)
    with pytest.raises(BadInput, match="not where"):
        hall.on_loop(take, SESSION, 7, Place(grant.arena, 64, grant.generation), 90_000)
    with pytest.raises(BadInput, match="bytes in granted"):
        hall.on_loop(take, SESSION, 7, place, NBYTES + 1)
    with pytest.raises(BadInput, match="not granted"):
        hall.on_loop(take, b"x" * 16, 7, place, 90_000)
    slot = hall.on_loop(take, SESSION, 7, place, 90_000)
    assert bytes(hall.cache.view(slot)) == payload(5, 90_000)
    with pytest.raises(BadInput, match="not granted"):
        hall.on_loop(take, SESSION, 7, place, 90_000)
    hall.on_loop(hall.cache.publish, slot, "key")
    hall.on_loop(hall.cache.unpin, slot)
    hall.on_loop(hall.shared.close_writer, SESSION, 7)
    [end_loan] = hall.later
    hall.on_loop(end_loan)
    assert hall.cache.find("key") is slot
    with pytest.raises(DataLost, match="does not share"):
        line._ask(grant.arena, True)


def test_who_wants_memory_waits_for_room(hall: Hall) -> None:
    hall.greet()
    size = hall.cache.payload_nbytes_max // 2
    for _ in range(limits.SHARED_GRANTS_MAX):
        hall.want(1, size)
    full = len(hall.grants)
    while True:
        # Arenas that are made anew come a little later.
        hall.on_loop(lambda: None)
        hall.renewing._thread.submit(lambda: None).result(20)
        hall.on_loop(lambda: None)
        if len(hall.grants) == full:
            break
        full = len(hall.grants)
    assert 2 <= full < limits.SHARED_GRANTS_MAX
    assert all(grant.nbytes for grant in hall.grants)
    hall.want(1, size)
    assert hall.grants.pop().nbytes == 0, "too many questions"
    hall.on_loop(hall.shared.give_back, SESSION, 1, (hall.grants[0].generation,))
    hall.until(lambda: len(hall.grants) == full + 1)


def test_nobody_is_lent_what_is_not_for_him(hall: Hall) -> None:
    hall.greet("read")
    assert hall.grant(1, NBYTES).nbytes == 0
    hall.greet("write", session=b"w" * 16)
    hall.want(1, hall.cache.payload_nbytes_max, b"w" * 16)
    hall.want(1, 0, b"w" * 16)
    hall.want(1, -5, b"w" * 16)
    hall.want(1, 100, b"nobody")
    assert [grant.nbytes for grant in hall.grants] == [0] * 4


def test_a_writer_that_dies_gives_its_memory_back(hall: Hall) -> None:
    line = hall.greet()
    for _ in range(3):
        assert hall.grant(1, NBYTES).nbytes
    assert hall.cache.pinned_nbytes == 3 * NBYTES
    line._socket.close()
    hall.until(lambda: not hall.cache.pinned_nbytes)
    hall.on_loop(hall.shared.left, SESSION)
    assert not len(hall.shared)


@pytest.mark.parametrize(
    "packet", [b"", b"x", bytes(100), sharing.pack_session(b"unknown session!")]
)
def test_strangers_are_sent_away(hall: Hall, packet: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.connect(str(hall.path))
        stranger.settimeout(20)
        stranger.send(packet)
        assert stranger.recv(100) == b""
    hall.on_loop(lambda: None)
    assert not len(hall.door)


def test_who_asks_without_reading_the_answers_costs_little(hall: Hall) -> None:
    line = hall.greet()
    hall.share(hall.store(payload(1)))
    before = len(os.listdir("/proc/self/fd"))
    line._socket.setblocking(False)
    for _ in range(5000):
        try:
            line._socket.send(sharing.pack_ask(1, writable=False))
        except BlockingIOError:
            hall.on_loop(lambda: None)
    line._socket.settimeout(20)
    line._socket.send(b"rubbish")
    hall.until(lambda: not hall.cache.readers_nbytes)
    assert len(os.listdir("/proc/self/fd")) <= before
    assert not len(hall.door)


def test_a_deep_folder_has_a_socket_too(tmp_path: Path) -> None:
    folder = tmp_path
    while len(os.fsencode(folder)) < 150:
        folder /= "deeper"
    folder.mkdir(parents=True)
    made = Hall(folder / "arenas.sock")
    try:
        places = (made.greet(), made.share(made.store(payload(1))))
        assert places[1] is not None
        assert bytes(places[0].views(places[1], (NBYTES,))[0]) == payload(1)
    finally:
        made.close()

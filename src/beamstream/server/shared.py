"""Who of the clients on this machine holds what of the cache: pins, grants, loans.

A session has shared memory as long as it has a *life line*: a connection to the second socket
(`doors.arenas`), which the kernel closes when its last process ends. Pins outlive the session's
main connection, grants do not. Whoever holds much gets payloads by the socket instead; nobody has
to wait for a client that is frozen (`Cache.unblock`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from beamstream import limits
from beamstream.errors import BadInput
from beamstream.server.payloads import Spot
from beamstream.store.cache import Cache, Loan, Slot
from beamstream.wire.native.batches import Place
from beamstream.wire.native.frames import Grant, WantMemory
from beamstream.wire.native.sharing import BOOT_ID, machine_id

Answer = Callable[[Grant], None]
Later = Callable[[float, Callable[[], None]], object]


class Line(Protocol):
    """A life line."""

    def retired(self, memory: int) -> None:
        """The client may unmap a memory."""


class Holder:
    """A session that may share memory."""

    def __init__(self, session: bytes, beamtime: str) -> None:
        self.session = session
        self.beamtime = beamtime
        self.access: frozenset[str] = frozenset()
        self.connections = 0
        self.lines: set[Line] = set()
        self.mapped: set[int] = set()
        """Memories that it was given descriptors of."""
        self.last_pin = 0
        self.pins: dict[int, Slot] = {}
        self.slots: dict[Slot, int] = {}
        """Slot -> how many of the pins are on it."""
        self.nbytes = 0
        self.channels: set[int] = set()
        """Writers that have asked for memory."""
        self.loan: Loan | None = None
        self.grants: dict[int, tuple[int, Slot]] = {}
        """Generation -> channel and slot."""
        self.wants: deque[tuple[WantMemory, Answer]] = deque()

    @property
    def writes(self) -> bool:
        return bool(self.lines) and bool(self.access & {"write", "writeraw"})


class SharedMemory:
    """The sessions on this machine and what they hold. On the event loop only.

    Parameters
    ----------
    room : called when slots were unpinned.
    wait : has something called once, when slots were unpinned.
    later : calls something after so many seconds.
    machine : of this node (`machine_id`); empty when nothing is shared.
    """

    def __init__(
        self,
        *,
        cache: Cache,
        room: Callable[[], None],
        wait: Callable[[Callable[[], None]], None],
        later: Later,
        machine: str,
    ) -> None:
        self._cache = cache
        self._room = room
        self._wait = wait
        self._later = later
        self._machine = machine
        self.path = ""
        """Of the second socket, as clients are told; empty while there is none."""
        self._holders: dict[bytes, Holder] = {}
        self._waiting = False

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def session_nbytes_max(self) -> int:
        """What one session may hold pinned."""
        return self._cache.nbytes // limits.SHARED_SESSION_PART

    # ------------------------------------------------------------------ main connections

    def greet(self, session: bytes, machine: str, beamtime: str, access: Iterable[str]) -> str:
        """A client has logged in; return where its life line goes, empty if it shares nothing.

        Each call that returns a path is followed by one of `left`.
        """
        if not machine or machine != self._machine or not self.path:
            return ""
        holder = self._holders.get(session)
        if holder is None:
            if len(self._holders) >= limits.CLIENTS_MAX:
                return ""
            holder = self._holders[session] = Holder(session, beamtime)
        if holder.beamtime != beamtime:
            return ""
        # What was on its way over an earlier connection is not awaited any more.
        self._drop_grants(holder)
        holder.access = frozenset(access)
        holder.connections += 1
        return self.path

    def left(self, session: bytes) -> None:
        """A connection of a session that was greeted is gone."""
        holder = self._holders[session]
        holder.connections -= 1
        if holder.connections:
            return
        self._drop_grants(holder)
        holder.channels.clear()
        self._later(limits.NATIVE_RESUME_SECONDS, lambda: self._end_loan(holder))
        self._forget_if_gone(holder)

    # ------------------------------------------------------------------ readers

    def places(
        self, session: bytes, spots: Sequence[Spot], sizes: Sequence[int]
    ) -> tuple[Place, ...] | None:
        """Pin payloads for a reader that maps them; None: it gets them by the socket.

        Parameters
        ----------
        spots : where the payloads are, several of them back to back in each.
        sizes : nbytes of each payload.
        """
        holder = self._holders.get(session)
        if holder is None or not holder.lines or "read" not in holder.access:
            return None
        if not spots or min(sizes) < limits.SHARED_NBYTES_MIN:
            return None
        new = {spot.slot for spot in spots} - holder.slots.keys()
        if not self._affords(holder, sum(slot.nbytes for slot in new)):
            return None
        pins: list[int] = []
        for spot in spots:
            if not self._cache.pin_for_reader(spot.slot):
                self._let_go(holder, pins)
                return None
            pins.append(self._hold(holder, spot.slot))
        return _places(spots, pins, sizes)

    def _affords(self, holder: Holder, nbytes: int) -> bool:
        cache = self._cache
        if cache.readers_nbytes + nbytes > cache.nbytes // limits.SHARED_PART:
            return False
        # Somebody who holds nothing may have one payload even where the cache is small.
        most = self.session_nbytes_max
        return holder.nbytes + nbytes <= (most if holder.pins else max(most, nbytes))

    def _hold(self, holder: Holder, slot: Slot) -> int:
        holder.last_pin += 1
        holder.pins[holder.last_pin] = slot
        count = holder.slots.get(slot, 0)
        holder.slots[slot] = count + 1
        if not count:
            holder.nbytes += slot.nbytes
        return holder.last_pin

    def unpin(self, session: bytes, pins: Iterable[int]) -> None:
        """A client has no views of these any more; pins that are not known are ignored."""
        holder = self._holders.get(session)
        if holder is not None:
            self._let_go(holder, pins)

    def still_held(self, session: bytes, pins: Iterable[int]) -> None:
        """A client has come again, and has only these views."""
        holder = self._holders.get(session)
        if holder is not None:
            self._let_go(holder, holder.pins.keys() - set(pins))

    def _let_go(self, holder: Holder, pins: Iterable[int]) -> None:
        released = False
        for pin in tuple(pins):
            slot = holder.pins.pop(pin, None)
            if slot is None:
                continue
            released = True
            count = holder.slots[slot] - 1
            if count:
                holder.slots[slot] = count
            else:
                del holder.slots[slot]
                holder.nbytes -= slot.nbytes
            self._cache.unpin_for_reader(slot)
        if released:
            self._room()

    # ------------------------------------------------------------------ writers

    def want(self, session: bytes, frame: WantMemory, answer: Answer) -> None:
        """A writer asks for memory; answered when there is some, with nothing if never."""
        holder = self._holders.get(session)
        if holder is None or not self._may_have(holder, frame.nbytes):
            answer(Grant(frame.channel, 0, 0, 0, 0))
            return
        holder.channels.add(frame.channel)
        holder.wants.append((frame, answer))
        self._serve(holder)

    def _may_have(self, holder: Holder, nbytes: int) -> bool:
        if not holder.writes or not 0 < nbytes <= self._cache.payload_nbytes_max // 2:
            return False
        if len(holder.grants) + len(holder.wants) >= limits.SHARED_GRANTS_MAX:
            return False
        if holder.loan is None:
            holder.loan = self._cache.lend(holder.beamtime)
        return holder.loan is not None

    def _serve(self, holder: Holder) -> None:
        while holder.wants and holder.loan is not None:
            frame, answer = holder.wants[0]
            slot = self._cache.allocate_lent(holder.loan, frame.nbytes)
            if slot is None:
                if not self._waiting:
                    self._waiting = True
                    self._wait(self._retry)
                return
            holder.wants.popleft()
            holder.grants[slot.generation] = (frame.channel, slot)
            answer(Grant(frame.channel, slot.memory, slot.offset, frame.nbytes, slot.generation))

    def take(self, session: bytes, channel: int, place: Place, nbytes: int) -> Slot:
        """The slot of a grant that was filled with `nbytes`; pinned, the caller's from now on.

        Raises
        ------
        BadInput : this writer was granted nothing of the kind, or has used it already.
        """
        holder = self._holders.get(session)
        found = holder.grants.get(place.generation) if holder is not None else None
        if holder is None or found is None or found[0] != channel:
            raise BadInput(
                "this memory is not granted to this writer",
                hint="each grant is used once; payloads can be sent as the body",
            )
        slot = found[1]
        if (place.arena, place.offset) != (slot.memory, slot.offset):
            raise BadInput("the place of a payload is not where memory was granted")
        if not 0 < nbytes <= slot.nbytes:
            raise BadInput(f"a payload of {nbytes} bytes in granted memory of {slot.nbytes}")
        del holder.grants[place.generation]
        self._cache.shrink(slot, nbytes)
        return slot

    def give_back(self, session: bytes, channel: int, generations: Iterable[int]) -> None:
        """Grants that a writer will not use."""
        holder = self._holders.get(session)
        if holder is None:
            return
        # The latest first: then the memory is free at once, and not when its turn comes again.
        for generation in sorted(generations, reverse=True):
            if holder.grants.get(generation, (0,))[0] == channel:
                self._cache.discard(holder.grants.pop(generation)[1])
        self._room()

    def close_writer(self, session: bytes, channel: int) -> None:
        """A writer has ended; with the last one the session's loan does, a little later."""
        holder = self._holders.get(session)
        if holder is None or channel not in holder.channels:
            return
        holder.channels.discard(channel)
        holder.wants = deque(want for want in holder.wants if want[0].channel != channel)
        unused = [number for number, grant in holder.grants.items() if grant[0] == channel]
        self.give_back(session, channel, unused)
        if not holder.channels:
            self._later(limits.NATIVE_RESUME_SECONDS, lambda: self._end_loan(holder))

    def _drop_grants(self, holder: Holder) -> None:
        holder.wants.clear()
        grants, holder.grants = holder.grants, {}
        for generation in sorted(grants, reverse=True):
            self._cache.discard(grants[generation][1])
        if grants:
            self._room()

    def _end_loan(self, holder: Holder, *, at_once: bool = False) -> None:
        loan = holder.loan
        if loan is None or (holder.channels and not at_once):
            return
        self._drop_grants(holder)
        holder.loan = None
        self._cache.take_back(loan)
        self._room()

    # ------------------------------------------------------------------ life lines

    def attach(self, session: bytes, line: Line) -> Holder | None:
        """A life line; None if there is no such session."""
        holder = self._holders.get(session)
        if holder is not None:
            holder.lines.add(line)
        return holder

    def detach(self, holder: Holder, line: Line) -> None:
        """A life line has ended. With the last one nobody looks at anything any more."""
        holder.lines.discard(line)
        if holder.lines:
            return
        self._let_go(holder, holder.pins)
        self._end_loan(holder, at_once=True)
        holder.channels.clear()
        holder.mapped.clear()
        self._forget_if_gone(holder)

    def may_map(self, holder: Holder, memory: int, *, writable: bool) -> bool:
        """Whether a session may have a descriptor of a memory, now."""
        if writable:
            allowed = holder.writes and holder.loan is not None
            allowed = allowed and self._cache.lent(holder.loan, memory)  # type: ignore[arg-type]
        else:
            allowed = "read" in holder.access and self._cache.export(memory, holder.beamtime)
        if allowed:
            holder.mapped.add(memory)
        return allowed

    def retired(self, memory: int) -> None:
        """Nobody needs a memory any more."""
        for holder in self._holders.values():
            if memory in holder.mapped:
                holder.mapped.discard(memory)
                for line in holder.lines:
                    line.retired(memory)

    def _forget_if_gone(self, holder: Holder) -> None:
        if not holder.connections and not holder.lines:
            self._end_loan(holder, at_once=True)
            self._holders.pop(holder.session, None)

    def _retry(self) -> None:
        """There may be room for those who wait for grants."""
        self._waiting = False
        for holder in tuple(self._holders.values()):
            self._serve(holder)


def this_machine() -> str:
    """`machine_id` of the machine that this runs on; empty if the system does not say."""
    try:
        return machine_id(Path(BOOT_ID).read_bytes())
    except OSError:
        return ""


def _places(
    spots: Sequence[Spot], pins: Sequence[int], sizes: Sequence[int]
) -> tuple[Place, ...] | None:
    places: list[Place] = []
    left = iter(sizes)
    for spot, pin in zip(spots, pins, strict=True):
        at, end = spot.offset, spot.offset + spot.nbytes
        while at < end:
            slot = spot.slot
            places.append(Place(slot.memory, slot.offset + at, slot.generation, pin))
            at += next(left)
    return tuple(places)

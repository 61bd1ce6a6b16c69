"""What the clients of a test did, and the content they send.

Payloads and metadata are made from (seed, stream, id), so nothing has to be stored to compare. A
call is written down when it begins, and again when and how it ends. One that ended without an
answer is *unknown*: it may have had its effect or not, but not half.
"""

from __future__ import annotations

import enum
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from beamstream.model import Level

# --------------------------------------------------------------------------- content


def payload(seed: int, id: int, nbytes: int) -> bytes:
    """The payload of message `id`: random bytes, the same for the same arguments for ever.

    >>> payload(1, 7, 4) == payload(1, 7, 4), payload(1, 7, 4) == payload(1, 8, 4)
    (True, False)
    """
    words = np.random.SFC64([seed, id]).random_raw((nbytes + 7) // 8)
    return bytes(words.astype("<u8").tobytes()[:nbytes])


def payload_nbytes(seed: int, id: int, lo: int, hi: int) -> int:
    """A size for message `id`, from `lo` up to and including `hi`, small ones as likely as large.

    >>> 1000 <= payload_nbytes(1, 7, 1000, 1_000_000) <= 1_000_000
    True
    """
    word = int(np.random.SFC64([seed, id, 1]).random_raw(1)[0])
    share: float = (hi / lo) ** (word / 2**64)
    return min(hi, max(lo, round(lo * share)))


def metadata(seed: int, id: int) -> dict[str, Any]:
    """The metadata of message `id`: a JSON object with text, numbers, a list and an object.

    >>> metadata(1, 7)["key"]
    7
    """
    a, b = (int(word) for word in np.random.SFC64([seed, id, 2]).random_raw(2))
    return {
        "key": id,
        "note": f"frame {a % 1000} – µ",
        "angle_deg": (b % 36_000) / 100,
        "counts": [a % 17, b % 19],
        "motor": {"x": a % 1_000_003, "moving": bool(b & 1)},
    }


# --------------------------------------------------------------------------- history


class Outcome(enum.StrEnum):
    PENDING = "pending"
    OK = "ok"
    FAIL = "fail"
    """Refused: it certainly had no effect."""
    NOTHING = "nothing"
    """A `get` for which there was no message."""
    UNKNOWN = "unknown"


class Call(msgspec.Struct, eq=False):
    """One call of a client; times are seconds of the history's clock.

    Parameters
    ----------
    kind : ``put``, ``get`` or ``ack``.
    id : of the message; 0 for an automatic one, and for a `get` until it is known.
    key : what the payload is made from; the id, but for automatic ids.
    allowed : codes of errors that this call may fail with.
    digest, meta : what a `get` brought, if it brought the payload and the metadata.
    given_back : a `get` whose reader has asked that the message be offered again.
    """

    kind: str
    client: str
    stream: str
    id: int
    began_s: float
    key: int = 0
    group: str = ""
    nbytes: int = 0
    level: Level = Level.DISK
    name: str = ""
    allowed: frozenset[str] = frozenset()
    ended_s: float = float("inf")
    outcome: Outcome = Outcome.PENDING
    error: str = ""
    digest: bytes = b""
    meta: Any = None
    given_back: bool = False


class History:
    """All calls of all clients, and the faults; may be used from any thread.

    What happened in another process is written down with its time there (`at_s`): all processes of
    a machine have one monotonic clock.

    >>> history = History(seed=1)
    >>> put = history.put("detector", "scan1", 1, nbytes=100, level=Level.DISK)
    >>> len(history.payload_of(put))
    100
    >>> history.ok(put)
    """

    def __init__(self, seed: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.seed = seed
        self.calls: list[Call] = []
        self.faults: list[tuple[float, str]] = []
        self.client_faults: list[tuple[float, str, str]] = []
        self._clock = clock
        self._lock = threading.Lock()
        self._progress = threading.Condition(self._lock)
        self._answered = 0

    def put(
        self,
        client: str,
        stream: str,
        id: int,
        *,
        nbytes: int,
        level: Level,
        key: int = 0,
        name: str = "",
        allowed: Iterable[str] = (),
        at_s: float | None = None,
    ) -> Call:
        """A send begins; `name` is the path of its file, empty if there is to be none."""
        return self._begin(
            Call(
                "put",
                client,
                stream,
                id,
                self._time(at_s),
                key=key or id,
                nbytes=nbytes,
                level=level,
                name=name,
                allowed=frozenset(allowed),
            )
        )

    def get(
        self,
        client: str,
        group: str,
        stream: str,
        allowed: Iterable[str] = (),
        at_s: float | None = None,
    ) -> Call:
        """A `next` of a group begins; give `ok` the id when a message came."""
        call = Call("get", client, stream, 0, self._time(at_s), group=group)
        call.allowed = frozenset(allowed)
        return self._begin(call)

    def ack(
        self,
        client: str,
        group: str,
        stream: str,
        id: int,
        allowed: Iterable[str] = (),
        at_s: float | None = None,
    ) -> Call:
        """An acknowledgement begins."""
        call = Call("ack", client, stream, id, self._time(at_s), group=group)
        call.allowed = frozenset(allowed)
        return self._begin(call)

    def ok(
        self,
        call: Call,
        id: int = 0,
        *,
        digest: bytes = b"",
        meta: Any = None,
        error: str = "",
        at_s: float | None = None,
    ) -> None:
        """It was done; `error`: a message came, and its payload could not be had."""
        call.id, call.digest, call.meta, call.error = id or call.id, digest, meta, error
        self._end(call, Outcome.OK, at_s)

    def fail(self, call: Call, error: str, at_s: float | None = None) -> None:
        """It was refused with this error; if that is not among the allowed, it counts."""
        call.error = error
        self._end(call, Outcome.FAIL, at_s)

    def nothing(self, call: Call) -> None:
        """There was no message for this `get`."""
        self._end(call, Outcome.NOTHING)

    def unknown(self, call: Call, error: str = "", at_s: float | None = None) -> None:
        call.error = error
        self._end(call, Outcome.UNKNOWN, at_s)

    def fault(self, what: str) -> None:
        """The node was killed, or started again: leases and answers may be lost around now."""
        with self._lock:
            self.faults.append((self._clock(), what))

    def client_fault(self, client: str, what: str) -> None:
        """One client was killed, frozen or cut off: its leases and answers may be lost."""
        with self._progress:
            self.client_faults.append((self._clock(), client, what))
            self._progress.notify_all()

    @property
    def answered(self) -> int:
        """How many calls have ended with `ok`."""
        return self._answered

    def wait_for(self, answered: int, timeout_s: float) -> bool:
        """Wait until so many calls have ended with `ok`; False if that takes too long."""
        return self.wait_until(lambda: self._answered >= answered, timeout_s)

    def wait_until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `done`, looked at whenever a call was done or a client had a fault."""
        with self._progress:
            return self._progress.wait_for(done, timeout_s)

    def seed_of(self, stream: str) -> int:
        """Seed of a stream's content: equal ids of two streams have different payloads."""
        label = hashlib.blake2b(stream.encode(), digest_size=6, key=str(self.seed).encode())
        return int.from_bytes(label.digest())

    def payload_of(self, call: Call) -> bytes:
        return payload(self.seed_of(call.stream), call.key, call.nbytes)

    def metadata_of(self, call: Call) -> dict[str, Any]:
        return metadata(self.seed_of(call.stream), call.key)

    def of_kind(self, kind: str) -> Iterator[Call]:
        with self._lock:
            calls = list(self.calls)
        return (call for call in calls if call.kind == kind)

    def fault_between(self, began_s: float, ended_s: float, *clients: str) -> bool:
        """Whether there was a fault of the node, or of one of these clients."""
        return any(began_s <= at <= ended_s for at, _ in self.faults) or any(
            began_s <= at <= ended_s and client in clients for at, client, _ in self.client_faults
        )

    def dump(self, path: Path) -> None:
        """Write the history as lines of JSON, for reading after a failure."""
        with path.open("wb") as file:
            head = {
                "seed": self.seed,
                "faults": self.faults,
                "client_faults": self.client_faults,
            }
            file.write(json.dumps(head).encode() + b"\n")
            for call in self.calls:
                file.write(msgspec.json.encode(call) + b"\n")

    def _time(self, at_s: float | None) -> float:
        return self._clock() if at_s is None else at_s

    def _begin(self, call: Call) -> Call:
        with self._lock:
            self.calls.append(call)
        return call

    def _end(self, call: Call, outcome: Outcome, at_s: float | None = None) -> None:
        with self._progress:
            call.ended_s = self._time(at_s)
            call.outcome = outcome
            if outcome is Outcome.OK:
                self._answered += 1
                self._progress.notify_all()

"""PvaPy: a channel of NTNDArrays that the producer serves and the consumer monitors.

PVA does not wait for a consumer that is late: frames that overrun its queues are gone. So the
consumer says in a channel of its own how far it is, and the producer stays within the queues.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np

from benchmarks.peers.environment import peers_python, versions
from benchmarks.peers.interface import Buffer, Durability, Peer, Turn, meeting
from benchmarks.peers.ports import NotUp, announce, announced, free_port
from benchmarks.peers.traffic import HEAD, WrongMessages

_FRAMES: Final = "bench:frames"
_SEEN: Final = "bench:seen"
_QUEUED_NBYTES: Final = 64_000_000
_QUEUED_MAX: Final = 2_000
_QUEUED_MIN: Final = 8
_SECONDS_MAX: Final = 30.0


class PvaSender:
    """Serves the frames; a head is in the fields for time, number and user tag."""

    def __init__(self, pva: Any, payload: bytes) -> None:
        self._seen = _Position()
        self._sent, self._window = 0, _queued(len(payload))
        self._server = pva.PvaServer()
        self._server.addRecord(_FRAMES, pva.NtNdArray(), None)
        self._server.addRecord(_SEEN, pva.PvObject({"value": pva.LONG}), self._seen.write)
        self._frame = pva.NtNdArray()
        self._frame["value"] = {"ubyteValue": np.frombuffer(payload, np.uint8)}

    def send(self, turns: Iterable[Turn]) -> None:
        # The consumer's monitor starts with what the channel holds, which is frame 0.
        self._seen.wait_for(0)
        frame, update = self._frame, self._server.updateUnchecked
        for turn in turns:
            if isinstance(turn, float):
                time.sleep(turn)
                continue
            if self._sent - self._seen.value >= self._window:
                self._seen.wait_for(self._sent - self._window + 1)
            self._sent += 1
            time_ns, number, last = HEAD.unpack(turn)
            seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
            frame["uniqueId"] = self._sent
            frame["timeStamp.secondsPastEpoch"] = seconds
            frame["timeStamp.nanoseconds"] = nanoseconds
            frame["timeStamp.userTag"] = number if last else 0
            update(_FRAMES, frame)


class _Position:
    """How far the consumer is; written by a thread of PVA's."""

    def __init__(self) -> None:
        self.value = -1
        self._changed = threading.Condition()

    def write(self, found: Any) -> None:
        with self._changed:
            self.value = found["value"]
            self._changed.notify()

    def wait_for(self, value: int) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self.value >= value, _SECONDS_MAX):
                raise NotUp(f"the consumer is at frame {self.value} and does not go on")


class PvaReceiver:
    """Monitors the frames in a queue and says every quarter of it how far it is."""

    def __init__(self, pva: Any, size: int) -> None:
        self._every = max(1, _queued(size) // 4)
        self._queue = pva.PvObjectQueue(_queued(size) + 1)
        self._position = pva.Channel(_SEEN, pva.PVA)
        self._channel = pva.Channel(_FRAMES, pva.PVA)
        self._channel.qMonitor(
            self._queue, f"record[queueSize={_queued(size) + 1}]field(value,uniqueId,timeStamp)"
        )
        if self._queue.get(_SECONDS_MAX)["uniqueId"] != 0:
            raise WrongMessages("the monitor began in the middle")
        self._seen = 0
        self._position.put(0)

    def messages(self) -> Iterator[tuple[Buffer, Buffer]]:
        get, every = self._queue.get, self._every
        while True:
            frame = get(_SECONDS_MAX)
            self._seen += 1
            if frame["uniqueId"] != self._seen:
                raise WrongMessages(f"frame {frame['uniqueId']} came instead of {self._seen}")
            if self._seen % every == 0:
                self._position.put(self._seen)
            stamp = frame["timeStamp"]
            time_ns = stamp["secondsPastEpoch"] * 1_000_000_000 + stamp["nanoseconds"]
            number = stamp["userTag"]
            array = frame["value"][0]["ubyteValue"]
            yield HEAD.pack(time_ns, number, number > 0), array.data

    def settle(self) -> None:
        self._position.put(self._seen)


def sender(address: dict[str, Any], payload: bytes) -> PvaSender:
    pva = _library(port := free_port())
    made = PvaSender(pva, payload)
    announce(address["folder"], port)
    return made


def receiver(address: dict[str, Any], size: int) -> PvaReceiver:
    return PvaReceiver(_library(announced(address["folder"])), size)


def _library(port: int) -> Any:
    """Import it, with its network kept to this case: a port of its own on loopback."""
    os.environ |= {
        "EPICS_PVA_SERVER_PORT": str(port),
        "EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1",
        "EPICS_PVA_AUTO_ADDR_LIST": "NO",
        "EPICS_PVA_ADDR_LIST": "127.0.0.1",
        "EPICS_PVA_NAME_SERVERS": f"127.0.0.1:{port}",
        "EPICS_PVA_BROADCAST_PORT": str(free_port()),
    }
    return importlib.import_module("pvaccess")


def _queued(size: int) -> int:
    return max(_QUEUED_MIN, min(_QUEUED_MAX, _QUEUED_NBYTES // size))


PEERS = (
    Peer(
        "pva",
        "PvaPy",
        Durability.NOTHING,
        "pvapy",
        meeting,
        python=lambda: peers_python("pvapy"),
        versions=lambda: versions("pvapy"),
    ),
)

"""A client of the native lane in a process of its own, to be killed, frozen and cut off.

It uses what programs use, ``import beamstream as bs``, and tells on stdout what it does: before a
send or an acknowledgement leaves, and when the answer has come. Writers read from stdin how many
messages to send next, an empty line for the end.
"""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np

import beamstream as bs
from beamstream.store.files import digest_of
from beamstream.testing.history import metadata, payload, payload_nbytes

from . import told

ARRAY_EVERY: Final = 3
"""Every third key is sent as an array."""

_CONNECT_TRIES: Final = 200
_SYNC_MAX: Final = 20


class Pipe:
    """To the test; from any thread, one whole line at a time."""

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()
        self._fd = os.dup(1)
        self._lock = threading.Lock()
        # What libraries print is no word of ours.
        os.dup2(2, 1)

    def say(self, word: told.Word) -> None:
        line = memoryview(self._encoder.encode(word) + b"\n")
        with self._lock:
            while line:
                line = line[os.write(self._fd, line) :]


def connect(setting: told.Setting) -> bs.Hub:
    """Only the first connection may fail; who asks for it is told so, and asks again."""
    for _ in range(_CONNECT_TRIES):
        try:
            return bs.connect(
                setting.url,
                beamtime=told.BEAMTIME,
                token=setting.token,
                instance=setting.name,
                step=type(setting.role).__name__,
            )
        except (bs.errors.ConnectionLost, bs.errors.TimedOut) as error:
            last = error
    raise last


# --------------------------------------------------------------------------- writing


class Writing:
    """Sends bursts of messages."""

    def __init__(self, pipe: Pipe, role: told.Writer, writer: bs.Writer) -> None:
        self.pipe = pipe
        self.role = role
        self.writer = writer
        self._key = role.first
        self._number = 0
        self._random = random.Random(f"{role.seed} {role.first}")
        self._open = 0
        self._answered = threading.Condition()

    def run(self, bursts: Iterable[str]) -> None:
        if self.role.again:
            self.send(list(self.role.again), "send")
        for line in bursts:
            if not line.strip():
                break
            count = int(line)
            last = self._key + count * self.role.step
            keys = list(range(self._key, last, self.role.step))
            self._key = last
            self.send(keys, self._random.choice(self.role.how))
        self.writer.close()
        with self._answered:
            assert self._answered.wait_for(lambda: not self._open, 60), "no callback of a receipt"

    def send(self, keys: list[int], how: str) -> None:
        if how == "many":
            self._announce(keys, how)
            metas = [metadata(self.role.seed, key) for key in keys]
            ids = None if self.role.auto else keys
            receipt = self.writer.send_many([self._value(key) for key in keys], metas, ids)
            self._expect(receipt, range(self._number - len(keys), self._number))
            return
        for key in keys:
            self._announce([key], how)
            self._expect(self._send_one(key, how), range(self._number - 1, self._number))

    def _send_one(self, key: int, how: str) -> bs.Receipt:
        meta = metadata(self.role.seed, key)
        id = None if self.role.auto else key
        if how == "named":
            return self.writer.send(self._value(key), meta, id=id, name=self._path(key))
        if how == "frame" and key % ARRAY_EVERY == 0:
            frame = self.writer.frame((1, self._nbytes(key)), "u1", meta, id=id)
            with frame as pixels:
                pixels[:] = self._value(key)
            assert frame.receipt is not None
            return frame.receipt
        return self.writer.send(self._value(key), meta, id=id)

    def _value(self, key: int) -> Any:
        """The same for a key, however it is sent: what is sent again must be what was sent."""
        data = self._bytes(key)
        return data if key % ARRAY_EVERY else np.frombuffer(data, "u1").reshape(1, -1)

    def _bytes(self, key: int) -> bytes:
        return payload(self.role.seed, key, self._nbytes(key))

    def _nbytes(self, key: int) -> int:
        return payload_nbytes(self.role.seed, key, *self.role.sizes)

    def _path(self, key: int) -> str:
        return f"processed/{self.role.stream}/{key}"

    def _announce(self, keys: list[int], how: str) -> None:
        messages = []
        for key in keys:
            path = self._path(key) if how == "named" else ""
            id = 0 if self.role.auto else key
            messages.append((self._number, key, id, self._nbytes(key), path))
            self._number += 1
        with self._answered:
            self._open += 1
        self.pipe.say(told.Send(time.monotonic(), messages))

    def _expect(self, receipt: bs.Receipt, numbers: range) -> None:
        receipt.add_done_callback(partial(self._done, list(numbers)))

    def _done(self, numbers: list[int], receipt: bs.Receipt) -> None:
        now = time.monotonic()
        error = receipt.exception(0.0)
        if error is not None:
            self.pipe.say(told.Sent(now, numbers, error=f"{type(error).__name__}: {error}"))
        else:
            self.pipe.say(told.Sent(now, numbers, list(receipt.ids), int(receipt.level)))
        with self._answered:
            self._open -= 1
            self._answered.notify_all()


# --------------------------------------------------------------------------- reading


class Reading:
    """Reads one stream to its end."""

    def __init__(
        self,
        pipe: Pipe,
        role: told.Reader,
        stream: bs.Stream,
        number: Callable[[], int],
    ) -> None:
        self.pipe = pipe
        self.role = role
        self.stream = stream
        self._next_number = number
        self._random = random.Random(f"{role.seed} {role.group} {stream.name}")
        self._acking: list[int] = []
        self._limit = 1

    def run(self) -> None:
        role = self.role
        group = self.stream.group(
            role.group,
            lease=role.lease_s,
            ack="manual" if role.how == "manual" else "auto",
        )
        if role.how == "batches":
            self._batches(group)
            end = group.end
        else:
            with group.subscribe() as member:
                self._messages(member)
                self._sync(member)
                end = member.end
        assert end is not None
        self.pipe.say(told.Ended(self.stream.name, end.reason))

    def _batches(self, group: bs.Group) -> None:
        began = time.monotonic()
        for batch in group.batches():
            for message in batch:
                assert isinstance(message, bs.Message)
                self._got(message, began)
            began = time.monotonic()

    def _messages(self, member: Any) -> None:
        began = time.monotonic()
        in_hand = -1
        for message in member:
            number = self._got(message, began)
            if self.role.how == "manual":
                self._judge(message, number)
            else:
                if in_hand >= 0:
                    self._acking.append(in_hand)
                in_hand = number
                self.pipe.say(told.Acking(number, time.monotonic()))
            if len(self._acking) >= self._limit:
                self._sync(member)
            began = time.monotonic()
        if in_hand >= 0:
            self._acking.append(in_hand)

    def _judge(self, message: bs.Message, number: int) -> None:
        fate = self._random.random()
        back = fate < 0.06
        self.pipe.say(told.Acking(number, time.monotonic(), back))
        if fate < 0.03:
            message.nack(0.05)
        elif back:
            message.defer()
        else:
            message.ack()
            self._acking.append(number)

    def _got(self, message: bs.Message, began_s: float) -> int:
        number, now = self._next_number(), time.monotonic()
        digest, error, meta = b"", "", message.meta
        try:
            if meta["key"] % ARRAY_EVERY == 0 and message._columns.info(message._item):
                digest = digest_of(message.array().tobytes())
            else:
                digest = digest_of(message.data)
        except bs.errors.StorageError as failed:
            error = type(failed).__name__
        self.pipe.say(
            told.Got(number, self.stream.name, message.id, began_s, now, meta, digest, error)
        )
        return number

    def _sync(self, member: Any) -> None:
        """Wait until the acknowledgements are safe; which of them came too late is not said."""
        stale = False
        while True:
            try:
                member.sync()
                break
            except bs.errors.StaleLease:
                stale = True
        self.pipe.say(told.Acked(self._acking, time.monotonic(), stale))
        self._acking = []
        self._limit = self._random.randint(1, _SYNC_MAX)


# --------------------------------------------------------------------------- the process


def write(pipe: Pipe, role: told.Writer, hub: bs.Hub, lines: Iterator[str]) -> None:
    stream = hub.source(told.SOURCE).stream(role.stream)
    writer = stream.writer(level=role.level, finish=False)
    Writing(pipe, role, writer).run(lines)


def read(pipe: Pipe, role: told.Reader, hub: bs.Hub) -> None:
    lock = threading.Lock()
    numbers = iter(range(2**62))

    def number() -> int:
        with lock:
            return next(numbers)

    def run(name: str) -> None:
        try:
            stream = hub.source(told.SOURCE).stream(name)
            Reading(pipe, role, stream, number).run()
        except BaseException:  # noqa: BLE001 - the test is told, and fails
            pipe.say(told.Broke(traceback.format_exc()))

    threads = [threading.Thread(target=run, args=(name,)) for name in role.streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main(text: str) -> None:
    setting = msgspec.json.decode(text, type=told.Setting)
    # Whoever waits for this process in vain asks it where it is.
    faulthandler.register(signal.SIGUSR1)
    pipe = Pipe()
    try:
        with connect(setting) as hub:
            pipe.say(told.Ready())
            if isinstance(setting.role, told.Writer):
                write(pipe, setting.role, hub, iter(sys.stdin))
            else:
                read(pipe, setting.role, hub)
    except BaseException:  # noqa: BLE001 - the test is told, and fails
        pipe.say(told.Broke(traceback.format_exc()))


if __name__ == "__main__":
    main(sys.argv[1])

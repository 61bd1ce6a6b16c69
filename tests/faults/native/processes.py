"""Clients in processes of their own, as the test sees them: all they say goes into the history."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from beamstream.model import Level
from beamstream.testing.checker import Call, History, Outcome

from . import told

BACKLOG_MAX: Final = 300
"""Messages of a stream that have been sent and not yet reached each group."""

BURST_MAX: Final = 60
_END_S: Final = 90.0
_STATE_NBYTES: Final = 8_000


class Board:
    """How far everybody is: writers are told to go on when all groups have got what was sent."""

    def __init__(self, groups: Mapping[str, tuple[str, ...]]) -> None:
        self._groups = groups
        self._lock = threading.Lock()
        self._sent: Counter[str] = Counter()
        self._got: Counter[tuple[str, str]] = Counter()
        self._writers: list[WriterProcess] = []
        self._stopped = False

    def add(self, writer: WriterProcess) -> None:
        with self._lock:
            self._writers.append(writer)
        self._look()

    def remove(self, writer: WriterProcess) -> None:
        with self._lock:
            self._writers.remove(writer)

    def got(self, group: str, stream: str) -> None:
        with self._lock:
            self._got[group, stream] += 1
        if self._got[group, stream] % 10 == 0:
            self._look()

    def forget(self, stream: str, count: int) -> None:
        """So many were announced and never came: their writer was killed."""
        with self._lock:
            self._sent[stream] -= count

    def answered(self) -> None:
        self._look()

    def stop(self) -> None:
        """No more bursts."""
        with self._lock:
            self._stopped = True

    def _look(self) -> None:
        with self._lock:
            if self._stopped:
                return
            for writer in self._writers:
                stream = writer.role.stream
                groups = [group for group, streams in self._groups.items() if stream in streams]
                far = min(self._got[group, stream] for group in groups)
                room = BACKLOG_MAX - (self._sent[stream] - far)
                if room > 0 and writer.idle:
                    burst = 1 + (self._sent[stream] * 7919 + writer.next_key) % BURST_MAX
                    count = min(room, burst, writer.burst_max)
                    self._sent[stream] += count
                    writer.go(count)


class ClientProcess:
    """One client, over all its lives.

    Parameters
    ----------
    log : where it writes what nobody expects.
    """

    def __init__(
        self, setting: told.Setting, history: History, log: Path, env: Mapping[str, str]
    ) -> None:
        self.setting = setting
        self.history = history
        self.log = log
        self.ready = threading.Event()
        self.ended = threading.Event()
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self.broke = ""

    @property
    def name(self) -> str:
        return self.setting.name

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        top = Path(__file__).parents[len(__name__.split(".")) - 1]
        path = os.pathsep.join(filter(None, [str(top), os.environ.get("PYTHONPATH", "")]))
        module = told.__name__.removesuffix("told") + "actor"
        self.ready.clear()
        self.ended.clear()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", module, msgspec.json.encode(self.setting).decode()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **self._env, "PYTHONPATH": path},
            )
        self._thread = threading.Thread(
            target=self._listen, args=(self._process,), name=self.name, daemon=True
        )
        self._thread.start()

    def kill(self) -> None:
        """SIGKILL; what was under way is unknown from now on."""
        self.signal(signal.SIGKILL)
        self._reap()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self) -> None:
        """Return when it is connected: only a first connection may fail."""
        assert self.ready.wait(_END_S), f"{self.name} does not connect; {self.state()}"
        self.check()

    def join(self, seconds: float = _END_S) -> None:
        """Wait until it has ended by itself."""
        ended = self.ended.wait(seconds)
        self.check()
        assert ended, f"{self.name} does not end; {self.state()}"
        assert self._process is not None
        self._reap()
        assert self._process.returncode == 0, f"{self.name}: {self._process.returncode}"

    def close(self) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._reap()

    def check(self) -> None:
        """Raise if an exception has reached the program."""
        assert not self.broke, f"{self.name}: {self.broke}"

    def state(self) -> str:
        """For people: where it waits."""
        if not self.ended.is_set():
            size = self.log.stat().st_size
            self.signal(signal.SIGUSR1)
            self.ended.wait(1.0)
            return self.log.read_text(errors="replace")[size:][-_STATE_NBYTES:]
        return self.log.read_text(errors="replace")[-_STATE_NBYTES:]

    def _reap(self) -> None:
        process, thread = self._process, self._thread
        assert process is not None
        assert thread is not None
        process.wait(30)
        thread.join(30)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass

    # ------------------------------------------------------------------ what it says

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        decoder = msgspec.json.Decoder(told.Word)
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.endswith(b"\n"):
                    self._hear(decoder.decode(line))
        except Exception as error:  # noqa: BLE001 - it is raised again by `check`
            self._broken(repr(error))
        finally:
            self.gone()
            self.ended.set()
            self.ready.set()

    def _hear(self, word: told.Word) -> None:
        if isinstance(word, told.Broke):
            self._broken(word.text)
        elif isinstance(word, told.Ready):
            self.ready.set()
        else:
            self.hear(word)

    def _broken(self, text: str) -> None:
        self.broke = self.broke or text
        self.history.client_fault(self.name, "broke")

    def hear(self, word: told.Word) -> None:
        raise NotImplementedError

    def gone(self) -> None:
        """The process is no more."""
        raise NotImplementedError


class WriterProcess(ClientProcess):
    """A writer; continues behind the last key when it is started again."""

    def __init__(
        self,
        setting: told.Setting,
        history: History,
        log: Path,
        env: Mapping[str, str],
        board: Board,
    ) -> None:
        super().__init__(setting, history, log, env)
        assert isinstance(setting.role, told.Writer)
        self.role = setting.role
        self.next_key = self.role.first
        large = self.role.sizes[1] > 400_000
        self.burst_max = 6 if large else BURST_MAX
        self._board = board
        self._calls: dict[int, Call] = {}
        self._announced = 0
        self._asked = 0

    def start(self) -> None:
        again = self.role.again
        self._announced, self._asked = 0, len(again)
        super().start()
        self._board.add(self)

    def start_again(self) -> None:
        """After a kill: with given ids, what was not answered is sent once more."""
        role = self.role
        left = [
            call
            for call in self.history.of_kind("put")
            if call.client == self.name and call.outcome is Outcome.UNKNOWN
        ]
        # A file's name is part of what was sent.
        again = () if role.auto else tuple(call.key for call in left if not call.name)
        self.role = msgspec.structs.replace(role, first=self.next_key, again=again)
        self.setting = msgspec.structs.replace(self.setting, role=self.role)
        self.start()

    def kill(self) -> None:
        self._board.remove(self)
        super().kill()
        self._board.forget(self.role.stream, max(self._asked - self._announced, 0))

    @property
    def idle(self) -> bool:
        """It has announced all that it was told to send, and few of them are unanswered."""
        return self._announced >= self._asked and len(self._calls) < 2 * self.burst_max

    def go(self, count: int) -> None:
        """Send so many more."""
        self._asked += count
        self.next_key += count * self.role.step
        self._write(f"{count}\n".encode())

    def stop(self) -> None:
        """Wait for all receipts, then end."""
        self._write(b"\n")

    def _write(self, line: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            pass

    def hear(self, word: told.Word) -> None:
        match word:
            case told.Send():
                self._send(word)
            case told.Sent():
                for index, number in enumerate(word.numbers):
                    call = self._calls.pop(number)
                    if word.error:
                        self.history.fail(call, word.error, word.at_s)
                    elif word.level < call.level:
                        text = f"asked for level {call.level}, stored at {word.level}"
                        self.history.fail(call, text, word.at_s)
                    else:
                        self.history.ok(call, word.ids[index], at_s=word.at_s)
                self._board.answered()
            case _:
                raise AssertionError(word)

    def _send(self, word: told.Send) -> None:
        level = Level[self.role.level.upper()]
        for number, key, id, nbytes, name in word.messages:
            self._calls[number] = self.history.put(
                self.name,
                self.role.stream,
                id,
                nbytes=nbytes,
                level=level,
                key=key,
                name=name,
                at_s=word.at_s,
            )
        self._announced += len(word.messages)

    def gone(self) -> None:
        for call in self._calls.values():
            self.history.unknown(call, "the writer has ended")
        self._calls.clear()


class ReaderProcess(ClientProcess):
    """A reader of several streams."""

    def __init__(
        self,
        setting: told.Setting,
        history: History,
        log: Path,
        env: Mapping[str, str],
        board: Board,
    ) -> None:
        super().__init__(setting, history, log, env)
        assert isinstance(setting.role, told.Reader)
        self.role = setting.role
        self.ends: dict[str, str] = {}
        self._board = board
        self._gets: dict[int, Call] = {}
        self._acks: dict[int, Call] = {}

    def hear(self, word: told.Word) -> None:
        match word:
            case told.Got():
                self._got(word)
            case told.Acking(number, at_s, back):
                get = self._gets[number]
                if back:
                    get.given_back = True
                else:
                    self._acks[number] = self.history.ack(
                        self.name, self.role.group, get.stream, get.id, at_s=at_s
                    )
            case told.Acked(numbers, at_s, stale):
                for number in numbers:
                    ack = self._acks.pop(number)
                    if stale:
                        self.history.unknown(ack, "StaleLease", at_s)
                    else:
                        self.history.ok(ack, at_s=at_s)
            case told.Ended(stream, reason):
                self.ends[stream] = reason
            case _:
                raise AssertionError(word)

    def _got(self, word: told.Got) -> None:
        call = self.history.get(self.name, self.role.group, word.stream, at_s=word.began_s)
        self._gets[word.number] = call
        self.history.ok(
            call, word.id, digest=word.digest, meta=word.meta, error=word.error, at_s=word.at_s
        )
        self._board.got(self.role.group, word.stream)

    def gone(self) -> None:
        for call in self._acks.values():
            self.history.unknown(call, "the reader has ended")
        self._acks.clear()
        self._gets.clear()

    def state(self) -> str:
        waits = [stream for stream in self.role.streams if stream not in self.ends]
        return f"it still reads {waits}\n{super().state()}"

"""Rounds of faults: clients at work, and what is killed, frozen and cut off, drawn from a seed."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import beamstream as bs
from beamstream.testing.checker import History, Verdict, verify
from beamstream.testing.node import NodeProcess

from . import told
from .processes import Board, ClientProcess, ReaderProcess, WriterProcess
from .proxy import Proxy
from .readback import read_back

AUTO, MANY, SHARED, CACHED, LARGE = "automatic", "many", "two writers", "cached", "large"
STREAMS: Final = (AUTO, MANY, SHARED, CACHED, LARGE)
WITH_GIVEN_IDS: Final = (SHARED, LARGE)
MANUAL, LOOP, BATCHES = "manual", "loop", "batches"
GROUPS: Final = {MANUAL: STREAMS, LOOP: (AUTO, SHARED, CACHED), BATCHES: (MANY, LARGE, CACHED)}

LEASE_S: Final = 2.0
AHEAD_S: Final = 4 * LEASE_S
"""A lease, taken anew by who is frozen behind a lease."""

_STALL_S: Final = 90.0
_ANSWERS_BETWEEN: Final = ((50, 600), (50, 600), (200, 1_000), (2_000, 4_000))
"""In turn; after the last there was time for everything to be in order again."""


class Crew:
    """All clients of a run, and what stands between them and the node."""

    def __init__(self, node: NodeProcess, history: History, folder: Path, *, shared: bool) -> None:
        self.node = node
        self.shared = shared
        self.history = history
        self.board = Board(GROUPS)
        self.proxies: dict[str, Proxy] = {}
        self.writers: list[WriterProcess] = []
        self.readers: list[ReaderProcess] = []
        self._folder = folder
        self._token = node.token(told.BEAMTIME, "read,write")
        self._unix = f"unix:{node.connect['unix']}" if node.connect["unix"] else node.endpoint
        self._hire_writers()
        self._hire_readers()

    @property
    def all(self) -> list[ClientProcess]:
        return [*self.writers, *self.readers]

    def _hire_writers(self) -> None:
        every = ("send", "many", "frame")
        self._writer("w auto", "proxy", AUTO, "disk", (100, 20_000), how=("send", "send", "many"))
        self._writer("w many", "tcp", MANY, "os", (1, 3_000), how=("many", "send"))
        self._writer(
            "w odd",
            "proxy",
            SHARED,
            "disk",
            (1_000, 300_000),
            how=every,
            first=1,
            step=2,
            auto=False,
        )
        self._writer(
            "w even", "unix", SHARED, "os", (100, 100_000), how=every, first=2, step=2, auto=False
        )
        self._writer("w cached", "unix", CACHED, "cache", (1_000, 300_000), how=every)
        large = ("send", "frame", "named")
        self._writer("w large", "proxy", LARGE, "os", (50_000, 1_500_000), how=large, auto=False)

    def _hire_readers(self) -> None:
        self._reader("r proxy", "proxy", MANUAL, "manual")
        self._reader("r unix", "unix", MANUAL, "manual")
        self._reader("r loop", "proxy", LOOP, "auto")
        self._reader("r loop 2", "tcp", LOOP, "auto")
        self._reader("r batches", "proxy", BATCHES, "batches")

    def _writer(
        self,
        name: str,
        by: str,
        stream: str,
        level: str,
        sizes: tuple[int, int],
        *,
        how: tuple[str, ...],
        first: int = 1,
        step: int = 1,
        auto: bool = True,
    ) -> None:
        seed = self.history.seed_of(stream)
        role = told.Writer(stream, seed, level, sizes, auto, how, first, step)
        setting, env = self._setting(name, by, role)
        self.writers.append(WriterProcess(setting, self.history, self._log(name), env, self.board))

    def _reader(self, name: str, by: str, group: str, how: str) -> None:
        role = told.Reader(group, GROUPS[group], LEASE_S, self.history.seed, how)
        setting, env = self._setting(name, by, role)
        self.readers.append(ReaderProcess(setting, self.history, self._log(name), env, self.board))

    def _setting(
        self, name: str, by: str, role: told.Writer | told.Reader
    ) -> tuple[told.Setting, dict[str, str]]:
        url = self._unix if by == "unix" else self.node.endpoint
        if by == "proxy":
            host, _, port = str(self.node.connect["native"]).rpartition(":")
            proxy = self.proxies[name] = Proxy(
                (host, int(port)),
                f"{self.history.seed} {name}",
                lambda: self.history.client_fault(name, "cut"),
            )
            url = proxy.url
        shared = self.shared and by != "proxy"
        env = {"BEAMSTREAM_SHM": "1" if shared else "0", "BEAMSTREAM_CONNECT_FILE": ""}
        return told.Setting(name, url, self._token, role), env

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        for client in self.all:
            client.start()

    def check(self) -> None:
        for client in self.all:
            client.check()
        for reader in self.readers:
            assert not reader.ended.is_set(), f"{reader.name} has ended too early"

    def finish(self) -> None:
        """Writers end, their streams are finished, readers come to the end of each."""
        for proxy in self.proxies.values():
            proxy.rough = False
            proxy.flow()
        self.board.stop()
        for writer in self.writers:
            writer.stop()
        for writer in self.writers:
            writer.join()
        with bs.connect(self.node.endpoint, beamtime=told.BEAMTIME, token=self._token) as hub:
            for stream in STREAMS:
                hub.source(told.SOURCE).stream(stream).finish()
            try:
                for reader in self.readers:
                    reader.join()
            except AssertionError as error:
                for row in hub.groups():
                    error.add_note(str(row))
                raise
        for reader in self.readers:
            assert reader.ends == dict.fromkeys(reader.role.streams, "finished"), reader.ends

    def close(self) -> None:
        for client in self.all:
            client.close()
        for proxy in self.proxies.values():
            proxy.close()


# --------------------------------------------------------------------------- faults


ALL_KINDS: Final = (
    "kill_node",
    "kill_node",
    "kill_writer",
    "kill_reader",
    "freeze_reader_past_its_lease",
    "freeze_any",
    "cut_often",
    "cut_all",
    "stall",
)


class Faults:
    """What breaks next."""

    def __init__(self, crew: Crew, seed: int, kinds: Sequence[str] = ALL_KINDS) -> None:
        self.crew = crew
        self.kinds = kinds
        self.history = crew.history
        self.draw = random.Random(seed)
        self.done = 0
        self._bag: list[str] = []

    def next(self) -> None:
        """One more, and wait until there is progress again."""
        if not self._bag:
            self._bag = list(self.kinds)
            self.draw.shuffle(self._bag)
        kind = self._bag.pop()
        getattr(self, kind)()
        self.crew.check()
        lo, hi = _ANSWERS_BETWEEN[self.done % len(_ANSWERS_BETWEEN)]
        self.done += 1
        self.progress(self.draw.randint(lo, hi), kind)

    def progress(self, answers: int, what: str) -> None:
        enough = self.history.answered + answers
        alive = self.history.wait_until(
            lambda: self.history.answered >= enough or any(x.broke for x in self.crew.all), _STALL_S
        )
        self.crew.check()
        states = "" if alive else "\n".join(f"{x.name}: {x.state()}" for x in self.crew.all)
        assert alive, f"not {answers} answers within {_STALL_S} s after {what}\n{states}"

    def kill_node(self) -> None:
        node = self.crew.node
        for client in self.crew.all:
            client.wait()
        assert node.running, f"the node has ended by itself:\n{node.log_tail()}"
        self.history.fault("kill")
        node.restart(kill=True)
        self.history.fault("up")

    def kill_writer(self) -> None:
        writer = self.draw.choice(self.crew.writers)
        self.history.client_fault(writer.name, "kill")
        writer.kill()
        writer.start_again()

    def kill_reader(self) -> None:
        reader = self.draw.choice(self.crew.readers)
        self.history.client_fault(reader.name, "kill")
        reader.kill()
        self.history.client_fault(reader.name, "up")
        reader.start()

    def freeze_any(self) -> None:
        """For a moment: its leases live on."""
        client = self.draw.choice(self.crew.all)
        self._freeze(client, lambda: False, self.draw.uniform(0.05, 0.5))

    def freeze_reader_past_its_lease(self) -> None:
        """Until others have got what it held; or for longer than that can take."""
        readers = [reader for reader in self.crew.readers if reader.role.group in (MANUAL, LOOP)]
        reader = self.draw.choice(readers)
        ends = time.monotonic() + LEASE_S * 1.2
        self._freeze(reader, lambda: time.monotonic() > ends, 2 * LEASE_S)

    def _freeze(self, client: ClientProcess, done: Callable[[], bool], seconds: float) -> None:
        self.history.client_fault(client.name, "freeze")
        client.signal(signal.SIGSTOP)
        try:
            self.history.wait_until(done, seconds)
        finally:
            client.signal(signal.SIGCONT)
            self.history.client_fault(client.name, "thaw")

    def cut_often(self) -> None:
        """Connections of some clients are cut at random bytes, again and again."""
        names = self.draw.sample(sorted(self.crew.proxies), 3)
        for name in names:
            self.crew.proxies[name].rough = True
            self.crew.proxies[name].cut()
        self.progress(self.draw.randint(300, 1_500), "cut_often")
        for name in names:
            self.crew.proxies[name].rough = False

    def cut_all(self) -> None:
        for proxy in self.crew.proxies.values():
            proxy.cut()

    def stall(self) -> None:
        """Nothing gets through to a client, and then all of it, or the connection is cut."""
        name = self.draw.choice(sorted(self.crew.proxies))
        proxy = self.crew.proxies[name]
        self.history.client_fault(name, "stall")
        proxy.stall()
        self.history.wait_for(self.history.answered + self.draw.randint(10, 400), LEASE_S)
        if self.draw.random() < 0.5:
            proxy.cut()
        self.history.client_fault(name, "flow")
        proxy.flow()


def run(
    node: NodeProcess,
    folder: Path,
    *,
    seconds: float,
    seed: int,
    faults: int = 1,
    shared: bool = False,
    kinds: Sequence[str] = ALL_KINDS,
) -> tuple[Verdict, History]:
    """Let clients work while things of these kinds break; then read back and judge.

    Goes on for at least `seconds` and `faults`. With `shared` those clients that are not behind a
    relay use the node's memory.
    """
    history = History(seed)
    node.start()
    crew = Crew(node, history, folder, shared=shared)
    breaking = Faults(crew, seed, kinds)
    try:
        crew.start()
        breaking.progress(200, "the start")
        ends = time.monotonic() + seconds
        while time.monotonic() < ends or breaking.done < faults:
            breaking.next()
        crew.finish()
    finally:
        crew.close()
    # The cache is gone: all payloads are read from the disk.
    history.fault("kill")
    node.restart(kill=True)
    history.fault("up")
    return judge(node, history), history


def judge(node: NodeProcess, history: History) -> Verdict:
    """What a fresh reader finds, compared with what was done."""
    snapshot = read_back(node, STREAMS)
    snapshot.auto = snapshot.once = set(STREAMS) - set(WITH_GIVEN_IDS)
    snapshot.drained = {(group, stream) for group, streams in GROUPS.items() for stream in streams}
    snapshot.left = _left(node)
    node.check_log()
    return verify(history, snapshot, lease_s=LEASE_S, ahead_s=AHEAD_S)


def _left(node: NodeProcess) -> set[tuple[str, str, int]]:
    """Groups that have not acknowledged all of a stream: with how many, in place of an id."""
    token = node.token(told.BEAMTIME, "read,write")
    left = set()
    with bs.connect(node.endpoint, beamtime=told.BEAMTIME, token=token) as hub:
        for group, streams in GROUPS.items():
            for name in streams:
                stream = hub.source(told.SOURCE).stream(name)
                row = stream.group(group).info()
                missing = len(stream) - (row.acked if row is not None else 0)
                if missing:
                    left.add((group, name, missing))
    return left

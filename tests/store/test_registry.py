from __future__ import annotations

import multiprocessing
import sqlite3
import string
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from beamstream.errors import BadName, Conflict, NotFound, StorageError, StoreTooNew
from beamstream.store.registry import Registry, Token, check_beamline


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.db"


@pytest.fixture
def registry(path: Path) -> Iterator[Registry]:
    registry = Registry(path)
    yield registry
    registry.close()


def token(token_id: str = "t1", subject: str = "bt_1") -> Token:
    return Token(token_id, subject, ("read", "write"), created_ns=5, expires_ns=10, note="for me")


def test_it_is_durable_and_private(registry: Registry, path: Path) -> None:
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()
    assert registry._db.pragma("synchronous") == 2
    assert path.stat().st_mode & 0o777 == 0o600


def test_node_and_boots_stay(registry: Registry, path: Path) -> None:
    assert 0 < registry.node_id < 2**31
    assert registry.new_boot(1, "0.1") == 1
    again = Registry(path)
    assert again.node_id == registry.node_id
    assert again.new_boot(2, "0.1") == 2
    again.close()


def test_tokens(registry: Registry) -> None:
    registry.add_token(token("b"))
    registry.add_token(token("a", "bl_p01"))
    assert [row.token_id for row in registry.tokens()] == ["a", "b"]
    assert registry.token("b") == token("b")
    assert registry.token("c") is None
    with pytest.raises(StorageError):
        registry.add_token(token("b"))
    assert len(registry.tokens()) == 2


def test_revocation(registry: Registry) -> None:
    registry.add_token(token())
    registry.revoke_token("t1", 7)
    registry.revoke_token("t1", 9)
    found = registry.token("t1")
    assert found is not None
    assert found.revoked_ns == 7
    assert registry.revoked() == {"t1"}
    with pytest.raises(NotFound, match="token ls"):
        registry.revoke_token("' OR 1=1 --", 7)


def test_changes_of_others_are_noticed_once(registry: Registry, path: Path) -> None:
    other = Registry(path)
    registry.changed()
    assert not registry.changed()
    other.add_token(token())
    assert registry.changed()
    assert not registry.changed()
    registry.revoke_token("t1", 1)
    assert registry.changed()
    assert registry.token("t1") == other.token("t1")
    other.close()


def test_one_current_beamtime_per_beamline(registry: Registry) -> None:
    registry.open_beamtime("1", "p01", 1)
    registry.open_beamtime("2", "p01", 2)
    registry.open_beamtime("3", "p02", 3)
    registry.open_beamtime("4", "", 4)
    registry.open_beamtime("5", "", 5)
    assert [row.current for row in registry.beamtimes()] == [False, True, True, True, True]
    current = registry.current("p01")
    assert current is not None
    assert current.beamtime == "2"
    assert registry.current("") is None
    registry.open_beamtime("1", "", 6)
    current = registry.current("p01")
    assert current is not None
    assert (current.beamtime, current.opened_ns) == ("1", 1)


def test_a_beamtime_stays_at_its_beamline(registry: Registry) -> None:
    registry.open_beamtime("1", "p01", 1)
    with pytest.raises(Conflict, match="p01"):
        registry.open_beamtime("1", "p02", 2)
    registry.open_beamtime("2", "", 1)
    registry.open_beamtime("2", "p02", 1)
    found = registry.beamtime("2")
    assert found is not None
    assert found.beamline == "p02"


def test_closing(registry: Registry) -> None:
    registry.open_beamtime("1", "p01", 1)
    registry.close_beamtime("1", 5)
    registry.close_beamtime("1", 9)
    found = registry.beamtime("1")
    assert found is not None
    assert (found.current, found.closed_ns) == (False, 5)
    assert registry.current("p01") is None
    with pytest.raises(NotFound):
        registry.close_beamtime("2", 5)
    registry.open_beamtime("1", "", 7)
    found = registry.beamtime("1")
    assert found is not None
    assert (found.current, found.closed_ns, found.beamline) == (True, 0, "p01")


@pytest.mark.parametrize("name", ["", "..", "a/b", "auto", ".x", "a\n", "a\0", "ä", "x" * 65, "*"])
def test_names_are_checked(registry: Registry, name: str) -> None:
    with pytest.raises(BadName):
        registry.open_beamtime(name, "p01", 1)
    with pytest.raises(BadName):
        check_beamline(name)
    if name:
        with pytest.raises(BadName):
            registry.open_beamtime("1", name, 1)
    assert registry.beamtimes() == []


def test_a_newer_file_is_refused_and_left_alone(path: Path) -> None:
    Registry(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreTooNew, match="newer version"):
        Registry(path)
    assert path.read_bytes() == before


def test_a_broken_file_is_an_error_of_ours(path: Path) -> None:
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(StorageError, match=r"node\.db"):
        Registry(path)
    with pytest.raises(StorageError):
        Registry(path.parent / "none" / "node.db")


def test_a_failed_change_changes_nothing(registry: Registry) -> None:
    registry.open_beamtime("1", "p01", 1)
    registry.add_token(token())
    registry._db.execute("DROP TABLE revocations")
    with pytest.raises(StorageError):
        registry.revoked()
    with pytest.raises(StorageError):
        registry.revoke_token("t1", 1)
    registry.open_beamtime("2", "p01", 1)
    assert len(registry.beamtimes()) == 2


def _add(path: Path, name: str) -> None:
    registry = Registry(path)
    for number in range(10):
        registry.add_token(token(f"{name}{number}"))
    registry.close()


def test_several_processes_write_at_once(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_add, args=(path, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    registry = Registry(path)
    assert len(registry.tokens()) == 30
    assert registry.node_id > 0
    registry.close()


def test_several_threads_use_one_connection(registry: Registry) -> None:
    def work(name: str) -> int:
        for number in range(20):
            registry.open_beamtime(f"{name}{number}", "p01", number)
            assert registry.beamtime(f"{name}{number}") is not None
            registry.changed()
        return len(registry.beamtimes())

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(work, "abcd")) == 80
    assert sum(row.current for row in registry.beamtimes()) == 1


NAMES = st.sampled_from(string.ascii_lowercase[:4])


class Beamtimes(RuleBasedStateMachine):
    """Opening and closing by two connections, against dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "node.db"
        self.both = (Registry(path), Registry(path))
        self.beamline: dict[str, str] = {}
        self.current: dict[str, str] = {}

    def teardown(self) -> None:
        for registry in self.both:
            registry.close()
        self.folder.cleanup()

    @rule(which=st.integers(0, 1), beamtime=NAMES, beamline=st.sampled_from(["", "p01", "p02"]))
    def open(self, which: int, beamtime: str, beamline: str) -> None:
        known = self.beamline.get(beamtime, "")
        if known and beamline and beamline != known:
            with pytest.raises(Conflict):
                self.both[which].open_beamtime(beamtime, beamline, 1)
            return
        self.both[which].open_beamtime(beamtime, beamline, 1)
        self.beamline[beamtime] = beamline or known
        if self.beamline[beamtime]:
            self.current[self.beamline[beamtime]] = beamtime

    @precondition(lambda self: self.beamline)
    @rule(which=st.integers(0, 1), data=st.data())
    def close(self, which: int, data: st.DataObject) -> None:
        beamtime = data.draw(st.sampled_from(sorted(self.beamline)))
        self.both[which].close_beamtime(beamtime, 2)
        if self.current.get(self.beamline[beamtime]) == beamtime:
            del self.current[self.beamline[beamtime]]

    @invariant()
    def both_agree_with_the_model(self) -> None:
        for registry in self.both:
            rows = {row.beamtime: row.beamline for row in registry.beamtimes()}
            assert rows == self.beamline
            for beamline in ("p01", "p02"):
                found = registry.current(beamline)
                assert (found.beamtime if found else None) == self.current.get(beamline)


TestBeamtimes = Beamtimes.TestCase
TestBeamtimes.settings = hypothesis_settings(max_examples=10, stateful_step_count=12, deadline=None)

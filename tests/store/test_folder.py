from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from beamstream.errors import NotFound, StorageError, StoreInUse
from beamstream.store.folder import DataFolder


def test_layout(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "a" / "data", create=True)
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "beamlines",
        "beamtimes",
        "catalog",
        "key",
        "segments",
    ]
    assert folder.path.stat().st_mode & 0o027 == 0
    assert (folder.path / "key").stat().st_mode & 0o777 == 0o600
    assert folder.nbytes_free > 0
    assert folder.key.hex() not in repr(folder)


def test_the_key_stays(tmp_path: Path) -> None:
    first = DataFolder(tmp_path, create=True)
    assert len(first.key) == 32
    assert DataFolder(tmp_path).key == first.key
    assert DataFolder(tmp_path / "other", create=True).key != first.key


def test_many_first_starts_end_with_one_key(tmp_path: Path) -> None:
    keys: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: keys.append(DataFolder(tmp_path, create=True).key))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1
    assert not list(tmp_path.glob(".key-*"))


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        (b"", 0o600),
        (bytes(range(31)), 0o600),
        (bytes(range(33)), 0o600),
        (bytes(32), 0o600),
        (b"12345678" * 4, 0o600),
        (bytes(range(32)), 0o640),
        (bytes(range(32)), 0o604),
        (bytes(range(32)), 0o620),
    ],
)
def test_bad_keys_are_refused(tmp_path: Path, content: bytes, mode: int) -> None:
    key = tmp_path / "key"
    key.write_bytes(content)
    key.chmod(mode)
    with pytest.raises(StorageError, match="key"):
        DataFolder(tmp_path, create=True)
    assert key.read_bytes() == content


def test_a_key_must_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(range(32)))
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "key").symlink_to("secret")
    with pytest.raises(StorageError, match="key"):
        DataFolder(tmp_path)
    (tmp_path / "key").unlink()
    os.mkfifo(tmp_path / "key", 0o600)
    with pytest.raises(StorageError, match="key"):
        DataFolder(tmp_path)


def test_a_missing_folder_is_made_only_when_told_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="--data"):
        DataFolder(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot make"):
        DataFolder(tmp_path / "file" / "data", create=True)


def test_one_node_at_a_time(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path, create=True)
    with (
        folder.locked(),
        pytest.raises(StoreInUse, match=str(os.getpid())),
        DataFolder(tmp_path).locked(),
    ):
        pass
    with folder.locked():
        pass


def test_the_lock_of_a_killed_node_is_free(tmp_path: Path) -> None:
    DataFolder(tmp_path, create=True)
    program = (
        "import sys, pathlib; from beamstream.store.folder import DataFolder\n"
        "with DataFolder(pathlib.Path(sys.argv[1])).locked():\n"
        "    print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with (
            pytest.raises(StoreInUse, match=f"process id {other.pid}"),
            DataFolder(tmp_path).locked(),
        ):
            pass
        other.kill()
        other.wait()
    with DataFolder(tmp_path).locked():
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_connect_file_is_private_and_replaced(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path, create=True)
    folder.write_connect(b"1")
    folder.write_connect(b"22")
    assert folder.connect_file.read_bytes() == b"22"
    assert folder.connect_file.stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob(".connect-*"))

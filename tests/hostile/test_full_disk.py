"""No space left: refused, said so, nothing half-written, and all is well when there is space."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from beamstream.testing.node import NodeProcess
from compat.doors import Doors, until
from compat.wire import CACHE_ONLY, OK, STORED, TRANSFER, Reply, header
from hostile.descriptors import descriptors, wait_for_descriptors

pytestmark = pytest.mark.system

FRAME = bytes(range(256)) * 16_384
"""4 MiB."""

MOUNT = 'mkdir -p "$0" && mount -t tmpfs -o size=120m none "$0" && exec "$@"'

MOUNT_READ_ONLY = (
    'mkdir -p "$0" && mount -t tmpfs none "$0" && mkdir "$0/bt1" '
    '&& mount -o remount,ro "$0" && exec "$@"'
)


def can_mount() -> bool:
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    probe = [unshare, "-rm", "sh", "-c", "mount -t tmpfs none /mnt"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Doors]:
    """A node whose beamtimes lie on a file system of 120 MB that nobody else sees."""
    if not can_mount():
        pytest.skip("user namespaces are not allowed here: no small file system can be mounted")
    data = tmp_path / "data"
    wrap = ["unshare", "-rm", "sh", "-c", MOUNT, str(data / "beamtimes")]
    with NodeProcess(data, cache="64MiB", wrap=wrap) as node:
        yield Doors(node)


def fill(doors: Doors, source: str) -> tuple[int, Reply]:
    """Send frames as files until one is not taken: how many were, and the answer."""
    for id in range(1, 100):
        with doors.receiver(source) as wire:
            reply = wire.put(id, FRAME, path=f"processed/{source}/{id}", mode=STORED)
        if reply.code != OK:
            return id - 1, reply
    raise AssertionError("400 MB fit on a file system of 120")


def test_full_disk(small: Doors) -> None:
    """The file system is seen through the node's own root: the test is outside of its mounts."""
    fds = descriptors(small.node)
    taken, reply = fill(small, "a")
    assert 3 <= taken < 40
    assert reply.code not in (OK, 2)
    assert "space" in reply.text
    seen = Path(f"/proc/{small.node.pid}/root{small.core}")
    files = sorted(seen.rglob("*.part-*")) + sorted(seen.rglob(".part-*"))
    assert files == []
    with small.http() as http:
        size = http.get(f"{small.base('s', 'a')}/size{small.query()}")
        assert size.json == {"size": taken}
        for id in (1, taken):
            record = small.record(id, "s", "a")
            assert record["size"] == len(FRAME)
        assert http.get(f"{small.base('s', 'a')}/g/next{small.query()}").status == 200
    with small.receiver("a") as wire:
        assert wire.put(1, b"in memory", stream="t").code == OK
        assert wire.put(1, b"", stream="m", mode=2).code == OK
    assert small.data(small.record(1, "t", "a")) == b"in memory"
    for id in range(1, taken + 1):
        (seen / "processed" / "a" / str(id)).unlink()
    until(lambda: fits(small), "there is room again")
    wait_for_descriptors(small.node, fds)
    small.node.check_log()


def fits(doors: Doors) -> bool:
    with doors.receiver("b") as wire:
        return bool(wire.put(1, FRAME, path="processed/b/1", mode=STORED).code in (OK, 2))


def test_writing_fails_in_the_middle(tmp_path: Path) -> None:
    """A limit on the size of files stands for a quota: the write breaks off half-way."""
    limit = "trap '' XFSZ; ulimit -f 8192; exec \"$@\""
    data = tmp_path / "data"
    blocks = 8192 * 512
    with NodeProcess(data, cache="16MiB", wrap=["sh", "-c", limit, "sh"]) as node:
        doors = Doors(node)
        fds = descriptors(node)
        large = bytes(blocks * 2 + 1000)
        for id in range(1, 4):
            with doors.receiver("q") as wire:
                message = header(
                    TRANSFER, id, len(large), 0, (STORED, 0, 0), f"processed/{id}", "s"
                )
                try:
                    wire.send(message, large)
                except ConnectionError:
                    continue
                reply = wire.reply()
                assert reply.code not in (OK, 2)
        assert not list(doors.core.rglob(".part-*"))
        assert not list(doors.core.rglob("processed/*"))
        with doors.receiver("q") as wire:
            assert wire.put(1, b"small", path="processed/1", mode=STORED).code == OK
            assert wire.put(2, b"memory", mode=CACHE_ONLY).code == OK
        assert (doors.core / "processed" / "1").read_bytes() == b"small"
        wait_for_descriptors(node, fds)
        node.check_log()


def test_read_only_file_system(tmp_path: Path) -> None:
    """Files cannot be stored; all that needs none goes on."""
    if not can_mount():
        pytest.skip("user namespaces are not allowed here: nothing can be mounted")
    data = tmp_path / "data"
    wrap = ["unshare", "-rm", "sh", "-c", MOUNT_READ_ONLY, str(data / "beamtimes")]
    with NodeProcess(data, cache="16MiB", wrap=wrap) as node:
        doors = Doors(node)
        with doors.receiver("r") as wire:
            reply = wire.put(1, b"x", path="processed/x", mode=STORED)
            assert reply.code not in (OK, 2)
            assert reply.text
        with doors.receiver("r") as wire:
            assert wire.put(1, b"x", mode=CACHE_ONLY).code == OK
        assert doors.data(doors.record(1, "s", "r")) == b"x"
        node.check_log()

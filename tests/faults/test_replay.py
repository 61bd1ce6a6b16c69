"""The recorder and the replayer themselves: they find each omitted sync, and accuse nobody else."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .power_loss import toy
from .power_loss.disk import PAGE_NBYTES, Answer, Disk, Model, Op, RecordingError, Style, load
from .power_loss.recording import Recording, differences, image_of
from .power_loss.replay import Report, replay

MESSAGES = 8
DATABASE = ("database", "no record")


def record_toy(library: Path, folder: Path, mode: str) -> Recording:
    root = folder / "root"
    root.mkdir()
    recording = Recording(library, root, folder / "log")
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        command = [sys.executable, toy.__file__, mode, str(root), str(MESSAGES), str(port)]
        with subprocess.Popen(command, env=recording.env) as process:
            connection, _ = door.accept()
            with connection:
                answers = 0
                while got := connection.recv(4096):
                    answers += len(got)
            assert process.wait(60) == 0
    assert answers == MESSAGES
    return recording


def check_toy(folder: Path, answers: Sequence[Answer]) -> list[str]:
    return toy.check(folder, len(answers))


def run(recording: Recording, model: Model, folder: Path) -> Report:
    return replay(recording, recording.ops(), model, check_toy, out=folder / model.name, seed=1)


@pytest.mark.parametrize("mode", toy.MODES)
def test_right_and_wrong_orders_are_told_apart(library: Path, scratch: Path, mode: str) -> None:
    recording = record_toy(library, scratch, mode)
    ops = recording.ops()
    assert differences(recording.final_image(ops), image_of(recording.root)) == []
    ext4, strict = (run(recording, model, scratch) for model in Model)
    print(mode, ext4, strict, sep="\n")
    assert min(ext4.states, strict.states) > 10 * MESSAGES
    if toy.MODES[mode]:
        assert not ext4.bad, ext4
        assert not strict.bad, strict
    elif mode == "folder not synced":
        # The journal brings the names along; only the strict model tells.
        assert not ext4.bad, ext4
        assert strict.kinds["no file"]
    else:
        assert ext4.bad
        assert strict.bad
        expected = {"nothing synced": "no record", "answers early": "no record"}.get(
            mode, "corrupt"
        )
        assert ext4.kinds[expected], ext4


def test_what_lay_there_before_is_safe(library: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "old").mkdir(parents=True)
    (root / "old" / "file").write_bytes(b"before")
    recording = Recording(library, root, tmp_path / "log")
    code = "import os,sys; os.rename(sys.argv[1] + '/old/file', sys.argv[1] + '/old/new')"
    subprocess.run([sys.executable, "-c", code, str(root)], env=recording.env, check=True)
    disk = Disk(str(recording.root), Model.STRICT, recording.start)
    for op in recording.ops():
        disk.feed(op)
    kept = disk.image(Style.NONE, random.Random(0))
    lost = disk.image(Style.ALL, random.Random(0))
    assert kept.files == {f"{recording.root}/old/file": b"before"}
    assert lost.files == {f"{recording.root}/old/new": b"before"}


CALLS = """
import ctypes, os, sys
root, libc = sys.argv[1], ctypes.CDLL(None, use_errno=True)
top = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
os.mkdir('a', dir_fd=top)
a = os.open('a', os.O_RDONLY, dir_fd=top)
new = os.O_RDWR | os.O_CREAT | os.O_EXCL
class How(ctypes.Structure):
    _fields_ = [('flags', ctypes.c_uint64), ('mode', ctypes.c_uint64), ('resolve', ctypes.c_uint64)]
how = How(new, 0o644, 8)
one = libc.syscall(437, a, b'one', ctypes.byref(how), ctypes.sizeof(how))
os.writev(one, [b'x' * 5000, b'y'])
os.pwritev(one, [b'12', b'34'], 4998)
os.ftruncate(one, 5003)
os.posix_fallocate(one, 0, 6000)
assert libc.renameat2(a, b'one', top, b'two', 1) == 0
assert libc.syscall(316, top, b'two', a, b'three', 1) == 0
os.fdatasync(one)
os.link('three', 'four', src_dir_fd=a, dst_dir_fd=top)
os.unlink('three', dir_fd=a)
log = os.open('log', os.O_WRONLY | os.O_CREAT | os.O_APPEND, dir_fd=a)
os.write(log, b'first'), os.write(log, b'second')
os.truncate(root + '/a/log', 8)
os.mkdir('gone', dir_fd=a), os.rmdir('gone', dir_fd=a)
os.chdir(root + '/a')
with open('relative', 'w') as file: file.write('hello')
os.replace('relative', 'log')
os.fsync(top), os.fsync(a)
"""


def test_the_recorder_misses_no_call(library: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    recording = Recording(library, root, tmp_path / "log")
    subprocess.run([sys.executable, "-c", CALLS, str(root)], env=recording.env, check=True)
    ops = recording.ops()
    real = image_of(recording.root)
    assert set(real.files) == {f"{recording.root}/four", f"{recording.root}/a/log"}
    assert differences(recording.final_image(ops), real) == []
    disk = Disk(str(recording.root), Model.STRICT, recording.start)
    for op in ops:
        disk.feed(op)
    safe = disk.image(Style.NONE, random.Random(0))
    # All is synced in the end, but for the file that was only opened, written and renamed.
    assert safe.folders == real.folders
    assert safe.files[f"{recording.root}/four"] == real.files[f"{recording.root}/four"]
    assert safe.files[f"{recording.root}/a/log"] == b""


def test_what_cannot_be_followed_is_refused(library: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    recording = Recording(library, root, tmp_path / "log")
    code = "import os,sys; os.symlink('x', sys.argv[1] + '/link')"
    subprocess.run([sys.executable, "-c", code, str(root)], env=recording.env, check=True)
    with pytest.raises(RecordingError, match="symbolic link"):
        recording.final_image(recording.ops())


def test_what_a_kill_kept_from_the_log_is_added(library: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    recording = Recording(library, root, tmp_path / "log")
    code = (
        "import os,sys; r=sys.argv[1];"
        "[open(f'{r}/{n}','w').write(n) for n in ('kept','moved','gone','longer','shorter')]"
    )
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(root)], env=recording.env, check=True
    )
    with recording.log.open("ab") as log:
        log.write(Op("C", f"{recording.root}/torn", "", 0, 0, b"").encode()[:-2])
    (root / "folder").mkdir()
    (root / "moved").rename(root / "folder" / "moved")
    (root / "gone").unlink()
    (root / "new").write_bytes(b"new")
    (root / "longer").write_bytes(b"longer than before")
    (root / "shorter").write_bytes(b"s")
    recording.killed()
    ops = recording.ops()
    assert differences(recording.final_image(ops), image_of(recording.root)) == []
    assert ops[-1].kind == "U"
    recording.killed()
    assert recording.ops() == ops


def test_io_uring_is_not_to_be_had(library: Path, tmp_path: Path) -> None:
    recording = Recording(library, tmp_path / "root", tmp_path / "log")
    code = (
        "import ctypes,errno,sys; libc=ctypes.CDLL(None,use_errno=True);"
        "sys.exit(not (libc.syscall(425,1,0) == -1 and ctypes.get_errno() == errno.ENOSYS))"
    )
    subprocess.run([sys.executable, "-c", code], env=recording.env, check=True)


# ---------------------------------------------------------------------------- the model

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)

ROOT = "/r"


def op(kind: str, path: str, other: str = "", a: int = 0, data: bytes = b"") -> Op:
    return Op(kind, f"{ROOT}/{path}" if path else ROOT, other, a, 0, data)


def fed(model: Model, *ops: Op) -> Disk:
    disk = Disk(ROOT, model)
    for one in ops:
        disk.feed(one)
    return disk


def none(disk: Disk) -> dict[str, bytes]:
    image = disk.image(Style.NONE, random.Random(0))
    return {path[len(ROOT) + 1 :]: content for path, content in image.files.items()}


@pytest.mark.parametrize("model", Model)
def test_a_sync_covers_only_what_was_written_before_it_began(model: Model) -> None:
    disk = fed(
        model,
        op("C", "f"),
        op("W", "f", data=b"one"),
        op("B", "f", "fdatasync", 1),
        op("W", "f", a=3, data=b"two"),
        op("S", "f", "fdatasync", 1),
        op("B", "", "fsync", 2),
        op("S", "", "fsync", 2),
    )
    assert none(disk) == {"f": b"one"}
    assert next(iter(disk.image(Style.ALL, random.Random(0)).files.values())) == b"onetwo"


@pytest.mark.parametrize("model", Model)
def test_a_sync_that_did_not_end_covers_nothing(model: Model) -> None:
    disk = fed(model, op("C", "f"), op("W", "f", data=b"one"), op("B", "f", "fsync", 1))
    assert none(disk) == {}


def test_a_file_in_a_folder_that_is_lost_is_lost() -> None:
    ops = [
        op("D", "d"),
        op("C", "d/f"),
        op("W", "d/f", data=b"one"),
        op("B", "d/f", "fsync", 1),
        op("S", "d/f", "fsync", 1),
        op("B", "d", "fsync", 2),
        op("S", "d", "fsync", 2),
    ]
    assert none(fed(Model.STRICT, *ops)) == {}
    assert none(fed(Model.EXT4, *ops)) == {"d/f": b"one"}
    more = [op("B", "", "fsync", 3), op("S", "", "fsync", 3)]
    assert none(fed(Model.STRICT, *ops, *more)) == {"d/f": b"one"}


def test_a_sync_of_another_file_brings_names_along_only_with_a_journal() -> None:
    ops = [
        op("C", "f"),
        op("C", "g"),
        op("W", "g", data=b"x"),
        op("B", "g", "fdatasync", 1),
        op("S", "g", "fdatasync", 1),
    ]
    assert none(fed(Model.EXT4, *ops)) == {"f": b"", "g": b"x"}
    assert none(fed(Model.STRICT, *ops)) == {}
    # Overwriting does not grow the file: fdatasync leaves the journal alone.
    again = [
        op("C", "h"),
        op("W", "g", data=b"y"),
        op("B", "g", "fdatasync", 2),
        op("S", "g", "fdatasync", 2),
    ]
    assert none(fed(Model.EXT4, *ops, *again)) == {"f": b"", "g": b"y"}


def test_a_file_whose_creation_was_not_seen_is_an_error() -> None:
    with pytest.raises(RecordingError, match="creation has not been seen"):
        fed(Model.EXT4, op("W", "f", data=b"x"))


@given(
    st.lists(st.tuples(st.integers(0, 3 * PAGE_NBYTES), st.binary(min_size=1)), max_size=8),
    st.integers(0, 8),
    st.integers(),
)
def test_every_page_is_the_old_or_the_new_one(
    writes: list[tuple[int, bytes]], synced: int, seed: int
) -> None:
    disk = fed(Model.EXT4, op("C", "f"), op("B", "f", "fsync", 1), op("S", "f", "fsync", 1))
    contents = [b""]
    for number, (offset, data) in enumerate(writes):
        disk.feed(op("W", "f", a=offset, data=data))
        old = contents[-1]
        new = bytearray(old.ljust(offset, b"\0"))
        new[offset : offset + len(data)] = data
        contents.append(bytes(new))
        if number + 1 == synced:
            disk.feed(op("B", "f", "fdatasync", 2))
            disk.feed(op("S", "f", "fdatasync", 2))
    safe = contents[synced] if synced <= len(writes) else b""
    assert none(disk)["f"] == safe
    torn = disk.image(Style.RANDOM, random.Random(seed)).files[f"{ROOT}/f"]
    assert len(torn) >= len(safe)
    possible = [content.ljust(len(torn), b"\0") for content in contents]
    if len(writes) == max(synced, 0) or (synced <= len(writes) and len(writes) - synced == 1):
        for at in range(0, len(torn), PAGE_NBYTES):
            assert torn[at : at + PAGE_NBYTES] in {
                content[at : min(at + PAGE_NBYTES, len(torn))] for content in possible
            }


@given(
    st.builds(
        Op,
        st.sampled_from("CWTFBSRLUDEAX"),
        TEXT,
        TEXT,
        st.integers(0, 2**64 - 1),
        st.integers(0, 2**64 - 1),
        st.binary(max_size=50),
    ),
    st.integers(1, 30),
)
def test_a_record_is_read_as_it_was_written(one: Op, cut: int) -> None:
    assert load(one.encode()) == [one]
    assert load(one.encode() * 2 + one.encode()[:-cut]) == [one, one]


@given(st.binary(max_size=200))
def test_the_log_is_decoded_up_to_its_last_whole_record(log: bytes) -> None:
    try:
        ops = load(log)
    except UnicodeDecodeError:
        return
    assert sum(33 + len(o.path.encode()) + len(o.other.encode()) + len(o.data) for o in ops) <= len(
        log
    )

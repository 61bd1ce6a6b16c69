"""Record what a process does to a folder: builds the recorder and reads its log."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .disk import Disk, Image, Model, Op, Style, load

_SOURCE = Path(__file__).with_name("recorder.c")


def build_recorder(folder: Path) -> Path:
    """Compile recorder.c into `folder`; return the library."""
    library = folder / "recorder.so"
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler, "a C compiler is needed for the power-loss tests: apt-get install gcc"
    command = [compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library)]
    done = subprocess.run(
        [*command, str(_SOURCE), "-ldl", "-lpthread"], capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    return library


class Recording:
    """A recording of the file operations below `root`, made by processes started with `env`.

    What lies in the folder when the object is made counts as safe.
    """

    def __init__(self, library: Path, root: Path, log: Path) -> None:
        # The recorder sees paths as the kernel does: without links.
        self.root = root.parent.resolve() / root.name
        self.log = log
        self.start = image_of(self.root) if self.root.exists() else Image({str(self.root)}, {})
        self.env = {
            "LD_PRELOAD": str(library),
            "RECORDER_ROOT": str(self.root),
            "RECORDER_LOG": str(log),
        }

    def ops(self) -> list[Op]:
        return load(self.log.read_bytes())

    def killed(self) -> None:
        """Call when the recorded process has been killed, before another one is started.

        A call may have happened without being written down any more: what the folder shows of such
        calls is added to the log, as not synced.
        """
        ops = self.ops()
        ops += _missed(self.final_image(ops), image_of(self.root))
        self.log.write_bytes(b"".join(op.encode() for op in ops))

    def final_image(self, ops: Sequence[Op]) -> Image:
        """What the operations make of the folder, without any loss."""
        disk = Disk(str(self.root), Model.EXT4, self.start)
        for op in ops:
            disk.feed(op)
        return disk.image(Style.ALL, random.Random(0))


def differences(seen: Image, real: Image) -> list[str]:
    """Paths that differ: empty, if the recorder has missed nothing."""
    paths = {path for path in seen.files.keys() | real.files.keys() if not is_scratch(path)}
    wrong = [path for path in paths if seen.files.get(path) != real.files.get(path)]
    return sorted(wrong) + sorted(seen.folders ^ real.folders)


def is_scratch(path: str) -> bool:
    """SQLite's index of a log in shared memory is written by mmap and made anew after a crash."""
    return path.endswith("-shm")


def _missed(seen: Image, real: Image) -> list[Op]:
    ops = [Op("D", path, "", 0, 0, b"") for path in sorted(real.folders - seen.folders)]
    gone = {seen.files[path]: path for path in seen.files.keys() - real.files.keys()}
    for path in sorted(real.files):
        content = real.files[path]
        if is_scratch(path) or seen.files.get(path) == content:
            continue
        if path not in seen.files and content in gone:
            ops.append(Op("R", gone.pop(content), path, 0, 0, b""))
            continue
        if path not in seen.files:
            ops.append(Op("C", path, "", 0, 0, b""))
        ops.append(Op("T", path, "", len(content), 0, b""))
        ops.append(Op("W", path, "", 0, 0, content))
    ops += [Op("U", path, "", 0, 0, b"") for path in gone.values() if not is_scratch(path)]
    return ops


def image_of(root: Path) -> Image:
    """The folders and files below `root` as they are; sockets hold nothing."""
    folders: set[str] = set()
    files: dict[str, bytes] = {}
    for folder, _, names in os.walk(root):
        folders.add(folder)
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                files[path] = Path(path).read_bytes()
    return Image(folders, files)

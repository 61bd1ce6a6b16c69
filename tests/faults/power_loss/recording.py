"""Record what a process does to a folder: builds the recorder and reads its log."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from .disk import Image, Op, load

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


def image_of(root: Path) -> Image:
    """The folders and files below `root` as they are."""
    folders: set[str] = set()
    files: dict[str, bytes] = {}
    for folder, _, names in os.walk(root):
        folders.add(folder)
        for name in names:
            path = os.path.join(folder, name)
            files[path] = Path(path).read_bytes()
    return Image(folders, files)

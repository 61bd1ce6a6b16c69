"""`beamstream pipeline logs`: what the workers of a pipeline said, and say."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from pathlib import Path
from typing import BinaryIO, Final, Self

from beamstream.cli.terminal import plain, talk, until_stopped
from beamstream.errors import NotFound
from beamstream.worker.pipelines.state_folder import StateFolder

_EVERY_S: Final = 0.2
_TAIL_NBYTES: Final = 1_000_000
_NAME: Final = re.compile(r"(?P<step>.+)\.\d+\.log")


def show(folder: StateFolder, step: str, *, follow: bool, count: int) -> int:
    """Print the ends of logs, and with `follow` what is added to them."""
    found = files(folder, step)
    if not found and not (follow and folder.running):
        names = sorted({_step_of(path) for path in files(folder, "")})
        raise NotFound(
            f"pipeline {folder.name!r} has no logs of {step or 'any step'!r}",
            hint=f"there are some of {', '.join(names)}" if names else "",
        )
    with contextlib.ExitStack() as opened:
        tails = {path: opened.enter_context(Tail(path)) for path in found}
        for path, tail in tails.items():
            if len(found) > 1:
                talk(f"==> {path.name}")
            for line in tail.last(count):
                _print("", line)
        if follow:
            with until_stopped():
                _follow(folder, step, tails, opened)
    return 0


def files(folder: StateFolder, step: str) -> list[Path]:
    """Logs of all steps, or of one; that of the supervisor is there for all."""
    paths = sorted(folder.logs.glob("*.log"))
    return [path for path in paths if step in ("", _step_of(path))]


def _step_of(path: Path) -> str:
    found = _NAME.fullmatch(path.name)
    return found["step"] if found else path.stem


def _follow(
    folder: StateFolder, step: str, tails: dict[Path, Tail], opened: contextlib.ExitStack
) -> None:
    while True:
        for path in files(folder, step):
            if path not in tails:
                tails[path] = opened.enter_context(Tail(path))
            for line in tails[path].new():
                _print(f"{path.name.removesuffix('.log')}: ", line)
        if not folder.running:
            return
        time.sleep(_EVERY_S)


def _print(who: str, line: str) -> None:
    print(f"{who}{plain(line.expandtabs())}")
    sys.stdout.flush()


class Tail:
    """The end of a file that grows, and now and then begins anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""

    def last(self, count: int) -> list[str]:
        """Its last lines; `new` goes on behind them."""
        lines = self.new()
        return lines[-count:] if count else []

    def new(self) -> list[str]:
        """Whole lines that have come since."""
        found: list[str] = []
        while True:
            if self._file is None and not self._open():
                return found
            assert self._file is not None
            found += self._lines(self._file.read())
            if not self._moved():
                return found
            # What was added before it was moved has to come first.
            found += self._lines(self._file.read())
            self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> bool:
        try:
            self._file = self._path.open("rb")
        except FileNotFoundError:
            return False
        size = self._file.seek(0, 2)
        self._file.seek(max(0, size - _TAIL_NBYTES))
        return True

    def _moved(self) -> bool:
        assert self._file is not None
        try:
            return self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return True

    def _lines(self, data: bytes) -> list[str]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace") for line in lines]

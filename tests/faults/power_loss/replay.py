"""Build the states that a power cut could have left, and check each of them."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from .disk import Answer, Disk, Image, Model, Op, Style
from .recording import Recording, is_scratch

PARTS = 8
"""Each pass over the operations looks at every so-many-th, so that a short run sees all of it."""

Check = Callable[[Path, Sequence[Answer]], list[str]]
"""Looks at a folder as it is after a power cut, given the answers sent until then; returns what is
wrong, each as ``"kind: details"``."""


class Report(msgspec.Struct):
    """What the states of one recording under one model were like."""

    model: Model
    seed: int
    ops: int = 0
    answers: int = 0
    states: int = 0
    passes: float = 0.0
    bad: int = 0
    seconds: float = 0.0
    kinds: Counter[str] = msgspec.field(default_factory=Counter)
    first: dict[str, str] = msgspec.field(default_factory=dict)

    def ended(self, seconds: float | None, stop_at_bad: int) -> bool:
        """Whether enough states have been checked."""
        if self.bad >= stop_at_bad > 0:
            return True
        return self.passes >= 1 if seconds is None else self.seconds >= seconds

    def __str__(self) -> str:
        text = (
            f"{self.model.value}: {self.ops} operations, {self.answers} answers, {self.passes:.1f} "
            f"passes, {self.states} states, {self.bad} bad (seed {self.seed}, "
            f"{self.states / max(self.seconds, 1e-9):.0f} states/s)"
        )
        if not self.bad:
            return text
        lines = [f"  {kind} ({count}): {self.first[kind]}" for kind, count in self.kinds.items()]
        return "\n".join([text, *lines])


class State(NamedTuple):
    """One state: after how many operations, which style, and the disk."""

    at: int
    style: Style
    image: Image
    answers: list[Answer]


def states(
    recording: Recording,
    ops: Sequence[Op],
    model: Model,
    styles: Sequence[Style],
    rng: random.Random,
    part: int = 0,
) -> Iterator[State]:
    """States after the first answer: after every `PARTS`-th operation, beginning with `part`."""
    disk = Disk(str(recording.root), model, recording.start)
    count = 0
    for at, op in enumerate(ops, 1):
        changed = disk.feed(op) and not is_scratch(op.path)
        if not disk.answers or not (changed or op.kind == "A"):
            continue
        count += 1
        if count % PARTS == part:
            for style in styles:
                yield State(at, style, disk.image(style, rng), disk.answers)


class Bench:
    """A folder that is made to hold one state after the other, with as little work as possible."""

    def __init__(self, out: Path, root: Path) -> None:
        self.out = out
        self._root = str(root)
        self._laid: dict[str, tuple[bytes, tuple[int, int, int]]] = {}

    def lay(self, image: Image) -> None:
        wanted = {
            self._there(path): content
            for path, content in image.files.items()
            if not is_scratch(path)
        }
        folders = {self._there(path) for path in image.folders} | {str(self.out)}
        for folder, _, names in os.walk(self.out, topdown=False):
            for name in names:
                path = os.path.join(folder, name)
                if path not in wanted or not self._is_laid(path, wanted[path]):
                    os.unlink(path)
            if folder not in folders:
                os.rmdir(folder)
        for folder in sorted(folders):
            os.makedirs(folder, exist_ok=True)
        for path, content in wanted.items():
            if not os.path.exists(path):
                self._write(path, content)

    def _there(self, path: str) -> str:
        return str(self.out) + path[len(self._root) :]

    def _is_laid(self, path: str, content: bytes) -> bool:
        laid = self._laid.get(path)
        return laid is not None and laid[0] is content and laid[1] == _stamp(path)

    def _write(self, path: str, content: bytes) -> None:
        mode = 0o600 if os.path.basename(path) in ("key", "node.db") else 0o644
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
        self._laid[path] = (content, _stamp(path))


def _stamp(path: str) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns, status.st_size


def replay(
    recording: Recording,
    ops: Sequence[Op],
    model: Model,
    check: Check,
    *,
    out: Path,
    seed: int,
    seconds: float | None = None,
    stop_at_bad: int = 0,
) -> Report:
    """Check the states after each operation from the first answer on.

    Nothing unsynced, everything, and two random subsets at each operation; then random ones again.
    Ends when each operation had its turn or, if `seconds` are given, when they have passed. With
    `stop_at_bad`, return after so many bad states.
    """
    report = Report(model, seed, len(ops), sum(op.kind == "A" for op in ops))
    rng = random.Random(seed)
    began = time.monotonic()
    bench = Bench(out, recording.root)
    every = [Style.NONE, Style.ALL, Style.RANDOM, Style.RANDOM]
    part = 0
    while not report.ended(seconds, stop_at_bad):
        styles = every if part < PARTS else [Style.RANDOM] * 2
        for state in states(recording, ops, model, styles, rng, part % PARTS):
            bench.lay(state.image)
            _note(report, state, check(out, state.answers), ops)
            report.seconds = time.monotonic() - began
            if report.ended(seconds, stop_at_bad):
                break
        else:
            part += 1
            report.passes = part / PARTS
            report.seconds = time.monotonic() - began
    shutil.rmtree(out, ignore_errors=True)
    return report


def _note(report: Report, state: State, wrong: list[str], ops: Sequence[Op]) -> None:
    report.states += 1
    if wrong:
        report.bad += 1
        op = ops[state.at - 1]
        where = f"after operation {state.at} ({op.kind} {op.path}), {state.style.value}"
        kinds = {text.split(":")[0]: text for text in reversed(wrong)}
        report.kinds.update(kinds.keys())
        for kind, text in kinds.items():
            report.first.setdefault(kind, f"{where}: {text}")

"""Everything that the documentation shows is done, and does what the page says."""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from beamstream import settings
from beamstream.client.asapo import Consumer, Producer
from beamstream.client.native.hub import Hub
from beamstream.testing.node import NodeProcess
from docs.pages import PAGES, ROOT, Block, blocks

_SHOWN: Final = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_LINK: Final = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
_HEADING: Final = re.compile(r"^#+ (.+)$", re.M)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def to_do(page: Path) -> list[Block]:
    found = (block for block in blocks(page) if block.well_marked)
    return [block for block in found if not block.mark.startswith("not run")]


class Beside:
    """A program in a terminal of its own, until somebody presses Ctrl-C there."""

    def __init__(self, arguments: list[str]) -> None:
        self._command = [sys.executable, "-m", "beamstream.cli.main", *arguments]
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._said: list[str] = []
        self._exported: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.append(line)
            if line.startswith("export "):
                self._exported.put(line)
        self._exported.put("")

    def exported(self) -> dict[str, str]:
        """What it tells other programs; waits until it does."""
        words = shlex.split(self._exported.get(timeout=120))
        assert words, "".join(self._said)
        return dict(word.split("=", 1) for word in words[1:])

    def end(self) -> None:
        os.kill(self._process.pid, signal.SIGINT)
        try:
            self._process.wait(120)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        assert self._process.returncode == 0, f"{self._command}: {''.join(self._said)}"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Reader:
    """Somebody who follows a page, step by step, in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.printed = ""
        self.nodes: dict[Path, NodeProcess] = {}
        self.beside: list[Beside] = []

    def follow(self, block: Block) -> None:
        if block.mark.startswith("file: "):
            (self.folder / block.mark.removeprefix("file: ")).write_text(block.text)
        if block.language == "toml":
            (self.folder / "beamstream.toml").write_text(block.text)
            settings.load({}, {}, self.folder / "beamstream.toml")
        elif block.mark == "output":
            self.expect(block, block.text, self.printed)
        elif block.language == "python":
            self.python(block)
        elif block.language == "yaml":
            return
        elif block.mark == "run: a node":
            self.start(block)
        elif block.mark == "run: beside":
            self.start_beside(block)
        else:
            self.console(block)

    def python(self, block: Block) -> None:
        code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, self.names)
        self.printed = printed.getvalue()

    def start(self, block: Block) -> None:
        [line] = block.text.splitlines()
        command = shlex.split(line.removeprefix("$ "))
        assert command[:3] == ["beamstream", "up", "--data"], block.where
        data = self.folder / command[3]
        node = self.nodes.get(data)
        if node is None:
            node = self.nodes[data] = NodeProcess(data, cache="64MiB", args=command[4:])
        else:
            # The page has killed or stopped it.
            node.wait()
        self.enter(node)

    def start_beside(self, block: Block) -> None:
        [line] = block.text.splitlines()
        command = shlex.split(line.removeprefix("$ "))
        assert command[0] == "beamstream", block.where
        self.beside.append(Beside(command[1:]))
        if command[1] == "demo":
            os.environ.update(self.beside[-1].exported())

    def enter(self, node: NodeProcess) -> None:
        node.start()
        os.environ["BEAMSTREAM_URL"] = node.connect["url"]
        os.environ["BEAMSTREAM_TOKEN"] = node.connect["token"]

    def console(self, block: Block) -> None:
        """Run the commands as one script; what it exports holds for the rest of the page."""
        lines = block.text.splitlines(keepends=True)
        commands = [line[2:] for line in lines if line.startswith(("$ ", "> "))]
        shown = "".join(line for line in lines if not line.startswith(("$ ", "> ")))
        kept = self.folder / ".environment"
        done = subprocess.run(
            ["bash", "-ec", f"{''.join(commands)}\nenv -0 >{shlex.quote(str(kept))}"],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{block.where}: {done.stdout}"
        for line in kept.read_text().split("\0"):
            key, equals, value = line.partition("=")
            if equals and key not in ("_", "SHLVL", "PWD", "OLDPWD"):
                os.environ[key] = value
        kept.unlink()
        if shown:
            self.expect(block, shown, done.stdout)

    @staticmethod
    def expect(block: Block, shown: str, printed: str) -> None:
        same = doctest.OutputChecker().check_output(shown, printed, _SHOWN)
        assert same, f"{block.where}: the page shows\n{shown}\nand it is\n{printed}"

    def leave(self) -> None:
        for value in self.names.values():
            if isinstance(value, Producer | Consumer | Hub):
                value.close()
        self.names.clear()
        while self.beside:
            self.beside.pop().end()
        for node in self.nodes.values():
            node.terminate()


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    here = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    reader = Reader(tmp_path)
    try:
        yield reader
        reader.leave()
    finally:
        for program in reader.beside:
            program.kill()
        for node in reader.nodes.values():
            node.kill()
        for name, module in list(sys.modules.items()):
            if str(tmp_path) in str(getattr(module, "__file__", "")):
                del sys.modules[name]
        os.environ.clear()
        os.environ.update(here)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_is_marked(page: Path) -> None:
    assert [block.where for block in blocks(page) if not block.well_marked] == []


@pytest.mark.system
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("page", [page for page in PAGES if to_do(page)], ids=name)
def test_what_a_page_shows_works(page: Path, reader: Reader) -> None:
    steps = to_do(page)
    first = next((block for block in steps if block.language != "toml"), None)
    if first is not None and first.mark != "run: a node":
        data = reader.folder / "data"
        reader.nodes[data] = NodeProcess(data, cache="64MiB")
        reader.enter(reader.nodes[data])
    for block in steps:
        reader.follow(block)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    broken = []
    for found in _LINK.finditer(text):
        target, _, anchor = (found[1] or found[2]).partition("#")
        if "://" in target:
            continue
        file = (page.parent / target) if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(found[0])
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Where a ``#…`` may lead, as GitHub and GitLab make them from headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in _HEADING.findall(page.read_text())
    }


def test_the_pages_show_much() -> None:
    """Guards the rules above: marks must not turn the documentation into pictures."""
    done = [block for page in PAGES for block in to_do(page)]
    assert sum(block.language == "python" for block in done) >= 15
    assert sum(block.language == "console" for block in done) >= 10

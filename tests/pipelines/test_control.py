"""Folder, lock and socket of a pipeline that runs."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from beamstream.errors import BadPipeline, ConnectionLost, NotFound
from beamstream.worker.pipelines.control import (
    CONNECTIONS_MAX,
    LINE_NBYTES_MAX,
    ControlServer,
    Request,
    ask,
)
from beamstream.worker.pipelines.state_folder import (
    StateFolder,
    folder_of,
    folders,
    root,
    the_folder,
)


@pytest.fixture
def folder() -> Iterator[StateFolder]:
    # Paths of sockets are short: those of tests are not always.
    with tempfile.TemporaryDirectory(prefix="bs-") as home:
        folder = folder_of({"XDG_STATE_HOME": home}, "bt1", "demo")
        folder.make()
        yield folder


def echo(request: Request) -> Any:
    if request.do == "refuse":
        raise BadPipeline("no", hint="ask for something else")
    return [request.do, request.step, request.to]


# ------------------------------------------------------------------------------ folder


def test_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    assert root({}) == Path("/home/u/.local/state/beamstream/pipelines")
    found = folder_of({"XDG_STATE_HOME": "/s"}, "bt1", "demo")
    assert found.path == Path("/s/beamstream/pipelines/bt1/demo")
    assert (found.name, found.beamtime) == ("demo", "bt1")


def test_it_is_for_this_user_alone(folder: StateFolder) -> None:
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "beamstream").write_text("a file")
    with pytest.raises(BadPipeline, match="cannot use the folder"):
        folder_of({"XDG_STATE_HOME": str(tmp_path)}, "bt1", "demo").make()


def test_one_supervisor_at_a_time(folder: StateFolder) -> None:
    assert not folder.running
    with folder.locked():
        assert folder.running
        assert folder.pid == os.getpid()
        with (
            pytest.raises(
                BadPipeline, match=f"'demo' .*'bt1' runs already, as process {os.getpid()}"
            ),
            folder.locked(),
        ):
            pass
        assert folder.running
    assert not folder.running
    with folder.locked():
        pass


def test_which_folder_is_meant(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    assert folders(environ) == []
    with pytest.raises(NotFound, match="'demo' has not been started here"):
        the_folder(environ, "demo")
    one, two = folder_of(environ, "bt1", "demo"), folder_of(environ, "bt2", "demo")
    for each in (one, two):
        with each.locked():
            pass
    assert [each.beamtime for each in folders(environ)] == ["bt1", "bt2"]
    assert folders(environ, "other") == []
    with pytest.raises(BadPipeline, match="there are pipelines 'demo' of bt1, bt2"):
        the_folder(environ, "demo")
    assert the_folder(environ, "demo", "bt2").path == two.path
    with one.locked():
        assert the_folder(environ, "demo").path == one.path


# ------------------------------------------------------------------------------ socket


def test_requests_are_answered(folder: StateFolder) -> None:
    with ControlServer(folder, echo):
        assert ask(folder, Request("scale", "bin", 3)) == ["scale", "bin", 3]
        with pytest.raises(BadPipeline, match=r"no \(ask for something else\)"):
            ask(folder, Request("refuse"))
        assert ask(folder, Request("ps")) == ["ps", "", 0]
    with pytest.raises(NotFound, match="pipeline 'demo' of beamtime 'bt1' does not run"):
        ask(folder, Request("ps"))
    assert sorted(path.name for path in folder.path.iterdir()) == ["logs"]


def test_long_paths_are_no_matter(tmp_path: Path) -> None:
    folder = folder_of({"XDG_STATE_HOME": str(tmp_path / ("x" * 120))}, "bt1", "demo")
    folder.make()
    with ControlServer(folder, echo):
        path = Path(folder.address.read_text().strip())
        assert len(str(path)) < 100
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert ask(folder, Request("ps")) == ["ps", "", 0]
    assert not path.parent.exists()


def test_what_a_killed_supervisor_has_left_is_no_matter(folder: StateFolder) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder.path / "control.sock"))
    folder.address.write_text(f"{folder.path / 'control.sock'}\n")
    with pytest.raises(NotFound, match="does not run"):
        ask(folder, Request("ps"))
    with ControlServer(folder, echo):
        assert ask(folder, Request("ps")) == ["ps", "", 0]


def raw(folder: StateFolder, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(30)
        peer.connect(folder.address.read_text().strip())
        try:
            peer.sendall(data)
            return peer.recv(65_536)
        except (BrokenPipeError, ConnectionResetError):
            return b""


def test_nonsense_is_told_or_cut_off(folder: StateFolder) -> None:
    with ControlServer(folder, echo):
        assert b"this is no request" in raw(folder, b"{}\n")
        assert b"this is no request" in raw(folder, b"\xff\n")
        assert raw(folder, b"x" * (LINE_NBYTES_MAX + 100_000)) == b""
        assert ask(folder, Request("ps")) == ["ps", "", 0]


def test_many_ask_at_once(folder: StateFolder) -> None:
    answers: list[Any] = []

    def one(number: int) -> None:
        answers.append(ask(folder, Request("scale", to=number)))

    with ControlServer(folder, echo):
        each(2 * CONNECTIONS_MAX, one)
    assert sorted(answer[2] for answer in answers) == list(range(2 * CONNECTIONS_MAX))


def each(count: int, do: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=do, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_one_that_waits_is_answered_at_the_end(folder: StateFolder) -> None:
    over, asked, answers = threading.Event(), threading.Event(), []

    def handle(request: Request) -> Any:
        if request.wait:
            asked.set()
            assert over.wait(30)
        return request.do

    with ControlServer(folder, handle):
        thread = threading.Thread(
            target=lambda: answers.append(ask(folder, Request("drain", wait=True)))
        )
        thread.start()
        assert asked.wait(30)
        assert ask(folder, Request("ps")) == "ps"
        assert answers == []
        over.set()
    thread.join()
    assert answers == ["drain"]


def test_one_that_says_nothing_sensible(folder: StateFolder) -> None:
    path = folder.path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        folder.address.write_text(str(path))

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(b"hello\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ConnectionLost, match="'demo' does not answer"):
            ask(folder, Request("ps"))
        thread.join()

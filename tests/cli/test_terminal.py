"""How commands behave as processes: statuses, streams, signals, pipes, what help loads."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from beamstream.cli.main import COMMANDS, main
from beamstream.client.native.hub import connect
from beamstream.testing.node import NodeProcess

HEAVY = {
    "apsw", "asyncio", "fabio", "h5py", "jwt", "msgspec", "multiprocessing", "numpy", "re2",
    "sqlglot", "ssl", "structlog", "uvloop", "xxhash",
}  # fmt: skip
MODULES_MAX = 40
"""Beside those of the parser of the command line itself."""


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "beamstream.cli.main", *map(str, words)]


# ------------------------------------------------------------------------------- help


@pytest.mark.parametrize("words", [[], *([name] for name, _, _ in COMMANDS if name != "up")])
def test_help_loads_next_to_nothing(words: list[str]) -> None:
    program = (
        "import json, sys, cyclopts; cyclopts.App(help_formatter='plain')(['--help'], "
        "result_action='return_value'); before = set(sys.modules);"
        f"from beamstream.cli.main import main; status = main({[*words, '--help']!r});"
        "print(json.dumps([status, sorted(set(sys.modules) - before)]), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    status, loaded = json.loads(done.stderr)
    assert status == 0
    assert {name.partition(".")[0] for name in loaded} & HEAVY == set()
    assert len(loaded) <= MODULES_MAX, loaded


@pytest.mark.parametrize("name", [name for name, where, _ in COMMANDS if where.endswith(":app")])
def test_nouns_list_their_verbs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    verbs = capsys.readouterr().out.partition("Commands:")[2]
    assert ": " in verbs


# ---------------------------------------------------------------------------- statuses


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with NodeProcess(tmp_path_factory.mktemp("node") / "data", cache="64MiB") as node:
        yield node


@pytest.fixture
def environ(node: NodeProcess) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if "BEAMSTREAM" not in name}
    return kept | {
        "BEAMSTREAM_URL": node.connect["url"],
        "BEAMSTREAM_TOKEN": node.connect["token"],
        "LC_ALL": "C.UTF-8",
    }


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.mark.parametrize("words", [["stream", "ls"], ["get", "a/b"], ["doctor"], ["bench", "put"]])
def test_a_node_that_is_not_there_has_a_status_of_its_own(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--url", f"127.0.0.1:{closed_port()}", "--token", "x"]) == 3
    out, err = capsys.readouterr()
    assert "beamstream up" in out + err


def test_nobody_says_where_the_node_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("URL", "TOKEN", "BEAMTIME"):
        monkeypatch.delenv(f"BEAMSTREAM_{name}", raising=False)
    monkeypatch.setenv("BEAMSTREAM_CONNECT_FILE", "")
    assert main(["stream", "ls"]) == 1
    assert "BEAMSTREAM_URL" in capsys.readouterr().err


# ------------------------------------------------------------------- processes: real ones


@pytest.mark.system
def test_a_folder_is_followed_until_it_is_stopped(
    node: NodeProcess, environ: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "one.bin").write_bytes(b"1")
    words = command("put", "follow/a", "--follow", folder, "--settle", "0.1", "--json")
    with subprocess.Popen(
        words, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["file"] == str(folder / "one.bin")
        (folder / "below").mkdir()
        (folder / "below" / "two.bin").write_bytes(b"22")
        assert json.loads(process.stdout.readline())["id"] == 2
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert "sent 2 messages" in errors
    with connect(node.connect["url"], token=node.connect["token"]) as hub:
        found = [(message.name, bytes(message.data)) for message in hub.stream("follow/a")]
    assert found == [
        ("processed/follow/a/one.bin", b"1"),
        ("processed/follow/a/below/two.bin", b"22"),
    ]


@pytest.mark.system
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_watching_ends_quietly(
    how: signal.Signals, node: NodeProcess, environ: dict[str, str]
) -> None:
    with connect(node.connect["url"], token=node.connect["token"]) as hub:
        with hub.source("watch").stream(how.name).writer(finish=False) as writer:
            writer.send(b"x")
        with subprocess.Popen(
            command("watch", f"watch/{how.name}", "--every", "0.1"),
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert "head 1" in process.stdout.readline()
            process.send_signal(how)
            _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.system
def test_watching_goes_on_over_new_messages_to_the_end(
    node: NodeProcess, environ: dict[str, str]
) -> None:
    with (
        connect(node.connect["url"], token=node.connect["token"]) as hub,
        subprocess.Popen(
            command("watch", "watch/live", "--every", "0.05"),
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        assert "waiting" in process.stderr.readline()
        with hub.source("watch").stream("live").writer() as writer:
            writer.send(b"1")
            writer.flush()
            assert "head 1" in process.stdout.readline()
            writer.send(b"2")
        *_, last = process.stdout
        assert process.wait(60) == 0
    assert "head 2" in last
    assert last.endswith("finished\n")


@pytest.mark.system
@pytest.mark.parametrize("words", [["get", "pipe/a", "-o", "-"], ["get", "pipe/a"]])
def test_a_closed_pipe_is_no_traceback(
    words: list[str], node: NodeProcess, environ: dict[str, str]
) -> None:
    with connect(node.connect["url"], token=node.connect["token"]) as hub:
        stream = hub.source("pipe").stream("a")
        if not stream.exists:
            with stream.writer() as writer:
                writer.send_many([bytes(10_000)] * 100)
    reader, end = os.pipe()
    os.close(reader)
    with subprocess.Popen(
        command(*words), env=environ, stdout=end, stderr=subprocess.PIPE
    ) as process:
        os.close(end)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (1, b"")


@pytest.mark.system
def test_the_bench_that_is_interrupted_leaves_nothing(
    node: NodeProcess, environ: dict[str, str]
) -> None:
    with connect(node.connect["url"], token=node.connect["token"]) as hub:
        with subprocess.Popen(
            command("bench", "put", "--size", "1k", "--seconds", "60"),
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            # It is at work when its first message is there, of which a reader is told.
            first = next(iter(hub.source("beamstream-bench").group("", ack="none")))
            assert first.source == "beamstream-bench"
            os.killpg(process.pid, signal.SIGINT)
            out, errors = process.communicate(timeout=60)
        assert (process.returncode, out, errors) == (130, b"", b"")
        assert hub.source("beamstream-bench").streams().rows() == []


@pytest.mark.system
def test_data_and_talk_go_their_ways(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    done = subprocess.run(
        command("put", "f", "ways/a"),
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "ways/a[1]  f  disk\n"
    assert done.stderr == "sent 1 message, 1 B\n"


@pytest.mark.system
def test_a_node_that_goes_away_ends_a_command_soon(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"first")
    with NodeProcess(tmp_path / "data", cache="64MiB") as node:
        url, token = node.connect["url"], node.connect["token"]
        with (
            connect(url, token=token) as hub,
            subprocess.Popen(
                command("put", "f", "-", "away/a", "--url", url, "--token", token),
                cwd=tmp_path,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process,
        ):
            # It reads its input when the file has been sent, of which a reader is told.
            assert next(iter(hub.source("away").group("", ack="none"))).id == 1
            node.kill()
            out, errors = process.communicate(b"second", timeout=60)
            hub.close(0.0)
    assert process.returncode == 3
    assert out in (b"", b"away/a[1]  f  disk\n")
    told, error = errors.splitlines()
    assert told.startswith(b"sent ")
    assert error.startswith(b"beamstream: there is no node at ")


@pytest.mark.system
def test_a_token_that_only_reads(
    node: NodeProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "f").write_bytes(b"x")
    file = str(tmp_path / "f")
    at = ("--url", node.connect["url"], "--token")
    assert main(["put", file, "rights/a", *at, node.token(access="read,write")]) == 0
    reader = node.token(access="read")
    assert main(["put", file, "rights/b", *at, reader]) == 1
    assert "sent no messages" in capsys.readouterr().err
    assert main(["stream", "rm", "rights/a", "--yes", *at, reader]) == 1
    assert main(["get", "rights/a[1]", *at, reader]) == 0
    assert "rights/a[1]" in capsys.readouterr().out
    main(["doctor", *at, reader])
    assert "✓ token: allows read;" in capsys.readouterr().out

"""What the drop-in producer does around its calls: callbacks, queue, log, its end."""

from __future__ import annotations

import gc
import io
import json
import os
import queue
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beamstream.compat import asapo_producer
from beamstream.compat.asapo_producer import (
    AsapoLocalIOError,
    AsapoProducerError,
    AsapoRequestsPoolIsFull,
    AsapoTimeOutError,
    AsapoWrongInputError,
)
from compat.doors import until
from official.clients import CACHE_ONLY, Lab, Ticket

NOWHERE = "127.0.0.1:1"


def unheard(timeout_ms: int = 60_000, endpoint: str = NOWHERE, **more: Any) -> Any:
    """A producer that reaches nobody."""
    made = asapo_producer.create_producer(
        endpoint, "processed", "bt1", "auto", "s", "T", 1, timeout_ms, **more
    )
    made.set_log_level("none")
    return made


def send(producer: Any, id: int, data: Any = b"x", callback: Any = None, **more: Any) -> None:
    producer.send(id, f"processed/{id}", data, stream="s", ingest_mode=9, callback=callback, **more)


def test_callbacks_run_in_a_thread_of_the_producer(lab: Lab) -> None:
    calls: queue.SimpleQueue[tuple[str, list[str], Any]] = queue.SimpleQueue()

    def callback(payload: dict[str, Any], error: Any) -> None:
        calls.put((threading.current_thread().name, list(payload), error))

    data = bytearray(b"abc")
    send(lab.sender.api, 1, data, callback)
    name, keys, error = calls.get(timeout=20)
    assert name != threading.current_thread().name
    assert keys == ["id", "buffer", "stream", "server_response", "data"]
    assert error is None
    lab.sender.api.send_stream_finished_flag("s", 1, callback=callback)
    assert calls.get(timeout=20)[1] == ["id", "buffer", "stream", "server_response"]
    lab.sender.api.send_beamtime_meta("{}", callback=callback)
    assert calls.get(timeout=20)[1] == ["id", "buffer", "stream", "server_response", "data"]


def test_the_data_of_a_callback_are_those_that_were_sent(lab: Lab) -> None:
    data = bytearray(b"abc")
    payload = lab.sender.send(1, data).ok()
    assert payload["data"] is data
    assert payload["server_response"] == b""


@pytest.mark.parametrize("problem", [ValueError("mine"), SystemExit(3)])
def test_a_callback_that_raises_stops_nothing(
    lab: Lab, problem: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    def callback(payload: dict[str, Any], error: Any) -> None:
        raise problem

    sender = lab.producer()
    sender.api.set_log_level("error")
    send(sender.api, 1, callback=callback)
    sender.send(2, b"next").ok()
    [line] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert line["level"] == "error"
    assert repr(problem) in line["message"]


def test_a_callback_may_use_its_producer(lab: Lab) -> None:
    ticket = Ticket()

    def callback(payload: dict[str, Any], error: Any) -> None:
        send(lab.sender.api, 2, callback=ticket)

    send(lab.sender.api, 1, callback=callback)
    assert ticket.ok()["id"] == 2


def test_requests_are_finished_when_their_callbacks_are(lab: Lab) -> None:
    done: list[int] = []
    for id in range(1, 101):
        send(lab.sender.api, id, callback=lambda payload, error: done.append(payload["id"]))
    lab.sender.api.wait_requests_finished(20_000)
    assert done == list(range(1, 101))


def test_queue_limits() -> None:
    producer = unheard()
    producer.set_requests_queue_limits(2, 0)
    send(producer, 1)
    producer.send_file(2, "/dev/null", "processed/2", stream="s")
    for call in (
        lambda: send(producer, 3),
        lambda: producer.send_stream_finished_flag("s", 3),
        lambda: producer.send_stream_meta("{}", stream="s"),
    ):
        with pytest.raises(AsapoRequestsPoolIsFull, match="2 requests"):
            call()
    producer.set_requests_queue_limits(0, 2)
    send(producer, 3, b"x" * 1_900_000)
    with pytest.raises(AsapoRequestsPoolIsFull, match="2 MB"):
        send(producer, 4, b"x" * 200_000)
    assert producer.get_requests_queue_size() == 3
    assert producer.get_requests_queue_volume_mb() == 1
    with pytest.raises(AsapoTimeOutError):
        producer.wait_requests_finished(0)
    producer.cleanup()
    assert producer.get_requests_queue_size() == 0


def test_nobody_there_is_a_timeout() -> None:
    producer = unheard(timeout_ms=0)
    ticket = Ticket()
    send(producer, 1, callback=ticket)
    ticket.fails(AsapoTimeOutError)
    producer.cleanup()
    with pytest.raises(AsapoWrongInputError, match="closed"):
        send(producer, 2)


def test_cleaning_up_tells_what_was_not_sent() -> None:
    producer = unheard()
    tickets = [Ticket() for _ in range(3)]
    for id, ticket in enumerate(tickets, 1):
        send(producer, id, callback=ticket)
    producer.cleanup()
    for ticket in tickets:
        ticket.fails(AsapoTimeOutError)
    producer.cleanup()


def test_a_producer_that_nobody_holds_sends_what_is_queued(lab: Lab) -> None:
    def work() -> list[Ticket]:
        api = lab.clients.producer.create_producer(
            lab.node.endpoint, "processed", lab.beamtime, "auto", lab.source, lab.token, 2, 20_000
        )
        tickets = [Ticket() for _ in range(50)]
        for id, ticket in enumerate(tickets, 1):
            send(api, id, b"%d" % id, ticket)
        return tickets

    before = threading.active_count()
    tickets = work()
    gc.collect()
    for ticket in tickets:
        ticket.ok()
    assert lab.consumer().get_current_size("s") == 50
    until(lambda: threading.active_count() <= before, "its threads end")


def test_payloads_are_not_kept(lab: Lab) -> None:
    image = np.zeros(1_000_000, np.uint8)
    held = weakref.ref(image)
    lab.sender.api.send(1, "processed/1", image, stream="s", ingest_mode=9)
    del image
    lab.sender.api.wait_requests_finished(20_000)
    until(lambda: held() is None, "the payload that was sent is let go")


def test_a_closed_stdout_stops_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    sender = lab.producer()
    sender.api.set_log_level("debug")
    for stdout in (None, closed_file()):
        monkeypatch.setattr(sys, "stdout", stdout)
        sender.send(1, b"abc").outcome()
        sender.send(1, b"other").fails(AsapoWrongInputError)


def closed_file() -> io.StringIO:
    file = io.StringIO()
    file.close()
    return file


FORKS = """
import os, sys
import asapo_producer
endpoint, token, source = sys.argv[1:]
producer = asapo_producer.create_producer(
    endpoint, "processed", "bt1", "auto", source, token, 1, 30_000
)
def send(number):
    producer.send(number, f"processed/{number}", b"x", ingest_mode=9, stream="s")
    producer.wait_requests_finished(30_000)
send(1)
child = os.fork()
if not child:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
send(2)
"""


def test_the_end_of_a_forked_process_leaves_the_connections_alone(lab: Lab) -> None:
    # With newer Pythons a fork beside threads is a warning.
    done = subprocess.run(
        [sys.executable, "-m", "beamstream.compat", "-c", FORKS, lab.node.endpoint, lab.token,
         lab.source],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert lab.consumer().get_current_size("s") == 2


def test_files_are_read_when_they_are_sent(lab: Lab, tmp_path: Path) -> None:
    local = tmp_path / "frame"
    local.write_bytes(b"early")
    blocked, go_on = threading.Event(), threading.Event()

    def callback(payload: dict[str, Any], error: Any) -> None:
        blocked.set()
        go_on.wait(20)

    sender = lab.producer(threads=1)
    send(sender.api, 1, callback=callback)
    assert blocked.wait(20)
    ticket = sender.file(2, str(local), f"processed/{lab.source}/2")
    local.write_bytes(b"later and longer")
    go_on.set()
    ticket.ok()
    assert lab.read("s", 2) == b"later and longer"


def test_files_that_cannot_be_read(lab: Lab, tmp_path: Path) -> None:
    for local in (tmp_path, tmp_path / "none"):
        ticket = lab.sender.file(1, str(local), "processed/x")
        assert str(local) in str(ticket.fails(AsapoLocalIOError))
    ticket = lab.sender.file(1, str(tmp_path / "none"), "processed/x", ingest_mode=2)
    ticket.ok()


def test_empty_payloads(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    lab.sender.file(1, str(tmp_path / "empty"), "processed/1", ingest_mode=CACHE_ONLY).ok()
    lab.sender.send(2, b"").ok()
    for id in (1, 2):
        data, record = lab.consumer().get_by_id(id, meta_only=False, stream="s")
        assert (data.size, record["size"]) == (0, 0)


def test_a_refused_callback_error_says_why(lab: Lab) -> None:
    lab.sender.send(1, b"abc").ok()
    text = str(lab.sender.send(1, b"abd").fails(AsapoWrongInputError))
    assert "already have record with same id" in text
    assert lab.token not in text


@pytest.mark.parametrize(
    ("level", "seen"),
    [
        ("debug", ["debug", "warning", "error"]),
        ("info", ["warning", "error"]),
        ("warn", ["warning", "error"]),
        ("error", ["error"]),
        ("none", []),
        ("warning", ["warning", "error"]),
    ],
)
def test_log(lab: Lab, level: str, seen: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    sender = lab.producer()
    sender.api.set_log_level("info")
    sender.api.set_log_level(level)
    if level == "warning":
        assert capsys.readouterr().out == "wrong loglevel mode: warning\n"
    for data in (b"abc", b"abc", b"abcd"):
        sender.send(1, data).outcome()
    sender.api.wait_requests_finished(5000)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["level"] for line in lines] == seen
    for line in lines:
        assert list(line) == ["time", "source", "level", "message"]
        assert line["source"] == "producer_api"
        assert lab.token not in line["message"]


def test_metadata_of_a_stream_are_waited_for(lab: Lab) -> None:
    asking = threading.Event()
    found: list[dict[str, Any]] = []

    def ask() -> None:
        asking.set()
        found.append(lab.sender.api.get_stream_meta("s", 20_000))

    thread = threading.Thread(target=ask)
    thread.start()
    assert asking.wait(20)
    lab.sender.stream_meta('{"a": 1}', "s").ok()
    thread.join(20)
    assert found == [{"a": 1}]


PROGRAM = """
import sys
import asapo_producer
endpoint, token, source, wait = sys.argv[1:]
producer = asapo_producer.create_producer(
    endpoint, "processed", "bt1", "auto", source, token, 1, 30_000
)
for number in range(1, 301):
    producer.send(number, f"processed/{number}", b"x", ingest_mode=9, stream="s")
if wait == "yes":
    producer.wait_requests_finished(30_000)
"""


def test_a_program_that_waits_has_sent_everything(lab: Lab) -> None:
    done = run_program(lab.node.endpoint, lab.token, lab.source, "yes")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert lab.consumer().get_current_size("s") == 300


def test_a_program_that_ends_at_once_is_told_what_it_lost() -> None:
    begin = time.monotonic()
    done = run_program(NOWHERE, "T", "s", "no")
    assert time.monotonic() - begin < 25
    assert (done.returncode, done.stderr) == (0, "")
    last = json.loads(done.stdout.splitlines()[-1])
    assert "300 messages were not sent" in last["message"]


def run_program(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "beamstream.compat", "-c", PROGRAM, *args],
        capture_output=True,
        text=True,
        env=os.environ,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("endpoint", ["", "https://localhost:1", "a b:1", "localhost:99999"])
def test_endpoints_that_are_none_are_refused_at_once(endpoint: str) -> None:
    with pytest.raises(AsapoWrongInputError, match="not an address"):
        unheard(endpoint=endpoint)


def test_a_line_end_behind_a_token_is_named() -> None:
    producer = asapo_producer.create_producer(NOWHERE, "processed", "bt1", "auto", "s", "T\n", 1, 0)
    producer.set_log_level("none")
    with pytest.raises(AsapoProducerError, match="line end behind a token"):
        producer.get_stream_info("s", 0)
    producer.cleanup()

"""ASAPO's own clients, each in a process of its own.

They share no descriptors with the rest of a test that way: code that closes a descriptor once too
often when its server dies would hit somebody else's socket. Requests and answers are lines of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self, TextIO

from beamstream.store.files import digest_of
from beamstream.testing.checker import metadata, payload

from .raw import BEAMTIME, SOURCE, Target

_NEVER_S = 300.0


class Official:
    """A client in a process of its own; `kind` is ``producer`` or ``consumer``."""

    def __init__(self, kind: str, target: Target, timeout_ms: int) -> None:
        top = Path(__file__).parents[len(__name__.split(".")) - 1]
        path = os.pathsep.join(filter(None, [str(top), os.environ.get("PYTHONPATH", "")]))
        # The calls that are to work are old ones to the libraries, which say so each time.
        python = [sys.executable, "-W", "ignore", "-m", __name__]
        self._process = subprocess.Popen(
            [*python, kind, target.endpoint, target.token, str(timeout_ms)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def __call__(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the official client has died"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --------------------------------------------------------------------------- in the other process


class _Producer:
    def __init__(self, endpoint: str, token: str, timeout_ms: int) -> None:
        import asapo_producer

        self._library = asapo_producer
        self._producer = asapo_producer.create_producer(
            endpoint, "processed", BEAMTIME, "auto", SOURCE, token, 1, timeout_ms
        )
        self._producer.set_log_level("none")

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a message and tell how that ended: ``ok``, ``unknown`` or ``fail``."""
        ended = threading.Event()
        answer: dict[str, Any] = {"outcome": "fail", "error": "no callback"}

        def callback(_: Any, error: Any) -> None:
            answer.update(self._outcome(error))
            ended.set()

        seed, key = request["seed"], request["key"]
        self._producer.send(
            request["id"],
            request["name"],
            payload(seed, key, request["nbytes"]),
            metadata(seed, key),
            ingest_mode=request["mode"],
            stream=request["stream"],
            callback=callback,
        )
        ended.wait(_NEVER_S)
        return answer

    def _outcome(self, error: Any) -> dict[str, Any]:
        library = self._library
        again = isinstance(error, library.AsapoServerWarning) and "duplicate" in str(error)
        if error is None or again:
            return {"outcome": "ok", "error": ""}
        late = isinstance(error, library.AsapoTimeOutError)
        return {"outcome": "unknown" if late else "fail", "error": str(error)}


class _Consumer:
    def __init__(self, endpoint: str, token: str, timeout_ms: int) -> None:
        import asapo_consumer

        self._library = asapo_consumer
        self._consumer = asapo_consumer.create_consumer(
            endpoint, "auto", False, BEAMTIME, SOURCE, token, timeout_ms
        )

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            result: dict[str, Any] = getattr(self, f"_{request.pop('do')}")(**request)
            return result
        except self._library.AsapoConsumerError as error:
            return {"error": type(error).__name__, "text": str(error)}

    def _next(self, group: str, stream: str, by_id: bool, lease_ms: int) -> dict[str, Any]:
        self._consumer.set_resend_nacs(True, lease_ms, 0)
        data, record = self._consumer.get_next(group, meta_only=False, stream=stream, ordered=by_id)
        digest = digest_of(data.tobytes()).hex()
        return {"id": record["_id"], "meta": record["meta"], "digest": digest}

    def _ack(self, group: str, stream: str, id: int) -> dict[str, Any]:
        self._consumer.acknowledge(group, id, stream=stream)
        return {}

    def _read(self, record: dict[str, Any]) -> dict[str, Any]:
        return {"digest": digest_of(self._consumer.retrieve_data(record).tobytes()).hex()}


def _serve(out: TextIO, kind: str, endpoint: str, token: str, timeout_ms: str) -> None:
    make = _Producer if kind == "producer" else _Consumer
    client: _Producer | _Consumer = make(endpoint, token, int(timeout_ms))
    for line in sys.stdin:
        out.write(json.dumps(client.answer(json.loads(line))) + "\n")
        out.flush()


if __name__ == "__main__":
    # The libraries log to stdout; that is for the answers alone.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _serve(answers, *sys.argv[1:])

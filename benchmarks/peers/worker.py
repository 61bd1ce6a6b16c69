"""Worker: producer or consumer of a peer, told what by lines of JSON, in the peer's Python.

It connects, says "ready", and answers each request: a phase, with what it did and when.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.peers.interface import Receiver, Sender
from benchmarks.peers.traffic import Phase, payload, take

Answer = Callable[[dict[str, Any]], dict[str, Any]]


def producing(sender: Sender, size: int) -> Answer:
    """Return what sends a phase."""

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        phase = Phase(size, request["count"], request["seconds"], request["rate"])
        first = time.monotonic()
        sender.send(phase.turns())
        return {"count": phase.sent, "first": first, "last": time.monotonic()}

    return answer


def consuming(receiver: Receiver, size: int) -> Answer:
    """Return what takes a phase."""
    messages = receiver.messages()

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        expected = payload(size) if request["compared"] else b""
        timed = bool(request["rate"])
        count, delays = take(messages, size, timed=timed, expected=expected)
        receiver.settle()
        return {"count": count, "last": time.monotonic(), "delays_ns": delays}

    return answer


def main() -> None:
    """Serve requests until there are no more."""
    try:
        settings = json.loads(sys.argv[1])
        peer = importlib.import_module(f"benchmarks.peers.{settings['peer']}")
        size, address = int(settings["size"]), settings["address"]
        if settings["role"] == "produce":
            answer = producing(peer.sender(address, payload(size)), size)
        else:
            answer = consuming(peer.receiver(address, size), size)
        _say("ready")
        for line in sys.stdin:
            before = _cpu_s()
            found = answer(json.loads(line))
            _say(json.dumps(found | {"cpu_s": _cpu_s() - before}))
    except Exception as error:  # noqa: BLE001 - whatever it is, the bench has to report it
        _say(json.dumps({"error": f"{type(error).__name__}: {error}"}))
    # Libraries with threads of their own may wait for something that never comes.
    os._exit(0)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()

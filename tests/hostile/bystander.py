"""Somebody who only wants to work while others misbehave."""

from __future__ import annotations

import threading
import time
from typing import Any

from compat.doors import Doors, until
from compat.wire import Reply, Tcp


class Bystander:
    """Sends and reads back messages all the time; notices errors and long waits.

    Its connections stay the same: they were there before the attack and have to be there after it.
    """

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self.count = 0
        self.longest_s = 0.0
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            with (
                self._doors.receiver("bystander") as receiver,
                self._doors.http() as http,
            ):
                data_server: Tcp | None = None
                while not self._stop.wait(0.02):
                    id = self.count + 1
                    begin = time.monotonic()
                    payload = b"%d" % id * 100
                    assert receiver.put(id, payload) == Reply(2, 0, "")
                    base = self._doors.base("s", "bystander")
                    answer = http.get(f"{base}/g/next{self._doors.query(id_key='_id')}")
                    assert answer.status == 200, answer
                    record: dict[str, Any] = answer.json
                    assert record["_id"] == id
                    if data_server is None:
                        host, _, port = record["source"].rpartition(":")
                        data_server = Tcp((host, int(port)))
                    assert data_server.fetch(record["buf_id"], record["size"])[1] == payload
                    self.longest_s = max(self.longest_s, time.monotonic() - begin)
                    self.count = id
                if data_server is not None:
                    data_server.close()
        except BaseException as failure:
            self._failure = failure

    def check(self, rounds: int = 2, longest_s: float = 3.0) -> None:
        """Wait for some more rounds; fail if one failed or took too long."""
        wanted = self.count + rounds
        until(lambda: self.count >= wanted or self._failure, "the bystander goes on working")
        if self._failure:
            raise AssertionError("the bystander was disturbed") from self._failure
        assert self.longest_s < longest_s, f"the bystander waited {self.longest_s:.1f} s"

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(15)

"""A node under the recorder, used by several clients at once; all that it is asked is noted."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from beamstream.store.files import digest_of
from beamstream.testing.checker import metadata, payload, payload_nbytes
from beamstream.testing.node import NodeProcess
from beamstream.wire.asapo.structs import Code

from ..raw import CACHE_MODE, RawConsumer, RawProducer, Target
from .promises import Promises, Sent
from .recording import Recording

GROUP = "online"
LEASE_MS = 60_000
CACHE = "16MiB"
FINISH_NAME = "asapo_finish_stream"


class Workload:
    """Sends `messages` on each of three connections, reads and acknowledges one stream.

    Parameters
    ----------
    recording : of the node's folder.
    """

    def __init__(self, recording: Recording, seed: int, messages: int) -> None:
        self.recording = recording
        self.seed = seed
        self.messages = messages
        self.promises = Promises()
        self._lock = threading.Lock()
        self._stored = threading.Semaphore(0)
        self._answered = threading.Condition()
        self._answers = 0
        self._next_id: dict[str, int] = {}
        self._acked: set[int] = set()
        self._killed = False
        self._errors: list[BaseException] = []

    def run(self, node: NodeProcess, kill_after: int = 0) -> None:
        """Start the node, let all clients work, and stop it.

        With `kill_after` it is killed after so many answers, started again, and the clients go on
        with what was not answered.
        """
        if kill_after:
            threads = self._start(node)
            with self._answered:
                self._answered.wait_for(lambda: self._answers >= kill_after or self._errors, 60)
            self._killed = True
            node.kill()
            self._join(threads)
            self.recording.killed()
            self._killed = False
        self._join(self._start(node))
        node.terminate()

    def _start(self, node: NodeProcess) -> list[threading.Thread]:
        node.start()
        target = Target(node)
        self.promises.key = (node.data / "key").read_bytes()
        work: list[Callable[[], None]] = [
            lambda: self._send(target, "small", 1_000, 5_000, "small/{0}"),
            lambda: self._send(target, "large", 5_000, 150_000, "large/{0}"),
            lambda: self._send(target, "folders", 1_000, 9_000, "f{0}/a/{0}"),
            lambda: self._send(target, "same folders", 1_000, 2_000, "f{0}/a/s{0}"),
            # Larger than what the cache takes: written as it comes.
            lambda: self._send(target, "huge", 2_200_000, 2_400_000, "huge/{0}", 2),
            lambda: self._send_to_cache(target),
            lambda: self._read(target),
        ]
        threads = [threading.Thread(target=self._guarded, args=(one,)) for one in work]
        for thread in threads:
            thread.start()
        return threads

    def _join(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), "a client hangs"
        if self._errors:
            raise self._errors[0]

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised again by `_join`
            if not (self._killed and isinstance(error, OSError)):
                with self._answered:
                    self._errors.append(error)
                    self._answered.notify_all()

    def _note(self, port: int, sent: Sent) -> None:
        with self._lock:
            self.promises.add(port, sent)

    def _one_more(self) -> None:
        with self._answered:
            self._answers += 1
            self._answered.notify_all()

    def _send(
        self, target: Target, stream: str, lo: int, hi: int, name: str, messages: int = 0
    ) -> None:
        seed = self.seed + len(stream)
        last = messages or self.messages
        with RawProducer(target) as producer:
            self._note(producer.port, Sent(""))  # the login
            for id in range(self._next_id.get(stream, 1), last + 1):
                data = payload(seed, id, payload_nbytes(seed, id, lo, hi))
                meta = metadata(seed, id)
                path = f"processed/{name.format(id)}"
                text = json.dumps(meta).encode()
                self._note(
                    producer.port,
                    Sent("put", stream, id, path, len(data), digest_of(data), text),
                )
                reply = producer.put(id, path, data, meta, stream=stream)
                assert reply.code in (Code.SUCCESS, Code.WARNING), reply
                self._next_id[stream] = id + 1
                self._one_more()
                if stream == "small":
                    self._stored.release()
            self._note(producer.port, Sent("finish", stream, last))
            meta = {"next_stream": "asapo_no_next"}
            reply = producer.put(last + 1, FINISH_NAME, b"", meta, stream=stream, mode=2)
            assert reply.code in (Code.SUCCESS, Code.WARNING), reply

    def _send_to_cache(self, target: Target) -> None:
        """Messages that promise nothing about the disk, between the others."""
        with RawProducer(target) as producer:
            for id in range(1, self.messages + 1):
                data, meta = payload(self.seed, id, 2_000), metadata(self.seed, id)
                reply = producer.put(id, f"c/{id}", data, meta, stream="cached", mode=CACHE_MODE)
                assert reply.code in (Code.SUCCESS, Code.WARNING), reply

    def _read(self, target: Target) -> None:
        with RawConsumer(target) as consumer:
            consumer.http.connect()
            while len(self._acked) < self.messages:
                self._note(consumer.port, Sent(""))
                status, record = consumer.next(GROUP, "small", lease_ms=LEASE_MS)
                if status == 409:
                    self._stored.acquire(timeout=1.0)
                    if self._errors or self._killed:
                        return
                    continue
                assert status == 200, record
                sent = Sent("ack", "small", record["_id"], group=GROUP)
                self._note(consumer.port, sent)
                status, text = consumer.ack(GROUP, "small", record["_id"])
                assert status == 200 or "already acknowledged" in text, text
                self._acked.add(record["_id"])
                self._one_more()


def record_node(
    library: Path,
    folder: Path,
    seed: int,
    messages: int,
    *,
    kill_after: int = 0,
    module: str = "beamstream.cli.main",
    env: Mapping[str, str] | None = None,
) -> Workload:
    """Record a node that starts on a new folder, works, and stops (see `Workload.run`)."""
    root = folder / "root"
    root.mkdir()
    # The data folder is made by the node, so that making it is recorded, too.
    recording = Recording(library, root, folder / "record")
    workload = Workload(recording, seed, messages)
    node = NodeProcess(
        recording.root / "data",
        cache=CACHE,
        durability="disk",
        env={**recording.env, **(env or {})},
        module=module,
    )
    node.log = folder / "log"
    try:
        workload.run(node, kill_after)
    finally:
        node.kill()
    return workload

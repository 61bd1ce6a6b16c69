"""The fault tests notice faults: nodes with a planted one are caught by the same checks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from beamstream.model import Level
from beamstream.testing.checker import History, Verdict, verify
from beamstream.testing.node import NodeProcess
from beamstream.wire.asapo.structs import Code

from . import sabotage
from .killing import kill_rounds
from .power_loss.disk import Model
from .power_loss.workload import record_node
from .raw import RawProducer, Target
from .readback import read_back
from .sabotage import FAULTS, sabotaged
from .test_answer_byte import killed_on_first_byte
from .test_power_loss import replay_node

pytestmark = [
    pytest.mark.system,
]

STREAM = "s"

CAUGHT_BY_POWER_LOSS = {
    sabotage.payload_not_synced: (Model.EXT4, {"file lost", "partial file"}),
    sabotage.folder_not_synced: (Model.STRICT, {"file lost"}),
    sabotage.record_not_synced: (Model.EXT4, {"record lost"}),
    sabotage.nothing_synced: (Model.EXT4, {"record lost", "partial file"}),
    sabotage.answers_before_the_sync: (Model.EXT4, {"record lost"}),
    sabotage.answers_on_arrival: (Model.EXT4, {"record lost"}),
    sabotage.forgets_acknowledgements: (Model.EXT4, {"acknowledgement lost"}),
}


@pytest.mark.parametrize("fault", CAUGHT_BY_POWER_LOSS, ids=lambda fault: fault.__name__)
def test_power_cuts_tell(
    library: Path, scratch: Path, seed: int, fault: Callable[[], None]
) -> None:
    workload = record_node(library, scratch, seed, messages=3, **sabotaged(fault))
    model, kinds = CAUGHT_BY_POWER_LOSS[fault]
    report = replay_node(workload, model, seed, stop_at_bad=30)
    assert kinds & report.kinds.keys(), str(report)


def test_a_kill_on_the_answer_tells_of_an_early_one(tmp_path: Path, seed: int) -> None:
    fault = sabotaged(sabotage.answers_on_arrival)
    with NodeProcess(tmp_path / "data", cache="16MiB", **fault) as node:
        verdict = killed_on_first_byte(node, Level.DISK, seed, sizes=(1_000_000,) * 4)
        print(verdict)
        assert verdict.counts["lost"], str(verdict)
        node.kill()


def test_random_kills_tell_of_an_early_answer(tmp_path: Path, seed: int) -> None:
    verdict = _random_kills(tmp_path, seed, sabotage.answers_on_arrival, kills=10)
    assert verdict.counts["lost"], str(verdict)


def test_random_kills_tell_of_dropped_messages(tmp_path: Path, seed: int) -> None:
    verdict = _random_kills(tmp_path, seed, sabotage.drops_messages, kills=2)
    assert verdict.counts["lost"], str(verdict)


def test_random_kills_tell_of_forgotten_acknowledgements(tmp_path: Path, seed: int) -> None:
    verdict = _random_kills(tmp_path, seed, sabotage.forgets_acknowledgements, kills=3)
    assert verdict.counts["acked_redelivered"] or verdict.counts["skipped"], str(verdict)


def _random_kills(tmp_path: Path, seed: int, fault: Callable[[], None], *, kills: int) -> Verdict:
    with NodeProcess(tmp_path / "data", cache="16MiB", **sabotaged(fault)) as node:
        verdict = kill_rounds(node, seconds=0, seed=seed, kills=kills)
        print(verdict)
        node.kill()
    return verdict


def test_the_checker_tells_of_swapped_payloads(tmp_path: Path, seed: int) -> None:
    """Two producers send messages of one size at the same time."""
    fault = sabotaged(sabotage.swaps_payloads)
    history = History(seed)
    with NodeProcess(tmp_path / "data", cache="16MiB", **fault) as node:
        target = Target(node)

        def send(first: int) -> None:
            with RawProducer(target) as producer:
                for id in range(first, 21, 2):
                    name = f"processed/{id}"
                    call = history.put(
                        f"raw {first}", STREAM, id, nbytes=4000, level=Level.DISK, name=name
                    )
                    data, meta = history.payload_of(call), history.metadata_of(call)
                    assert producer.put(id, name, data, meta, stream=STREAM).code == Code.SUCCESS
                    history.ok(call)

        threads = [threading.Thread(target=send, args=(first,)) for first in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        verdict = verify(history, read_back(node, [STREAM]))
        node.kill()
    print(verdict)
    # Each message twice: as a record and as a file.
    assert verdict.counts == {"corrupt": 40}, str(verdict)


def test_every_planted_fault_is_tried_here() -> None:
    source = Path(__file__).read_text()
    assert [name for name in FAULTS if f"sabotage.{name}" not in source] == []

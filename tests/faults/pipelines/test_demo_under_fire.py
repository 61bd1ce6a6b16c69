"""The demo's pipeline while its workers are killed: every frame accounted for, every hit once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from typing import NamedTuple

import pytest

from beamstream.cli.demo_feed import simulated
from beamstream.cli.demo_pipeline import PipelineDemo

pytestmark = pytest.mark.system

SHAPE = (1024, 1024)
FRAME_NBYTES = SHAPE[0] * SHAPE[1] * 2


class Fire(NamedTuple):
    """How long, how many frames per second, and how often a worker is killed, seconds."""

    seconds: float
    rate_hz: float
    every_s: float


SHORT = Fire(seconds=12, rate_hz=40, every_s=1.5)
LONG = Fire(
    seconds=float(os.environ.get("FIRE_SECONDS", "600")),
    rate_hz=float(os.environ.get("FIRE_RATE", "80")),
    every_s=5,
)


@pytest.mark.parametrize(
    "fire",
    [
        pytest.param(SHORT, id="short", marks=pytest.mark.timeout(240)),
        pytest.param(
            LONG, id="long", marks=[pytest.mark.long, pytest.mark.timeout(LONG.seconds + 600)]
        ),
    ],
)
def test_every_frame_is_accounted_for_and_every_hit_is_there_once(fire: Fire, seed: int) -> None:
    chance = random.Random(seed)
    killed = 0
    never = threading.Event()
    with PipelineDemo(
        simulated(SHAPE), rate_hz=fire.rate_hz, store=False, frame_nbytes=FRAME_NBYTES
    ) as demo:
        ends = time.monotonic() + fire.seconds
        while time.monotonic() < ends:
            never.wait(fire.every_s)
            demo.check()
            workers = [pid for row in demo.snapshot().steps for pid in row.pids if pid]
            if workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(workers), signal.SIGKILL)
                    killed += 1
        end_s = demo.finish()
        frames = demo.feed.figures.frames
        links = demo.chain.steps
        assert demo.chain.check() == []
        told = {
            link.name: f"{len(link.ids)} + {link.skipped} skipped, "
            f"p50 {link.out.delays.quantile(0.5):.1f} p99 {link.out.delays.quantile(0.99):.1f} ms"
            for link in links
        }
        rate = frames / (end_s - demo.begin_s)
        print(f"{killed} kills, {frames} frames, {rate:.1f}/s, {demo.feed.waited_s:.1f} s waited")
        print(told)
        assert killed >= fire.seconds / fire.every_s / 2
        assert frames > 0.2 * fire.seconds * fire.rate_hz
        assert [link.dead for link in links] == [0] * len(links)
        assert [link.twice for link in links] == [0] * len(links)

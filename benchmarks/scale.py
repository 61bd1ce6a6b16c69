"""``python -m benchmarks.scale``: memory while data flow, and reading in long streams.

Memory: ten times the cache flows through a node with a small cache, in several sizes and modes,
with a reader beside; its resident memory, the cache's shared memory included, stays below the
cache and 150 MB. Long streams: ``get_next`` and ``get_by_id`` by the official consumer on a stream
of a million messages take at most 1.5 times what they take on one of a thousand. The streams are
written directly by `beamstream.store.catalog`, before the node starts. Exit status 1 if either
does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from beamstream.model import NO_META, Level, Place
from beamstream.settings import parse_size
from beamstream.store.catalog import Put, Stored
from beamstream.store.catalog.sqlite import SqliteCatalog
from beamstream.store.folder import DataFolder
from beamstream.testing.node import NodeProcess
from benchmarks import machine
from benchmarks.__main__ import RESULTS
from benchmarks.measure import BEAMTIME, CACHE_ONLY, DEFAULT
from benchmarks.plan import KB, MB, show_size
from benchmarks.workers import Worker

OVERHEAD_MB: Final = 150
TIMES_THE_CACHE: Final = 10
RATIO_MAX: Final = 1.5
SMALL: Final = 1_000
LARGE: Final = 1_000_000
SOURCE: Final = "scale"

_FLOWS: Final = (
    (100 * KB, CACHE_ONLY),
    (MB, CACHE_ONLY),
    (4 * MB, CACHE_ONLY),
    (MB, DEFAULT),
    (16 * MB, DEFAULT),
)
"""Size and ingest mode; the last one is above what the cache takes and goes to disk directly."""

_SMALL_MESSAGES: Final = 100_000
_BATCH: Final = 5_000
_ROUNDS: Final = 7
_CALLS: Final = 300


def check_memory(folder: Path, cache: str, times: int) -> list[dict[str, Any]]:
    """Let `times` the cache flow through a node in every size; return its peaks in MB."""
    nbytes = parse_size(cache)
    flows = [(KB, CACHE_ONLY, _SMALL_MESSAGES * times // TIMES_THE_CACHE)]
    flows += [(size, mode, times * nbytes // size + 1) for size, mode in _FLOWS]
    found = []
    with NodeProcess(folder / "memory", cache=cache, durability="os") as node:
        before = node.rss_nbytes()
        for number, (size, mode, count) in enumerate(flows):
            access = {"endpoint": node.endpoint, "token": node.token(BEAMTIME),
                      "beamtime": BEAMTIME, "source": f"flow{number}", "stream": "s"}  # fmt: skip
            with (
                Worker(
                    "produce", **access, size=size, peers=4, count=count, ingest_mode=mode
                ) as producer,
                Worker(
                    "consume",
                    **access,
                    size=size,
                    with_data=False,
                    ordered=False,
                    group="readers",
                    count=count,
                ) as consumer,
            ):
                producer.ready()
                consumer.ready().go()
                producer.go()
                producer.result()
                consumer.result()
            peak_mb = node.peak_rss_nbytes() / MB
            found.append({
                "flow": f"{count} x {show_size(size)}, mode {mode}",
                "peak_mb": peak_mb,
                "limit_mb": nbytes / MB + OVERHEAD_MB,
                "start_mb": before / MB,
                "met": peak_mb <= nbytes / MB + OVERHEAD_MB,
            })  # fmt: skip
    return found


def fill(data: Path, counts: Sequence[int]) -> float:
    """Write streams ``s<count>`` of so many messages without payload; return the seconds."""
    started = time.monotonic()
    catalog = SqliteCatalog(DataFolder(data, create=True).catalog)
    try:
        for count in counts:
            for lo in range(1, count + 1, _BATCH):
                ids = range(lo, min(lo + _BATCH, count + 1))
                results = catalog.apply(BEAMTIME, [_put(f"s{count}", id) for id in ids])
                assert all(isinstance(result, Stored) for result in results)
        catalog.sync(BEAMTIME)
    finally:
        catalog.close()
    return time.monotonic() - started


def _put(stream: str, id: int) -> Put:
    now_ns = time.time_ns()
    return Put(
        source=SOURCE,
        stream=stream,
        id=id,
        name=f"processed/{stream}/{id}",
        size=0,
        digest=b"",
        meta=NO_META,
        timestamp_ns=now_ns,
        arrived_ns=now_ns,
        mode=CACHE_ONLY,
        level=Level.DISK,
        place=Place.NOWHERE,
    )


def check_long_streams(folder: Path, large: int) -> list[dict[str, Any]]:
    """Compare reading in a stream of `large` messages with one of a thousand."""
    data = folder / "long"
    seconds = fill(data, (SMALL, large))
    print(f"filled {SMALL + large} messages in {seconds:.0f} s", file=sys.stderr)
    with NodeProcess(data, cache="64MiB") as node:
        access = {"endpoint": node.endpoint, "token": node.token(BEAMTIME), "beamtime": BEAMTIME}
        with Worker("calls", **access, source=SOURCE, small=SMALL, large=large, rounds=_ROUNDS,
                    calls=_CALLS) as worker:  # fmt: skip
            worker.ready().go()
            times = worker.result()["times"]
    found = []
    for what, (short_us, long_us) in times.items():
        # Each round did both, one right after the other.
        ratio = median(b / a for a, b in zip(short_us, long_us, strict=True))
        found.append({"call": what, "short_us": median(short_us), "long_us": median(long_us),
                      "ratio": ratio, "limit": RATIO_MAX, "met": ratio <= RATIO_MAX})  # fmt: skip
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--cache", default="64MiB", metavar="SIZE")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), metavar="DIR")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    options = parser.parse_args(arguments)
    scale = 10 if options.quick else 1
    with tempfile.TemporaryDirectory(prefix="scale-", dir=options.folder) as name:
        folder = Path(name)
        settings = {"cache": options.cache, **machine.describe(folder)}
        memory = check_memory(folder, options.cache, TIMES_THE_CACHE // scale)
        streams = check_long_streams(folder, LARGE // scale)
    for key, value in settings.items():
        print(f"{key:<12} {value}")
    for one in memory:
        print(
            f"{one['flow']:<24} peak {one['peak_mb']:.0f} MB, allowed {one['limit_mb']:.0f}, "
            f"at start {one['start_mb']:.0f}  {_verdict(one)}"
        )
    for one in streams:
        print(
            f"{one['call']:<24} {one['short_us']:.0f} us of {SMALL}, {one['long_us']:.0f} us of "
            f"{LARGE // scale}: {one['ratio']:.2f}, allowed {one['limit']}  {_verdict(one)}"
        )
    if options.quick:
        print("NOT FOR FIGURES: QUICK RUN")
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / time.strftime("scale-%Y-%m-%dT%H-%M-%SZ.json", time.gmtime())
    document = {"settings": settings, "quick": options.quick, "memory": memory, "streams": streams}
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(path)
    return 0 if all(one["met"] for one in memory + streams) else 1


def _verdict(one: dict[str, Any]) -> str:
    return "met" if one["met"] else "MISSED"


if __name__ == "__main__":
    sys.exit(main())

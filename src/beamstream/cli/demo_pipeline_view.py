"""What the demo shows of its pipeline: a row for each step, and whether all counts agree."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from beamstream import limits

if TYPE_CHECKING:
    from beamstream.cli.demo_chain import Link
    from beamstream.cli.demo_pipeline import PipelineDemo
    from beamstream.worker.pipelines.running import StepRow


def line(running: PipelineDemo) -> str:
    """Return one line for now."""
    frames, nbytes = running.feed.figures.rates()
    parts = [
        f"{time.monotonic() - running.begin_s:6.0f} s  detector {frames:.1f}/s "
        f"{nbytes / 1e6:.1f} MB/s"
    ]
    for link, row in zip(running.chain.steps, running.snapshot().steps, strict=True):
        name, workers, came, went, megabytes, p50, p99, lag, failed = _cells(link, row)
        parts.append(
            f"{name} x{workers} {came}/s -> {went}/s {megabytes} MB/s delay p50 {p50} p99 {p99} ms "
            f"lag {lag} failed {failed}"
        )
    return " | ".join(parts)


def table(running: PipelineDemo) -> Any:
    """Return the table for now."""
    from rich.table import Table

    node = running.node
    table = Table(
        title=f"Beamstream demo: pipeline {running.plan.name!r} at {node.endpoint}",
        caption=f"node: {node.rss_nbytes() / limits.MIB:.0f} MiB, {node.cpu_s():.1f} CPU s"
        " · delays since the detector · Ctrl-C ends it",
    )
    table.add_column("step")
    for title in ("workers", "in/s", "out/s", "MB/s", "p50 / ms", "p99 / ms", "lag", "failed"):
        table.add_column(title, justify="right")
    frames, nbytes = running.feed.figures.rates()
    table.add_row("detector", "", "", f"{frames:.1f}", f"{nbytes / 1e6:.1f}", "", "", "", "")
    for link, row in zip(running.chain.steps, running.snapshot().steps, strict=True):
        table.add_row(*_cells(link, row))
    return table


def _cells(link: Link, row: StepRow) -> tuple[str, ...]:
    frames, nbytes = link.out.rates()
    p50, p99 = ("-" if math.isnan(q) else f"{q:.1f}" for q in link.out.recent_quantiles())
    return (
        link.name,
        str(row.running),
        f"{row.figures.in_hz:.1f}",
        f"{frames:.1f}",
        f"{nbytes / 1e6:.1f}",
        p50,
        p99,
        str(row.figures.behind),
        str(row.figures.failed),
    )


def document(running: PipelineDemo, end_s: float, rate_hz: float, store: bool) -> dict[str, Any]:
    """Return all figures, fit for JSON."""
    steps = running.chain.document(end_s)
    for row in running.snapshot().steps:
        steps[row.name] |= {"workers": row.wanted, "restarts": row.restarts}
    return {
        "seconds": round(end_s - running.begin_s, 3),
        "rate_hz": rate_hz,
        "stored": store,
        "sent": {
            **running.feed.figures.document(end_s),
            "with_spots": running.feed.with_spots,
            "waited_s": round(running.feed.waited_s, 3),
        },
        "steps": steps,
        "problems": running.chain.check(),
        "node": {
            "cpu_s": round(running.node.cpu_s(), 2),
            "peak_rss_mb": round(running.node.peak_rss_nbytes() / 1e6, 1),
        },
    }


def summary(document: dict[str, Any]) -> str:
    """Return what people are told at the end."""
    sent = document["sent"]
    spots = ""
    if sent["with_spots"] is not None:
        spots = f"; {sent['with_spots']} of them with Bragg spots"
    lines = [
        f"{sent['frames']} frames in {document['seconds']:.1f} s: {sent['frames_per_s']:.1f}/s, "
        f"{sent['mb_per_s']:.1f} MB/s{spots}."
    ]
    if sent["waited_s"] >= 1:
        why = f"this machine does not sustain {document['rate_hz']:g}/s"
        if any(step["restarts"] for step in document["steps"].values()):
            why = "workers had died"
        lines.append(f"The detector waited {sent['waited_s']:.0f} s for the pipeline: {why}.")
    for name, step in document["steps"].items():
        delays = ""
        if "delay_ms_p50" in step:
            delays = (
                f", p50 {step['delay_ms_p50']:.1f} ms and p99 {step['delay_ms_p99']:.1f} ms after "
                "the detector"
            )
        without = [
            f"{step[what]} {what}"
            for what in ("skipped", "failed", "twice", "restarts")
            if step[what]
        ]
        told = f" ({', '.join(without)})" if without else ""
        lines.append(f"Step {name} gave {step['frames']} frames{told}{delays}.")
    if document["problems"]:
        lines += [f"This is wrong: {problem}." for problem in document["problems"]]
    else:
        lines.append("All counts agree along the chain; each hit is there exactly once.")
    node = document["node"]
    lines.append(f"The node used {node['cpu_s']:.1f} CPU s and {node['peak_rss_mb']:.0f} MB.")
    return "\n".join(lines)


def status(document: dict[str, Any]) -> int:
    """Return the exit status: 1 when counts do not agree."""
    return 1 if document["problems"] else 0

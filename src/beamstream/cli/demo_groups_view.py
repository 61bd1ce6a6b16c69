"""What the demo of ASAPO's protocol shows: a row for each group."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from beamstream import limits

if TYPE_CHECKING:
    from beamstream.cli.demo_run import Demo, Group


def line(running: Demo) -> str:
    """Return one line for now."""
    frames, nbytes = running.feed.figures.rates()
    parts = [
        f"{time.monotonic() - running.begin_s:6.0f} s  detector {frames:.1f}/s "
        f"{nbytes / 1e6:.1f} MB/s"
    ]
    for group in running.groups:
        name, rate, megabytes, p50, p99, lag = _cells(running, group)
        parts.append(f"{name} {rate}/s {megabytes} MB/s delay p50 {p50} p99 {p99} ms lag {lag}")
    return " | ".join(parts)


def table(running: Demo) -> Any:
    """Return the table for now."""
    from rich.table import Table

    node = running.node
    table = Table(
        title=f"Beamstream demo: node at {node.endpoint}",
        caption=f"node: {node.rss_nbytes() / limits.MIB:.0f} MiB, {node.cpu_s():.1f} CPU s"
        " · Ctrl-C ends it with a summary",
    )
    table.add_column("who")
    for title in ("frames/s", "MB/s", "delay p50 / ms", "p99 / ms", "lag / frames"):
        table.add_column(title, justify="right")
    frames, nbytes = running.feed.figures.rates()
    table.add_row("detector", f"{frames:.1f}", f"{nbytes / 1e6:.1f}", "", "", "")
    for group in running.groups:
        table.add_row(*_cells(running, group))
    return table


def _cells(running: Demo, group: Group) -> tuple[str, ...]:
    frames, nbytes = group.figures.rates()
    p50, p99 = ("-" if math.isnan(q) else f"{q:.1f}" for q in group.figures.recent_quantiles())
    return (
        group.figures.name,
        f"{frames:.1f}",
        f"{nbytes / 1e6:.1f}",
        p50,
        p99,
        str(running.lag(group)),
    )


def document(running: Demo, end_s: float, rate_hz: float, store: bool) -> dict[str, Any]:
    """Return all figures, fit for JSON."""
    groups = {}
    for group in running.groups:
        groups[group.figures.name] = {
            **group.figures.document(end_s),
            "lag": running.lag(group),
            "lost": group.figures.lost,
            "damaged": group.figures.damaged,
        }
    return {
        "seconds": round(end_s - running.begin_s, 3),
        "rate_hz": rate_hz,
        "stored": store,
        "sent": running.feed.figures.document(end_s),
        "groups": groups,
        "node": {
            "cpu_s": round(running.node.cpu_s(), 2),
            "peak_rss_mb": round(running.node.peak_rss_nbytes() / 1e6, 1),
        },
    }


def summary(document: dict[str, Any]) -> str:
    """Return what people are told at the end."""
    sent = document["sent"]
    lines = [
        f"{sent['frames']} frames in {document['seconds']:.1f} s: {sent['frames_per_s']:.1f}/s, "
        f"{sent['mb_per_s']:.1f} MB/s."
    ]
    for name, group in document["groups"].items():
        delays = ""
        if "delay_ms_p50" in group:
            delays = (
                f", delay p50 {group['delay_ms_p50']:.1f} ms, p99 {group['delay_ms_p99']:.1f} ms"
            )
        whole = "all as they were sent" if not group["damaged"] else f"{group['damaged']} damaged"
        gone = f", {group['lost']} fell out of the cache before they were read"
        lines.append(
            f"Group {name} got {group['frames']}{delays}; {whole}{gone if group['lost'] else ''}."
        )
    node = document["node"]
    lines.append(f"The node used {node['cpu_s']:.1f} CPU s and {node['peak_rss_mb']:.0f} MB.")
    return "\n".join(lines)


def status(document: dict[str, Any]) -> int:
    """Return the exit status: 0, what was sent has been counted."""
    return 0

"""What a node has open."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from beamstream.testing.node import NodeProcess
from compat.doors import until


def descriptors(node: NodeProcess) -> list[str]:
    """What the node has open, sockets without their numbers.

    Left out are folders of beamtimes, of which it keeps a bounded number open, and its catalog,
    which each of its threads opens when it first reads there.
    """
    found = []
    for link in Path(f"/proc/{node.pid}/fd").iterdir():
        try:
            target = link.readlink()
        except FileNotFoundError:
            continue
        # Through the node's own root: it may have mounts that nobody else sees.
        seen = Path(f"/proc/{node.pid}/root{target}")
        if not (seen.is_dir() or target.parent == node.data / "catalog"):
            found.append(re.sub(r"socket:.*", "socket", str(target)))
    return found


def left_over(before: list[str], after: list[str]) -> list[str]:
    return sorted((Counter(after) - Counter(before)).elements())


def wait_for_descriptors(node: NodeProcess, before: list[str]) -> None:
    """Wait until no descriptor is open that was not before; fail naming those that are."""
    extra: list[str] = []

    def back() -> bool:
        extra[:] = left_over(before, descriptors(node))
        return not extra

    try:
        until(back, "descriptors are closed", seconds=10)
    except AssertionError:
        raise AssertionError(f"these were not open before: {extra}") from None

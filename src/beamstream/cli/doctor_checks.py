"""What is well and what is not: facts in, findings out. Pure."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

CLOCK_S_MAX: Final = 1.0
"""Beyond, times in searches and ranges, and the expiry of tokens, are not what one thinks."""

TCP_NBYTES_MIN: Final = 4 * 1024 * 1024
"""Largest socket buffer that the kernel should allow: 10 Gb/s times some milliseconds."""

FILES_MIN: Final = 1024
DISK_NBYTES_MIN: Final = 1024**3
TOKEN_S_MIN: Final = 24 * 3600.0
PINNED_SHARE_MAX: Final = 0.9
CONNECTIONS_SHARE_MAX: Final = 0.9


class Finding(NamedTuple):
    """One thing that was looked at.

    Parameters
    ----------
    ok : None where it does not matter or cannot be known.
    remedy : what to do if it is not.
    """

    name: str
    ok: bool | None
    detail: str
    remedy: str = ""


def version(node: str, here: str) -> Finding:
    """Whether node and client are of one version.

    >>> version("Beamstream 0.3.1", "0.3.0").ok, version("beamstream/0.4.0", "0.3.0").ok
    (True, False)
    >>> version("Beamstream", "0.3.0").ok is None
    True
    """
    found = re.search(r"\d+\.\d+[\w.+-]*", node)
    same = found and found[0].split(".")[:2] == here.split(".")[:2]
    detail = f"node {found[0] if found else 'does not say'}, here {here}"
    ok = None if same is None else bool(same)
    return Finding("version", ok, detail, "pip install --upgrade beamstream, on the older side")


def clock(offset_s: float) -> Finding:
    """Whether the clocks of node and client go alike.

    >>> clock(0.0013).detail, clock(-7).ok
    ('node is +1.3 ms from here', False)
    """
    ok = abs(offset_s) <= CLOCK_S_MAX
    return Finding(
        "clock offset",
        ok,
        f"node is {offset_s * 1000:+.1f} ms from here",
        "timedatectl set-ntp true, on both machines",
    )


def claims(token: str) -> dict[str, Any]:
    """What a token says of itself; unverified, and empty for one that is none of ours."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        text = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        found = json.loads(text)
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def token(said: Mapping[str, Any], access: Sequence[str], now_s: float) -> Finding:
    """What a token allows, and for how long.

    >>> token({"exp": 90_000}, ("read",), 0.0).detail
    'allows read; for 25.0 h more'
    """
    rights = ", ".join(access) or "nothing"
    expires = said.get("exp")
    if not isinstance(expires, int | float):
        return Finding("token", bool(access), f"allows {rights}", "beamstream token new")
    left_s = float(expires) - now_s
    days = f"{left_s / 86_400:.1f} days" if left_s > 48 * 3600 else f"{left_s / 3600:.1f} h"
    return Finding(
        "token",
        bool(access) and left_s > TOKEN_S_MIN,
        f"allows {rights}; for {days} more",
        "make a new one in time: beamstream token new --beamtime …",
    )


def shared_memory(
    arenas: str, *, reachable: bool, platform: str, environ: Mapping[str, str]
) -> Finding:
    """Whether frames come without a copy: only on the node's own machine.

    >>> shared_memory("", reachable=False, platform="linux", environ={}).ok is None
    True
    """
    name = "shared memory"
    if not platform.startswith("linux"):
        return Finding(name, None, "on Linux only; frames come by the socket")
    if environ.get("BEAMSTREAM_SHM") == "0":
        return Finding(name, None, "turned off by BEAMSTREAM_SHM=0; frames come by the socket")
    if not arenas:
        return Finding(name, None, "the node offers none here; frames come by the socket")
    return Finding(
        name,
        reachable,
        f"by {arenas}",
        f"let this user and container reach {arenas}, or set BEAMSTREAM_SHM=0",
    )


def tcp_buffers(limits: Mapping[str, int | None]) -> Finding:
    """Whether the kernel lets sockets have buffers that fill a fast line.

    Parameters
    ----------
    limits : largest nbytes by name of the kernel's setting; None where there is none.
    """
    known = {name: nbytes for name, nbytes in limits.items() if nbytes is not None}
    if not known:
        return Finding("kernel buffers", None, "this system does not tell")
    small = {name: nbytes for name, nbytes in known.items() if nbytes < TCP_NBYTES_MIN}
    said = ", ".join(f"{name} {nbytes}" for name, nbytes in (small or known).items())
    compared = f" < {TCP_NBYTES_MIN}" if small else ""
    remedy = "; ".join(f'sysctl -w {name}="4096 131072 {4 * TCP_NBYTES_MIN}"' for name in small)
    return Finding("kernel buffers", not small, said + compared, remedy)


def open_files(soft: int, hard: int) -> Finding:
    """Whether a program here may have enough connections."""
    return Finding(
        "open files", soft >= FILES_MIN, f"{soft} of {hard} may be open", f"ulimit -n {hard}"
    )


def disk(nbytes_free: int) -> Finding:
    """Whether the node has room for files and records."""
    return Finding(
        "disk of the node",
        nbytes_free >= DISK_NBYTES_MIN,
        f"{nbytes_free / 1e9:.1f} GB free",
        "remove streams (beamstream stream rm SOURCE/STREAM --files) or enlarge the disk",
    )


def cache(nbytes: int, pinned_nbytes: int) -> Finding:
    """Whether the node's cache has room for what comes next."""
    share = pinned_nbytes / nbytes if nbytes else 1.0
    return Finding(
        "cache of the node",
        share <= PINNED_SHARE_MAX,
        f"{nbytes / 1e9:.2f} GB, {share:.0%} held by writing and reading",
        "look for slow disks and readers (beamstream group ls), or beamstream up --cache 4GiB",
    )


def connections(count: int, count_max: int) -> Finding:
    """Whether the node takes further clients."""
    return Finding(
        "connections",
        count <= CONNECTIONS_SHARE_MAX * count_max,
        f"{count} of {count_max}",
        "close what is not needed: many clients share one connection",
    )

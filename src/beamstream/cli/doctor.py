"""`beamstream doctor`: looks at the way to a node, at the node and at this machine."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from beamstream.cli.options import ANY_NODE, Json, Node
from beamstream.cli.terminal import FAILED, UNREACHABLE, plain, print_json

if TYPE_CHECKING:
    from beamstream.cli.doctor_checks import Finding
    from beamstream.client.native.hub import Hub
    from beamstream.client.native.places import Access, Place, Url
    from beamstream.monitor.documents import DiskUse

_TIMEOUT_S: Final = 5.0
_CLOCK_LOOKS: Final = 5
_FLOW_S: Final = 2.0
_LASTING_S: Final = 60.0
_MARKS: Final = {True: "✓", False: "✗", None: "–"}
_COLOURS: Final = {True: "\x1b[32m", False: "\x1b[31m", None: "\x1b[2m"}
_TCP: Final = ("net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem")


def doctor(*, node: Node = ANY_NODE, json: Json = False) -> int:
    """Look for what is wrong between here and the node, and say what to do about it.

    Exit status 1 if something is wrong, 3 if the node cannot be reached.

    $ beamstream doctor --url node1:8400
    """
    from beamstream.cli.doctor_checks import Finding
    from beamstream.errors import ConnectionLost, Error, TimedOut

    found: list[Finding] = []
    status = 0

    def note(finding: Finding) -> None:
        found.append(finding)
        if not json:
            _print(finding)

    try:
        for finding in _of_node(node):
            note(finding)
    except (ConnectionLost, TimedOut) as error:
        note(Finding("reach", False, error.message, error.hint or "beamstream up"))
        status = UNREACHABLE
    except Error as error:
        from beamstream.errors_help import HELP

        advice = error.hint or HELP[error.code].advice
        note(Finding("node", False, f"{error.code} {error.message}", advice))
    for finding in _of_machine():
        note(finding)
    if json:
        keys = ("check", "ok", "detail", "remedy")
        print_json([dict(zip(keys, finding, strict=True)) for finding in found])
    return status or (FAILED if any(finding.ok is False for finding in found) else 0)


def _of_node(node: Node) -> Iterator[Finding]:
    from beamstream.cli.doctor_checks import Finding
    from beamstream.client.native import hub, places

    access = places.find_access(node.url, node.beamtime, node.token, os.environ)
    ca = os.environ.get("BEAMSTREAM_TLS_CA", "")
    finder = places.Finder(access.url, timeout_s=_TIMEOUT_S, tls_ca=ca)
    began = time.perf_counter()
    place = finder.find()
    finder.connect(place).close()
    took_ms = (time.perf_counter() - began) * 1e3
    yield Finding("reach", True, f"{access.url}, then {place} ({took_ms:.1f} ms)")
    yield _of_tls(finder.url, place, ca)
    with hub.connect(
        access.url,
        beamtime=access.beamtime,
        token=access.token,
        step="doctor",
        timeout=_TIMEOUT_S,
        patience=_TIMEOUT_S,
        call_timeout=_TIMEOUT_S,
    ) as there:
        yield from _of_session(there, access)
        monitor, lasting = _of_monitor(access, ca)
        yield monitor
        yield from _of_flow(there, lasting)


def _of_session(there: Hub, access: Access) -> Iterator[Finding]:
    from beamstream import limits
    from beamstream._version import __version__
    from beamstream.cli import doctor_checks as checks

    welcome = there._welcome
    yield checks.version(welcome.software, __version__)
    yield checks.clock(_clock_offset(there))
    yield checks.token(checks.claims(access.token), there.access, time.time())
    yield checks.shared_memory(
        welcome.arenas,
        # It is opened by the thread that has received the answers above.
        reachable=there._link.line is not None,
        platform=sys.platform,
        environ=os.environ,
    )
    row = there.info()
    yield checks.disk(row.disk_free_nbytes)
    yield checks.cache(row.cache_nbytes, row.cache_pinned_nbytes)
    yield checks.connections(row.connections, limits.CONNECTIONS_MAX)
    level = ("cache", "os", "disk")[row.level] if 0 <= row.level <= 2 else str(row.level)
    yield checks.Finding(
        "beamtime", True, f"{there.beamtime}; answered messages are safe at level {level}"
    )


def _clock_offset(there: Hub) -> float:
    """Seconds that the node's clock is ahead, by the answer that came fastest."""
    best = (float("inf"), 0.0)
    for _ in range(_CLOCK_LOOKS):
        before = time.time_ns()
        node_ns = there.info().time_ns
        after = time.time_ns()
        best = min(best, (after - before, (node_ns - (before + after) / 2) / 1e9))
    return best[1]


def _of_flow(there: Hub, lasting: DiskUse | None) -> Iterator[Finding]:
    from beamstream.cli import doctor_flow
    from beamstream.cli.doctor_checks import Finding
    from beamstream.cli.top_watching import Watching

    watched = Watching(there, "node")
    began = time.perf_counter()
    watched.look()
    answer_s = time.perf_counter() - began
    # What moves slowly must not look as if it stood still.
    time.sleep(_FLOW_S)
    look = watched.look()
    if look is None:
        remedy = "it is overloaded, or waits for its disk: see its log"
        yield Finding("answers of the node", False, f"none within {answer_s:.1f} s", remedy)
        return
    yield from doctor_flow.of_snapshot(look.snapshot, answer_s, lasting)


def _of_tls(url: Url, place: Place, ca: str) -> Finding:
    from beamstream.cli import doctor_flow
    from beamstream.client.native.places import _is_loopback

    if place.unix:
        return doctor_flow.tls("unix", loopback=True, left_s=None)
    encrypted = url.scheme in ("https", "tls")
    left_s = _certificate_left_s(url, ca) if encrypted else None
    return doctor_flow.tls(url.scheme, loopback=_is_loopback(url.host), left_s=left_s)


def _certificate_left_s(url: Url, ca: str) -> float | None:
    """Seconds until the certificate is over."""
    import socket
    import ssl

    context = ssl.create_default_context(cafile=ca or None)
    with (
        contextlib.suppress(OSError),
        socket.create_connection((url.host, url.port), _TIMEOUT_S) as plain_socket,
        context.wrap_socket(plain_socket, server_hostname=url.host) as encrypted,
    ):
        said = (encrypted.getpeercert() or {}).get("notAfter")
        if isinstance(said, str):
            return ssl.cert_time_to_seconds(said) - time.time()
    return None


def _of_monitor(access: Access, ca: str) -> tuple[Finding, DiskUse | None]:
    """Whether the monitor answers, and how it has seen the disk."""
    import msgspec

    from beamstream.cli import doctor_flow, monitor_api
    from beamstream.errors import Error
    from beamstream.monitor.documents import SnapshotFrame

    began = time.perf_counter()
    try:
        said = monitor_api.get(access, "/api/v1/overview", {}, timeout_s=_TIMEOUT_S, tls_ca=ca)
        seen = msgspec.json.decode(said, type=SnapshotFrame).data
    except monitor_api.NoMonitor as error:
        return doctor_flow.monitor(None, error.message), None
    except Error as error:
        return doctor_flow.monitor(None, error.message, broken=True), None
    except msgspec.DecodeError as error:
        return doctor_flow.monitor(None, f"not understood: {error}", broken=True), None
    took_s = time.perf_counter() - began
    # A monitor is as old as its node, or restarted: it has to have seen a minute.
    lasting = seen.node.disk if seen.node.up_s > _LASTING_S else None
    return doctor_flow.monitor(took_s, ""), lasting


def _of_machine() -> Iterator[Finding]:
    from beamstream.cli import doctor_checks as checks

    yield checks.tcp_buffers({name: _kernel_maximum(name) for name in _TCP})
    with contextlib.suppress(ImportError):
        import resource

        yield checks.open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))


def _kernel_maximum(name: str) -> int | None:
    try:
        return int(Path("/proc/sys", *name.split(".")).read_text().split()[-1])
    except (OSError, ValueError, IndexError):
        return None


def _print(finding: Finding) -> None:
    mark = _MARKS[finding.ok]
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        mark = f"{_COLOURS[finding.ok]}{mark}\x1b[0m"
    print(f"{mark} {finding.name}: {plain(finding.detail)}", flush=True)
    if finding.ok is False and finding.remedy:
        print(f"    remedy: {plain(finding.remedy)}", flush=True)

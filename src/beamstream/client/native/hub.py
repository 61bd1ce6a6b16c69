"""A connection to a node: sources, streams, questions."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from beamstream import limits
from beamstream._version import __version__
from beamstream.client.native import arenas, places
from beamstream.client.native.asking import Asked
from beamstream.client.native.link import Link
from beamstream.client.native.packing import pack_meta
from beamstream.client.native.stream import Source, Stream
from beamstream.errors import BadInput
from beamstream.model import check_beamtime
from beamstream.wire import address
from beamstream.wire.native import calls
from beamstream.wire.native.frames import MAGIC, VERSION, Hello, Welcome

CONNECT_S: Final = 10.0
PATIENCE_S: Final = 300.0
CALL_S: Final = 120.0


class Hub:
    """A connection to a node, for one beamtime; made by `connect`.

    Any number of threads may use it. It lives through restarts of the node and broken connections:
    what was under way goes on by itself.
    """

    def __init__(self, link: Link, welcome: Welcome, *, verify: bool, call_timeout: float) -> None:
        self._link = link
        self._verify = verify
        self._call_timeout = call_timeout
        self._welcome = welcome

    def __repr__(self) -> str:
        return f"<Hub of beamtime {self.beamtime!r} at node {self._welcome.node}>"

    @property
    def beamtime(self) -> str:
        return self._welcome.beamtime

    @property
    def _ahead_nbytes_max(self) -> int:
        """What may be pushed ahead so that it can stay in shared memory, if that is in use."""
        if self._link.line is None:
            return limits.NATIVE_CREDIT_NBYTES_MAX
        # Some of it is in hand still when more is asked for.
        return max(self._welcome.shared_nbytes_max // 2, limits.MIB)

    @property
    def access(self) -> tuple[str, ...]:
        """What the token allows: "read", "write", "writeraw"."""
        return self._welcome.access

    # ------------------------------------------------------------------ what there is

    def source(self, name: str) -> Source:
        """A data source, whether it exists or not."""
        return Source(self, name)

    def stream(self, text: str) -> Stream:
        """A stream by its address, ``source/stream``."""
        found = address.parse(text)
        if found.range is not None or found.beamtime not in ("", self.beamtime):
            raise BadInput(
                f"{text!r} is not a stream of beamtime {self.beamtime!r}", hint="source/stream"
            )
        return Stream(self, found.source, found.stream)

    def sources(self) -> list[str]:
        """Names of all sources."""
        names: list[str] = self._call(calls.ListSources())
        return names

    def streams(self, pattern: str = "*") -> list[calls.StreamRow]:
        """Streams of all sources whose names match."""
        rows: list[calls.StreamRow] = self._call(calls.ListStreams(pattern=pattern))
        return rows

    def groups(self) -> list[calls.GroupRow]:
        """All groups."""
        rows: list[calls.GroupRow] = self._call(calls.ListGroups())
        return rows

    def info(self) -> calls.ServerRow:
        """How the node is."""
        row: calls.ServerRow = self._call(calls.GetServer())
        return row

    # ------------------------------------------------------------------ runs

    def define_run(self, document: Mapping[str, Any]) -> calls.RunRow:
        """Write down what makes results: step, version of the code, parameters, inputs …

        The same document is the same run. Its number goes with each result (`Origin`).

        Raises
        ------
        BadMetadata, TooLarge : it cannot be JSON, or is too long.
        """
        # Sorted, so that it does not matter in which order it was put together.
        plain = msgspec.json.decode(pack_meta(document, limits.RUN_NBYTES_MAX) or b"{}")
        text = msgspec.json.encode(plain, order="deterministic")
        row: calls.RunRow = self._call(calls.DefineRun(document=text))
        return row

    def run(self, no: int) -> calls.RunRow | None:
        """A run by its number."""
        row: calls.RunRow | None = self._call(calls.GetRun(no=no))
        return row

    def runs(self, limit: int = 100, *, before: int = 0) -> list[calls.RunRow]:
        """Runs, newest first; with numbers below `before`, if it is given."""
        rows: list[calls.RunRow] = self._call(calls.ListRuns(before=before, limit=limit))
        return rows

    def end_session(self, session: bytes) -> None:
        """Say that the program of this session has died: what it held is offered to others now."""
        self._call(calls.EndSession(session=session))

    # ------------------------------------------------------------------ asking

    def _call(self, params: calls.Params) -> Any:
        return self._call_body(params)[0]

    def _call_body(self, params: calls.Params) -> tuple[Any, memoryview]:
        """Ask the node; the result, and the payloads that came with it."""
        link = self._link
        link.check()
        with link.lock:
            asked = link.session.ask(params, link.changed.notify_all)
        link.pump()
        try:
            with link.lock:
                what = f"the node did not answer {asked.method!r}"
                link.wait(link.changed, lambda: asked.done, self._call_timeout, what)
        finally:
            self._forget(asked)
        if asked.error is not None:
            raise asked.error
        return asked.result, asked.body

    def _forget(self, asked: Asked) -> None:
        if not asked.done:
            with self._link.lock:
                self._link.session.asking.forget(asked)

    # ------------------------------------------------------------------ ending

    @property
    def closed(self) -> bool:
        return self._link.closed

    def close(self, timeout: float | None = 30.0) -> None:
        """End the connection, when what was sent has its receipts (at most `timeout` seconds)."""
        if self._link.closed:
            return
        try:
            if not self._link.forked:
                self._link.drain(timeout)
        finally:
            self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(30.0 if kind is None else 0.0)

    def __del__(self) -> None:
        # A destructor must not wait, and may run with any lock held: a thread of ours does it.
        link: Link | None = getattr(self, "_link", None)
        if link is not None and not link.closed and not link.forked:
            link.wake(link.end)


def connect(
    url: str = "",
    *,
    beamtime: str = "",
    token: str = "",
    instance: str = "",
    step: str = "",
    timeout: float = CONNECT_S,
    patience: float = PATIENCE_S,
    call_timeout: float = CALL_S,
    verify: bool = True,
    tls_ca: str = "",
    session: bytes = b"",
) -> Hub:
    """Connect to a node.

    Parameters
    ----------
    url : ``host``, ``host:8400``, ``http://…``, ``https://…`` (the node is asked for its native
        door), ``tcp://host:8403``, ``tls://host:8403``, ``unix:/path``, or the path of a
        ``connect.json``. Without one: ``BEAMSTREAM_URL``, else the node of the same user.
    beamtime, token : without them ``BEAMSTREAM_BEAMTIME`` and ``BEAMSTREAM_TOKEN``, else as the
        node of the same user says.
    instance, step : names of this program and of what it does, as others see them.
    timeout : seconds for connecting.
    patience : seconds that the node may be away before what waits for it fails.
    call_timeout : seconds for one question.
    verify : compare payloads with their digests as they arrive.
    tls_ca : file with certificates to trust, in place of the system's.
    session : 16 random bytes, chosen by who starts this program and will tell the node when it has
        died (`Hub.end_session`); without them they are chosen here.

    Raises
    ------
    NotFound : nobody says where the node is.
    ConnectionLost, TimedOut : it cannot be reached.
    BadToken, NotAllowed : it does not let us in.
    """
    access = places.find_access(url, beamtime, token, os.environ)
    if access.beamtime:
        check_beamtime(access.beamtime)
    ca = tls_ca or os.environ.get("BEAMSTREAM_TLS_CA", "")
    finder = places.Finder(access.url, timeout_s=timeout, tls_ca=ca)
    hello = Hello(
        magic=MAGIC,
        version=VERSION,
        token=access.token,
        beamtime=access.beamtime,
        session=session or os.urandom(limits.SESSION_NBYTES),
        instance=instance or f"{socket.gethostname()}:{os.getpid()}",
        step=step,
        client=f"beamstream/{__version__} python/{platform.python_version()}",
        machine=arenas.machine(os.environ),
    )
    link = Link(hello, finder.dial, patience_s=patience, verify=verify)
    link.start(timeout)
    welcome = link.session.welcome
    assert welcome is not None
    return Hub(link, welcome, verify=verify, call_timeout=call_timeout)

"""Handles of sources and streams: lazy, cheap, and asking the node only when they have to."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, overload

import msgspec

from beamstream import limits
from beamstream.client.native import lookup
from beamstream.client.native.group import BATCH_MAX, Group, make_group
from beamstream.client.native.messages import DatasetMessage, Message
from beamstream.client.native.origins import Held
from beamstream.client.native.packing import Meta, pack_meta
from beamstream.client.native.settlements import Settlement, settle
from beamstream.client.native.writer import Writer
from beamstream.errors import BadInput, Error, NotFound
from beamstream.model import Level, check_label
from beamstream.wire.address import IdRange
from beamstream.wire.native import calls
from beamstream.wire.native.frames import Scope

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub

Found = Message | DatasetMessage


class Source:
    """A data source: a detector, a program."""

    def __init__(self, hub: Hub, name: str) -> None:
        self._hub = hub
        self.name = check_label("source", name)

    def __repr__(self) -> str:
        return f"<Source {self.name}>"

    def stream(self, name: str = "default") -> Stream:
        """A stream of it, whether it exists or not."""
        return Stream(self._hub, self.name, name)

    def streams(self, pattern: str = "*") -> Streams:
        """All streams whose names match (``*``, ``?``, ``[…]``), later ones included."""
        return Streams(self._hub, self.name, pattern)

    def group(self, name: str = "", **how: Any) -> Group:
        """A group over all streams of it; see `Stream.group`."""
        return self.streams().group(name, **how)

    @property
    def meta(self) -> dict[str, Any] | None:
        """Metadata of the beamtime, which each source has its own of; None if there are none."""
        return read_meta(self._hub, self.name, "")

    def set_meta(self, meta: Meta, *, mode: str = "replace") -> None:
        """Write metadata of the beamtime; `mode` "insert", "replace" or "update"."""
        write_meta(self._hub, self.name, "", meta, mode)


class Streams:
    """Streams of a source by pattern: those there are, and for groups those to come."""

    def __init__(self, hub: Hub, source: str, pattern: str) -> None:
        self._hub = hub
        self.source = source
        self.pattern = pattern

    def __repr__(self) -> str:
        return f"<Streams {self.source}/{self.pattern}>"

    def rows(self) -> list[calls.StreamRow]:
        """What the node knows of each, by name."""
        rows: list[calls.StreamRow] = self._hub._call(
            calls.ListStreams(source=self.source, pattern=self.pattern)
        )
        return rows

    def __iter__(self) -> Iterator[Stream]:
        """Those that are there now."""
        return iter([Stream(self._hub, row.source, row.stream) for row in self.rows()])

    def __len__(self) -> int:
        return len(self.rows())

    def group(self, name: str = "", **how: Any) -> Group:
        """A group over all of them, new ones joining by themselves; see `Stream.group`."""
        whole = self.pattern == "*"
        return make_group(
            self._hub,
            self.source,
            "" if whole else self.pattern,
            Scope.SOURCE if whole else Scope.PATTERN,
            name,
            explain=lambda: explain(self._hub, self.source, self.pattern),
            **how,
        )


class Stream:
    """A stream; nothing is asked of the node before it is used.

    ``stream[7]`` is a message by id, ``stream[-1]`` the last one, ``stream[1:100]`` an iterator
    over ids 1 … 99 as far as they are there.
    """

    def __init__(self, hub: Hub, source: str, name: str) -> None:
        self._hub = hub
        self.source = check_label("source", source)
        self.name = check_label("stream", name)

    def __repr__(self) -> str:
        return f"<Stream {self.source}/{self.name}>"

    # ------------------------------------------------------------------ writing

    def writer(
        self,
        *,
        level: Level | str | None = None,
        raw: bool = False,
        finish: bool = True,
        next_stream: str = "",
        timeout: float | None = None,
    ) -> Writer:
        """Write into it.

        Parameters
        ----------
        level : how safe messages are before their receipts come: "cache", "os", "disk"; None: as
            the node is set.
        raw : named files go below ``raw/`` of the beamtime; needs the right to.
        finish : leaving ``with`` without an exception finishes the stream.
        next_stream : named as the one that follows.
        timeout : seconds that `send` may wait for room.
        """
        return Writer(
            self, level=level, raw=raw, finish=finish, next_stream=next_stream, timeout=timeout
        )

    def finish(self, last_id: int | None = None, *, next_stream: str = "") -> int:
        """Say that nothing comes after `last_id` (None: the largest there is), and return it."""
        done: calls.Finished = self._call(
            calls.Finish, last_id=-1 if last_id is None else last_id, next_stream=next_stream
        )
        return done.last_id

    def settle(self, held: Sequence[Held], skips: Sequence[tuple[int, int]] = ()) -> None:
        """Settle leases of which nothing is made, all or nothing, and wait until it is safe.

        Parameters
        ----------
        held : what is acknowledged, or given up (`Message.held`).
        skips : ranges of ids that will never come in this stream, half-open.

        Raises
        ------
        StaleLease : a lease has ended: nothing is settled or skipped.
        TimedOut : the node has not answered; it may still be settled.
        """
        timeout_s = self._hub._call_timeout
        link = self._hub._link
        made = settle(link, self.source, self.name, held, skips, timeout_s, _ignore)
        made.result(timeout_s)

    def copy_to(
        self, target: Stream, lo: int, hi: int, *, run: int = 0, limit: int = 1000
    ) -> calls.Copied:
        """Let messages `lo` ≤ id < `hi` come once more, in `target`, without storing them again.

        At most `limit` at a time: ask again from `next_id`. Those that are there are passed over.
        """
        copied: calls.Copied = self._call(
            calls.Copy,
            lo=lo,
            hi=hi,
            to_source=target.source,
            to_stream=target.name,
            run=run,
            limit=limit,
        )
        return copied

    def delete(self, *, files: bool = False) -> int:
        """Forget it, with `files` also what the node wrote for it; return how many files."""
        deleted: calls.Deleted = self._call(calls.DeleteStream, files=files)
        return deleted.files

    # ------------------------------------------------------------------ looking

    @overload
    def __getitem__(self, key: int) -> Found: ...
    @overload
    def __getitem__(self, key: slice) -> Iterator[Found]: ...
    def __getitem__(self, key: int | slice) -> Found | Iterator[Found]:
        wanted = IdRange.of(key)
        if wanted.single:
            return self._one(wanted)
        return self.messages(wanted)

    def messages(self, ids: IdRange | None = None, *, payloads: bool = True) -> Iterator[Found]:
        """Messages by ascending id, as far as they are there; with `payloads` False without."""
        wanted = ids or IdRange()
        last = self._last_id()
        found = wanted.resolve(last)
        return lookup.pages(self._hub, self.source, self.name, found, payloads=payloads)

    def _one(self, wanted: IdRange) -> Found:
        assert wanted.start is not None
        if wanted.start == -1:
            params: calls.Params = self._params(calls.FetchLast)
        else:
            id = wanted.start
            if id < 0:
                ids = wanted.resolve(self._last_id())
                id = ids[0] if ids else 0
            if not id:
                raise NotFound(f"stream {self.name!r} has fewer than {-wanted.start} messages")
            params = self._params(calls.Fetch, lo=id, hi=id + 1, limit=1)
        fetched, body = self._hub._call_body(params)
        found = lookup.messages(self.source, self.name, fetched, body, verify=self._hub._verify)
        if not found:
            raise NotFound(self._explain_none(wanted.start))
        return found[0]

    def _explain_none(self, id: int) -> str:
        row = self.info()
        if row is None:
            return explain(self._hub, self.source, self.name)
        what = "no messages" if id < 0 else f"no message {id}"
        return f"stream {self.name!r} of source {self.source!r} has {what} (of {row.count})"

    def __iter__(self) -> Iterator[Found]:
        """All messages there are now, by id."""
        return self.messages()

    def __len__(self) -> int:
        """How many messages there are."""
        row = self.info()
        return 0 if row is None else row.count

    def fetch(self, id: int, offset: int, length: int) -> bytes:
        """Bytes `offset` … `offset` + `length` - 1 of the payload of one message."""
        if offset < 0 or length < 0:
            raise BadInput(f"a slice of {length} bytes from byte {offset} is not possible")
        params = self._params(calls.Fetch, lo=id, hi=id + 1, limit=1, offset=offset, length=length)
        fetched, body = self._hub._call_body(params)
        if fetched.batch is None:
            raise NotFound(self._explain_none(id))
        return bytes(body)

    def info(self) -> calls.StreamRow | None:
        """What the node knows of it; None if it does not exist."""
        row: calls.StreamRow | None = self._call(calls.GetStream)
        return row

    @property
    def exists(self) -> bool:
        return self.info() is not None

    def origin(self, id: int) -> calls.OriginRow | None:
        """What message `id` was made of; None if there is no such message."""
        row: calls.OriginRow | None = self._call(calls.GetOrigin, id=id)
        return row

    def measure(self, lo: int = 1, hi: int | None = None) -> calls.Measured:
        """How many messages, and bytes, have ids `lo` … `hi` - 1, and where their payloads are."""
        found: calls.Measured = self._call(
            calls.Measure, lo=lo, hi=limits.ID_MAX if hi is None else hi
        )
        return found

    def header(self, version: int = 0) -> calls.HeaderRow | None:
        """A version of the metadata of the stream, 0 the newest; None if there is none."""
        row: calls.HeaderRow | None = self._call(calls.GetHeader, version=version)
        return row

    @property
    def meta(self) -> dict[str, Any] | None:
        """Metadata of the stream; None if there are none."""
        return read_meta(self._hub, self.source, self.name)

    def set_meta(self, meta: Meta, *, mode: str = "replace") -> None:
        """Write metadata of the stream; `mode` "insert", "replace" or "update" (merges objects)."""
        write_meta(self._hub, self.source, self.name, meta, mode)

    def search(self, query: str, limit: int = 1000) -> list[Found]:
        """Messages whose metadata match, without payloads, by id."""
        params = self._params(calls.Search, query=query, limit=limit)
        fetched, body = self._hub._call_body(params)
        return lookup.messages(self.source, self.name, fetched, body)

    def gaps(self, limit: int = 1000) -> Sequence[range]:
        """Ids below the largest that are neither there nor skipped."""
        found: calls.GapRows = self._call(calls.ListGaps, limit=limit)
        return [range(lo, hi) for lo, hi in found.gaps]

    # ------------------------------------------------------------------ groups, joins

    def group(
        self,
        name: str = "",
        *,
        mode: str = "unordered",
        ack: str = "auto",
        start: str | int | datetime = "begin",
        gaps: str = "wait",
        lease: float = 60.0,
        max_attempts: int = 0,
        timeout: float | None = None,
        follow: bool = False,
        min_parts: int = 0,
        wait: float = 0.0,
        payloads: bool = True,
        exclusive: bool = False,
        sticky: int = 0,
        key: str = "",
        settled: bool = False,
        headers: bool = False,
        batch_max: int = BATCH_MAX,
        **ahead: int,
    ) -> Group:
        """Read it as a group.

        Parameters
        ----------
        name : readers of the same name share the messages; without one this reader has its own.
        mode : "unordered" (what is open, oldest first), "ordered" (by id), "newest" (only the
            newest, for viewers).
        ack : "auto" (asking for the next message acknowledges the one before), "manual"
            (`Message.ack`), "none" (handed out once).
        start : where a new group begins: "begin", "new", an id or a time.
        gaps : what "ordered" does about ids that are not there: "wait", "skip", "report" (`Gap`),
            "finished" (waits until the stream is finished, then reports).
        lease : seconds that a member has for a message before it is offered to another one.
        max_attempts : deliveries of one message before it is dead; 0: no limit.
        timeout : seconds without a message after which the loop ends; None: waits for ever.
        follow : goes on with the stream that follows a finished one.
        min_parts, wait : of datasets: so many parts are enough after so many seconds.
        payloads : False: descriptions only.
        exclusive : one member at a time reads a stream, the others stand by.
        sticky : so many ids in a row go to one member; 0: to whoever is next.
        key : messages with the same value of this key of their metadata go to one member.
        settled, headers : also tell how far all is settled (`Settled`), and the metadata of the
            stream (`Header`); see `Subscription.next_event`.
        batch_max : messages that are handed out as one batch at most.
        ahead : `ahead_messages` and `ahead_nbytes` that may be received before they are asked for.
        """
        return make_group(
            self._hub,
            self.source,
            self.name,
            Scope.STREAM,
            name,
            explain=lambda: explain(self._hub, self.source, self.name),
            mode=mode,
            ack=ack,
            start=start,
            gaps=gaps,
            lease=lease,
            max_attempts=max_attempts,
            timeout=timeout,
            follow=follow,
            min_parts=min_parts,
            wait=wait,
            payloads=payloads,
            exclusive=exclusive,
            sticky=sticky,
            key=key,
            settled=settled,
            headers=headers,
            batch_max=batch_max,
            **ahead,
        )

    def groups(self) -> list[calls.GroupRow]:
        """All groups that read it."""
        rows: list[calls.GroupRow] = self._call(calls.ListGroups)
        return rows

    def join(self, inputs: Sequence[Stream]) -> None:
        """Make it a stream of datasets: the k-th input becomes substream k, joined by id."""
        pairs = tuple((one.source, one.name) for one in inputs)
        self._call(calls.Join, inputs=pairs)

    def late(self, limit: int = 100) -> list[calls.LateRow]:
        """Which parts incomplete datasets lack."""
        rows: list[calls.LateRow] = self._call(calls.Late, limit=limit)
        return rows

    def verify(self) -> calls.Verified:
        """Let the node read all payloads back and compare them with their digests."""
        checked = nbytes = gone = 0
        damaged: list[tuple[int, int, str, str]] = []
        at, last = 1, self._last_id()
        while at <= last:
            page: calls.Verified = self._call(calls.Verify, lo=at)
            checked += page.checked
            nbytes += page.nbytes
            gone += page.gone
            damaged += page.damaged
            if page.next_id <= at:
                break
            at = page.next_id
        return calls.Verified(
            checked=checked, nbytes=nbytes, next_id=at, damaged=tuple(damaged), gone=gone
        )

    # ------------------------------------------------------------------ inside

    def _params(self, kind: type[Any], **more: Any) -> Any:
        return kind(source=self.source, stream=self.name, **more)

    def _call(self, kind: type[Any], **more: Any) -> Any:
        return self._hub._call(self._params(kind, **more))

    def _last_id(self) -> int:
        row = self.info()
        return 0 if row is None else row.max_id


def _ignore(_: Settlement) -> None:
    """Whoever waits for it is told."""


def read_meta(hub: Hub, source: str, stream: str) -> dict[str, Any] | None:
    """Metadata of a stream, or (`stream` empty) of the source's beamtime."""
    text: bytes | None = hub._call(calls.GetMeta(source=source, stream=stream))
    return None if text is None else msgspec.json.decode(text, type=dict[str, Any])


def write_meta(hub: Hub, source: str, stream: str, meta: Meta, mode: str) -> None:
    """Write them."""
    document = pack_meta(meta, limits.STREAM_META_NBYTES_MAX) or b"{}"
    hub._call(calls.SetMeta(source=source, stream=stream, document=document, mode=mode))


def explain(hub: Hub, source: str, pattern: str) -> str:
    """That there is no such stream, and what its name is like; empty if there is one."""
    text = f"there is no stream {pattern!r} of source {source!r} (yet)"
    try:
        sources: list[str] = hub._call(calls.ListSources())
        if source not in sources:
            return f"there is no source {source!r} (yet){_nearest(source, sources)}"
        rows: list[calls.StreamRow] = hub._call(calls.ListStreams(source=source))
    except Error as error:
        return f"{text}: {error}"
    names = [row.stream for row in rows]
    if any(fnmatch.fnmatchcase(name, pattern) or name == pattern for name in names):
        return ""
    return text + _nearest(pattern, names)


def _nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or sorted(names)[-3:]
    return "; there are " + ", ".join(map(repr, close)) if close else "; there are none"

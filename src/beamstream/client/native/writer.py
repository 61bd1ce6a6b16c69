"""Writing a stream: send, receive receipts, finish."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from beamstream import limits
from beamstream.client.native import packing
from beamstream.client.native.batching import cut, pack_all, whole
from beamstream.client.native.buffers import Buffers
from beamstream.client.native.faults import again
from beamstream.client.native.filled import FilledFrame
from beamstream.client.native.filling import Filling, obtain
from beamstream.client.native.link import Link
from beamstream.client.native.origins import Held, Origin, check_held
from beamstream.client.native.outgoing import (
    FAULTS_KEPT,
    SMALL_NBYTES,
    Buffer,
    Outgoing,
    Run,
    check_id,
)
from beamstream.client.native.packing import Meta, digest, pack_meta
from beamstream.client.native.receipts import Receipt
from beamstream.client.native.settlements import Settlement, settle
from beamstream.client.native.spans import of_numbers
from beamstream.errors import BadInput, Error, LocalProtocolError
from beamstream.model import Level, check_path
from beamstream.wire.native import calls
from beamstream.wire.native.frames import DEFAULT_LEVEL, OpenWriter, Put

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike

    from beamstream.client.native.stream import Stream


class Writer:
    """Writes messages into a stream. Several threads may use one.

    Made by `Stream.writer`. Leaving ``with`` waits for all receipts and finishes the stream.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        level: Level | str | None,
        raw: bool,
        finish: bool,
        next_stream: str,
        timeout: float | None,
    ) -> None:
        self._stream = stream
        self._link: Link = stream._hub._link
        self._changed = threading.Condition(self._link.lock)
        self._level = to_level(level)
        self._raw = raw
        self._finish = finish
        self._next_stream = next_stream
        self._timeout = timeout
        self._outgoing: dict[int, Outgoing] = {}
        self._out = self._open(self._level)
        self._memory = Buffers()
        self._unsettled: set[Settlement] = set()
        self._refused: deque[Settlement] = deque(maxlen=FAULTS_KEPT)
        self._closed = False

    def __repr__(self) -> str:
        return f"<Writer of {self._stream.source}/{self._stream.name}>"

    def _open(self, level: int) -> Outgoing:
        self._link.check()
        opening = OpenWriter(
            0, self._stream.source, self._stream.name, os.urandom(16), level, self._raw
        )
        with self._link.lock:
            out = self._outgoing.get(level)
            if out is None:
                out = self._link.session.open_writer(opening, self._changed.notify_all)
                self._outgoing[level] = out
        self._link.pump()
        return out

    # ------------------------------------------------------------------ sending

    def send(
        self,
        value: object,
        meta: Meta | None = None,
        *,
        id: int | None = None,
        name: str | None = None,
        substream: int = 0,
        of: int = 0,
        codec: str = "raw",
        level: Level | str | None = None,
    ) -> Receipt:
        """Send one message and return at once; its receipt comes later.

        Blocks while as much as the node allows is on its way. An array of 64 KiB or more is sent
        from where it is and may be changed when `send` is back; should the connection break before
        its receipt has come, it must still be as it was to be sent again.

        Parameters
        ----------
        value : ndarray, bytes-like, or the path of a file (sent under its name).
        id : None: the largest id + 1.
        name : stored as a file of that path; without one it goes to the log of the beamtime.
        substream, of : part `substream` (1, 2 …) of a dataset of `of` parts; needs an `id`.
        codec : "raw", "zstd", "lz4" or "bslz4", for arrays.
        level : "cache", "os" or "disk", in place of the writer's.

        Raises
        ------
        BadInput : what cannot be sent.
        TimedOut : no room within the writer's `timeout`.
        """
        packed = packing.pack(value, codec)
        buffer = packed.buffer
        nbytes = len(buffer)
        text = pack_meta(meta) if meta else b""
        number = 0 if id is None else check_id(id)
        path = packed.name if name is None else name
        out = self._out if level is None else self._open(to_level(level))
        if path or substream or of or nbytes >= SMALL_NBYTES:
            put = self._put(nbytes, number, text, packed.info, path, substream, of)
            return self._receipt(self._send_one(out, put, buffer), 0, 1)
        mark = digest(buffer) if nbytes else packing.NO_DIGEST
        run, index, due = self._add(out, buffer, mark, text, packed.info, number)
        if due:
            self._link.pump()
        elif not index:
            self._link.wake()
        return self._receipt(run, index, index + 1)

    def _add(
        self, out: Outgoing, buffer: Buffer, mark: bytes, text: bytes, info: bytes, id: int
    ) -> tuple[Run, int, bool]:
        with self._link.lock:
            if self._closed or not out.has_room(1, len(buffer)):
                self._wait_for_room(out, 1, len(buffer))
            now = time.monotonic()
            run, index = out.add(buffer, mark, text, info, id, now)
            return run, index, out.due(now)

    def has_room(self, nbytes: int) -> bool:
        """Whether `send` of so many bytes would not have to wait."""
        return self._out.has_room(1, nbytes)

    def send_later(self, value: object, meta: Meta | None = None) -> Receipt:
        """As `send` of something small, but it is a thread of the client that sends it."""
        packed = packing.pack(value)
        mark = digest(packed.buffer) if len(packed.buffer) else packing.NO_DIGEST
        run, index, _ = self._add(self._out, packed.buffer, mark, pack_meta(meta), packed.info, 0)
        self._link.wake()
        return self._receipt(run, index, index + 1)

    def send_many(
        self,
        values: Sequence[Any] | np.ndarray[Any, Any],
        metas: Sequence[Meta] | None = None,
        ids: Sequence[int] | None = None,
        *,
        codec: str = "raw",
    ) -> Receipt:
        """Send many messages, fast, and return one receipt for all.

        Parameters
        ----------
        values : list of bytes or arrays, or one array whose first axis counts the messages.
        metas, ids : one for each, or None.

        Raises
        ------
        BadInput : what cannot be sent; then nothing was sent.
        """
        packed = pack_all(values, metas, ids, codec)
        pieces: list[tuple[Run, int, int]] = []
        for put, buffers, nbytes in cut(packed, self._out.batch_max):
            run = self._send_run(self._out, put, buffers, nbytes)
            pieces.append((run, 0, run.count))
        return Receipt(self._link, self._changed, pieces)

    def publish(
        self,
        values: Sequence[Any],
        metas: Sequence[Meta | None] | None = None,
        *,
        made: Origin,
        ids: Sequence[int] | None = None,
        name: str = "",
        codec: str = "raw",
    ) -> Receipt:
        """Send results, and settle what they were made of: all or nothing, on any crash.

        A result of the same run, input and k that is stored already is not stored again. What is
        settled stays leased until the receipt has come; refused, it may be refused by the reader
        in turn (`Message.nack`). Otherwise as `send`.

        Parameters
        ----------
        values : arrays or bytes; all are one unit of at most 4,096 messages.
        metas, ids : one for each, or None.
        made : what they were made of, and what is settled with them.
        name : of the file, for a single value.

        Raises
        ------
        BadInput, TooLarge : what cannot be sent; then nothing was sent.
        TimedOut : no room within the writer's `timeout`.
        """
        count, out = len(values), self._out
        if count > out.batch_max or (name and count != 1):
            raise BadInput(
                f"{count} results of stream {self._stream.name!r} cannot be published as one unit",
                hint=f"at most {out.batch_max} at once; a name is for a single one",
            )
        origin, held = made.made(count), made.settles
        check_held(held)
        self._link.session.check_held(held)
        if count == 1 and all(column is None or len(column) == 1 for column in (metas, ids)):
            one = packing.pack(values[0], codec)
            text = pack_meta(metas[0]) if metas is not None else b""
            number = check_id(ids[0]) if ids is not None else 0
            put = self._put(len(one.buffer), number, text, one.info, name or one.name)
            put = msgspec.structs.replace(put, made=origin)
            return self._receipt(self._send_one(out, put, one.buffer, held), 0, 1)
        packed = pack_all(values, metas, ids, codec)
        put, buffers, nbytes = whole(packed, sum(map(len, made.spans or ())))
        put = msgspec.structs.replace(put, made=origin)
        return self._receipt(self._send_run(out, put, buffers, nbytes, held), 0, count)

    def settle(self, held: Sequence[Held], skips: Sequence[tuple[int, int]] = ()) -> Settlement:
        """Settle what nothing is made of, and return at once; the answer comes later.

        Blocks while many are under way.

        Parameters
        ----------
        held : what is acknowledged, or given up.
        skips : ranges of ids that will never come in this stream, half-open.
        """
        stream = self._stream
        if self._closed:
            raise LocalProtocolError(f"the writer of {stream} is closed")
        names, link = (stream.source, stream.name), self._link
        made = settle(link, *names, held, skips, self._timeout, self._settled)
        with link.lock:
            if not made.done():
                self._unsettled.add(made)
        return made

    def _settled(self, settlement: Settlement) -> None:
        self._unsettled.discard(settlement)
        if settlement.failed:
            self._refused.append(settlement)
        self._changed.notify_all()

    def frame(
        self, shape: tuple[int, ...] | int, dtype: DTypeLike, meta: Meta | None = None, **how: Any
    ) -> FilledFrame:
        """Memory for an array that is filled in place and sent at the end of ``with``.

        Parameters
        ----------
        shape, dtype : of the array; its content is arbitrary at first.
        meta, how : as for `send`.
        """
        return FilledFrame(self, shape, dtype, meta, how)

    def _fill(self, nbytes: int, how: dict[str, Any]) -> tuple[memoryview, Filling | None]:
        """Memory for a frame, the node's own if possible."""
        if nbytes >= SMALL_NBYTES and not how.keys() & {"name", "codec", "level"}:
            filling = self._obtain(self._out, nbytes)
            if filling is not None:
                return filling.view, filling
        return self._memory.get(nbytes), None

    def _sent_in_place(
        self,
        array: np.ndarray[Any, Any],
        meta: Meta | None,
        filling: Filling,
        id: int | None = None,
        substream: int = 0,
        of: int = 0,
    ) -> Receipt:
        """Send an array that lies in `filling`."""
        info = packing.pack(array).info
        text, number = pack_meta(meta), 0 if id is None else check_id(id)
        put = self._put(array.nbytes, number, text, info, "", substream, of)
        run = self._send_filled(self._out, put, filling, filling.digest())
        return self._receipt(run, 0, 1)

    def skip(self, ids: Iterable[int] | int) -> None:
        """Say that these ids will never come, so that readers do not wait for them."""
        numbers = [ids] if isinstance(ids, int) else ids
        if isinstance(numbers, range) and numbers.step == 1:
            ranges = [(check_id(numbers.start), numbers.stop)] if numbers else []
        else:
            ranges = of_numbers(map(check_id, numbers))
        if ranges:
            stream = self._stream
            params = calls.Skip(source=stream.source, stream=stream.name, ranges=tuple(ranges))
            stream._hub._call(params)

    def _put(
        self,
        nbytes: int,
        id: int,
        text: bytes,
        info: bytes,
        path: str,
        substream: int = 0,
        of: int = 0,
    ) -> Put:
        """A put of one message, as yet without a digest."""
        if (substream or of) and not (id and 1 <= substream <= of <= limits.DATASET_SIZE_MAX):
            raise BadInput(
                f"substream {substream} of {of} with id {id or None} is no part of a dataset",
                hint="send(part, id=7, substream=1, of=4)",
            )
        if path:
            check_path(path)
        metas = (text,) if text else None
        return Put(0, 0, 1, (nbytes,), b"", id, None, metas, info, path, substream, of)

    def _send_one(self, out: Outgoing, put: Put, buffer: Buffer, held: Sequence[Held] = ()) -> Run:
        """Send one message that is a frame of its own, through the node's memory if possible."""
        nbytes = len(buffer)
        if nbytes >= SMALL_NBYTES and not put.name:
            filling = self._obtain(out, nbytes)
            if filling is not None:
                return self._send_filled(out, put, filling, filling.copy_in(buffer), held)
        mark = digest(buffer) if nbytes else packing.NO_DIGEST
        return self._send_run(out, msgspec.structs.replace(put, digests=mark), buffer, nbytes, held)

    def _send_run(
        self,
        out: Outgoing,
        put: Put,
        buffers: Buffer | list[Buffer],
        nbytes: int,
        held: Sequence[Held] = (),
    ) -> Run:
        parts = buffers if isinstance(buffers, list) else [buffers]
        link = self._link
        with link.lock:
            self._wait_for_room(out, put.count, nbytes)
            run = out.add_run(put, parts, nbytes, held)
        # Whoever sends large arrays may change them afterwards: they have to be gone by then.
        link.pump(all_of_it=nbytes >= SMALL_NBYTES)
        if nbytes >= SMALL_NBYTES and not run.tries:
            with link.lock:
                if not run.tries and run.left:
                    # It cannot leave now, and whoever sends it may fill it anew when we are back.
                    run.buffers = [bytes(part) for part in run.buffers]
        return run

    def _obtain(self, out: Outgoing, nbytes: int) -> Filling | None:
        """Memory of the node for a message, if it is on this machine and lends some."""
        if not self._link.session.lending.enabled:
            return None
        with self._link.lock:
            self._wait_for_room(out, 1, nbytes)
        return obtain(self._link, self._changed, out, nbytes, self._timeout)

    def _send_filled(
        self, out: Outgoing, put: Put, filling: Filling, mark: bytes, held: Sequence[Held] = ()
    ) -> Run:
        """Send what is in the node's memory already; `mark` is its digest."""
        link, place = self._link, filling.place
        with link.lock:
            if filling.piece.stale or out.error is not None:
                # The connection broke meanwhile: it goes by the socket.
                copy = bytes(filling.view)
                filling.piece.release()
                put = msgspec.structs.replace(put, digests=mark)
                run = out.add_run(put, [copy], len(copy), held)
            else:
                put = msgspec.structs.replace(put, digests=mark, place=place)
                run = out.add_run(put, [filling.view], len(filling.view), held)
                run.piece = filling.piece
        link.pump()
        return run

    def _wait_for_room(self, out: Outgoing, messages: int, nbytes: int) -> None:
        self._link.check()
        if self._closed:
            raise LocalProtocolError(f"the writer of {self._stream} is closed")

        def ready() -> bool:
            return out.error is not None or out.has_room(messages, nbytes)

        if not ready():
            out.seal()
            self._link.wake()
            what = f"the node has not taken enough of stream {self._stream.name!r}"
            self._link.wait(self._changed, ready, self._timeout, what)
        if out.error is not None:
            raise again(out.error)

    def _receipt(self, run: Run, lo: int, hi: int) -> Receipt:
        return Receipt(self._link, self._changed, ((run, lo, hi),))

    # ------------------------------------------------------------------ ending

    @property
    def waiting(self) -> int:
        """How many messages have no receipt yet."""
        return sum(out.messages for out in self._outgoing.values())

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was sent has its receipt, and all that was settled is.

        Raises
        ------
        TimedOut : receipts have not come in `timeout` seconds.
        Error : the first failed send that nobody has been told of; all are tried.
        """
        self._link.check()
        with self._link.lock:
            for out in self._outgoing.values():
                out.seal()
        self._link.pump()
        with self._link.lock:
            count = self.waiting + len(self._unsettled)
            what = f"there are no receipts for {count} messages of {self._stream}"
            self._link.wait(
                self._changed, lambda: not (self.waiting or self._unsettled), timeout, what
            )
        self.check()

    def check(self) -> None:
        """Raise the first error of a failed send that nobody has been told of."""
        with self._link.lock:
            fates = [fate for out in self._outgoing.values() for fate in out.faults]
            unseen = [fate for fate in fates if not fate.seen]
            for fate in unseen:
                fate.seen = True
            refused = [one for one in self._refused if not one.seen]
            self._refused.clear()
        found = [fate.error for fate in unseen] + [one.exception() for one in refused]
        if found and found[0] is not None:
            error = again(found[0])
            if len(found) > 1:
                error.add_note(f"{len(found) - 1} more sends of {self._stream} have failed")
            raise error

    def finish(self, last_id: int | None = None, *, next_stream: str = "") -> int:
        """Wait for all receipts, say that the stream ends, and return its last id."""
        self.flush()
        return self._stream.finish(last_id, next_stream=next_stream or self._next_stream)

    def close(self, *, finish: bool | None = None) -> None:
        """Wait for all receipts; finish the stream if it was made so, or `finish` says so."""
        if self._closed:
            return
        try:
            self.flush()
            if self._finish if finish is None else finish:
                self.finish()
        finally:
            self._end()

    def _end(self) -> None:
        self._closed = True
        with self._link.lock:
            for out in self._outgoing.values():
                if self._link.session.error is None:
                    self._link.session.close_writer(out)
        self._link.pump()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
            return
        # What was sent before the exception was sent; but it is the exception that matters now.
        try:
            self.flush(5.0)
        except Error as failed:
            if error is not None:
                error.add_note(f"while leaving the writer of {self._stream}: {failed}")
        finally:
            self._end()


def to_level(level: Level | str | int | None) -> int:
    """A durability level by name or number; None: the node's.

    >>> to_level("os"), to_level(None)
    (1, -1)
    """
    if level is None:
        return DEFAULT_LEVEL
    try:
        return int(Level[level.upper()] if isinstance(level, str) else Level(level))
    except (KeyError, ValueError):
        raise BadInput(f"{level!r} is no level", hint='"cache", "os" or "disk"') from None

"""Messages that come once more, as messages of another stream.

A copy shares the payload of its original, as a part of a join does, and has its id, name and
metadata; it arrives now. One call is one unit of the catalog: all of its messages or none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from beamstream.errors import BadInput, Error, ReadOnly
from beamstream.model import Dataset, Item, Level, Record
from beamstream.server.commits import Commits
from beamstream.server.made import first_error
from beamstream.server.streams import Streams, View
from beamstream.store import catalog as ops


class Copies:
    """Copies messages between the streams of a beamtime.

    Parameters
    ----------
    durability : of the copies, at most as that of the originals.
    """

    def __init__(self, streams: Streams, commits: Commits, durability: Level) -> None:
        self._streams = streams
        self._commits = commits
        self._durability = int(durability)

    async def copy(
        self, view: View, items: Sequence[Item], source: str, stream: str, run: int
    ) -> None:
        """Record these items of `view` in a stream; returns when they are there and safe.

        Those that are there already with the same content are passed over.

        Raises
        ------
        BadInput : into the same stream.
        IdConflict, StreamFinished : there is something else of such an id, or the stream is of the
            other kind, or has ended. Nothing is copied.
        """
        if (view.source, view.name) == (source, stream):
            raise BadInput(f"stream {stream!r} cannot be copied into itself")
        arrived_ns = time.time_ns()
        puts = [
            self._put(view, item, record, source, stream, run, arrived_ns)
            for item in items
            for record in (item.parts if isinstance(item, Dataset) else (item,))
        ]
        if puts:
            await _Copying(self._streams, self._commits, view.beamtime, puts).done

    def _put(
        self,
        view: View,
        item: Item,
        record: Record,
        source: str,
        stream: str,
        run: int,
        arrived_ns: int,
    ) -> ops.Put:
        return ops.Put(
            source=source,
            stream=stream,
            id=record.id,
            name=record.name,
            size=record.size,
            digest=record.digest,
            meta=record.meta,
            timestamp_ns=arrived_ns,
            arrived_ns=arrived_ns,
            mode=record.mode,
            level=min(record.level, self._durability),
            place=record.place,
            root=record.root,
            substream=record.substream,
            expected=item.expected if isinstance(item, Dataset) else 0,
            node=record.node,
            boot=record.boot,
            run=run,
            segment=record.segment,
            position=record.position,
            info=record.info,
            input_source=view.source,
            input_stream=view.name,
            input_seq=item.seq,
        )


class _Copying:
    """One unit of copies on its way; `done` is set when readers see them all."""

    def __init__(
        self, streams: Streams, commits: Commits, beamtime: str, puts: Sequence[ops.Put]
    ) -> None:
        self._streams = streams
        self._key = (beamtime, puts[0].source, puts[0].stream)
        self._puts = puts
        self._left = 1
        self._error: Error | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._view = streams.view(*self._key)
        self._view.busy += 1
        syncs = max(put.level for put in puts) >= Level.DISK
        self._hidden = self._hide() if syncs else set()
        submit = commits.submit_synced if syncs else commits.submit
        submit(beamtime, (ops.Unit(tuple(puts)),), self._recorded)

    def _hide(self) -> set[tuple[int, int]]:
        """Parts of datasets are not seen before they are safe; those that are there stay seen."""
        hidden = {(put.id, put.substream) for put in self._puts if put.substream}
        for id in {id for id, _ in hidden}:
            item = self._streams.item_by_id(self._view, id)
            if isinstance(item, Dataset):
                hidden -= {(id, part.substream) for part in item.parts}
        self._view.hidden_parts |= hidden
        return hidden

    def _recorded(self, outcome: Sequence[ops.Result] | Error) -> None:
        self._view.busy -= 1
        results = outcome if isinstance(outcome, Error) else outcome[0]
        error = results if isinstance(results, Error) else first_error(results)
        if isinstance(error, ReadOnly):
            self._streams.fail(self._view, error)
        if error is None:
            assert isinstance(results, tuple)
            view = self._streams.view(*self._key)
            for put, result in zip(self._puts, results, strict=True):
                if isinstance(result, ops.Stored):
                    self._left += 1
                    record = result.record(put)
                    self._streams.show(
                        view, result.stream, result.seq, result.id, record, self._shown
                    )
        # What is shown is hidden no more; of what was refused nothing is to be seen.
        self._view.hidden_parts -= self._hidden
        self._shown(error)

    def _shown(self, error: Error | None) -> None:
        self._error = self._error or error
        self._left -= 1
        if self._left or self.done.done():
            return
        if self._error is not None:
            self.done.set_exception(self._error)
        else:
            self.done.set_result(None)

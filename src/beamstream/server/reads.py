"""What the reads mean that belong to no group: by id, last, sizes, lists, metadata, search."""

from __future__ import annotations

from beamstream import limits
from beamstream.errors import BadInput, BadQuery, TimedOut
from beamstream.model import Dataset, Item, Record, StreamInfo
from beamstream.server.delivery import Found, Nothing, Want, check_kind, select
from beamstream.server.payloads import Payloads, Spot
from beamstream.server.streams import Streams, View
from beamstream.store.catalog import Catalog
from beamstream.store.query import Query, parse


class Reads:
    """Reads of streams as they are visible."""

    def __init__(self, catalog: Catalog, streams: Streams, payloads: Payloads) -> None:
        self._catalog = catalog
        self._streams = streams
        self._payloads = payloads

    def by_id(self, view: View, id: int, want: Want | None) -> Found | Nothing:
        """A message or dataset by its id.

        Raises
        ------
        BadInput : id 0, or the stream is of the other kind.
        """
        if not id:
            raise BadInput("ids start at 1")
        check_kind(view, want)
        item = self._streams.item_by_id(view, id)
        if item is not None:
            return select(item, want) if want and isinstance(item, Dataset) else Found(item)
        if view.finished and id > view.last_id:
            return Nothing(view.last_id, view.last_id, True)
        return Nothing(id, view.id_max, view.finished)

    def last(self, view: View, want: Want | None) -> Found | Nothing:
        """The item with the largest id, of datasets the largest that has what is wanted."""
        if view.finished:
            return Nothing(view.last_id, view.last_id, True)
        check_kind(view, want)
        item: Item | None
        if want is None:
            item = self._streams.last(view)
        else:
            item = self._streams.last_dataset(view, want.min_size)
        return Found(item) if item is not None else Nothing(0, 0)

    def size(self, view: View, incomplete: bool | None) -> int:
        """Number of messages, or of datasets with or without the incomplete ones.

        Raises
        ------
        BadInput : datasets are asked for and the stream has single messages.
        """
        if incomplete is None or not view.visible_seq:
            return view.count
        if not view.datasets:
            raise BadInput("no datasets found")
        if incomplete:
            return view.count
        return self._catalog.count_complete(view.beamtime, view.no, view.visible_seq)

    def streams(self, beamtime: str, source: str) -> list[StreamInfo]:
        """Streams of a source that have a visible message or a finish flag, by creation."""
        known = self._streams.known(beamtime, source)
        infos = {info.name: info for info in self._catalog.streams(beamtime, source)}
        for name, view in known.items():
            if view.exists:
                infos[name] = view.info()
            else:
                infos.pop(name, None)
        return sorted(infos.values(), key=lambda info: (info.created_ns, info.no))

    def sources(self, beamtime: str) -> list[str]:
        return self._catalog.sources(beamtime)

    def meta(self, beamtime: str, source: str, stream: str) -> bytes | None:
        return self._catalog.meta(beamtime, source, stream)

    def search(self, view: View, text: str) -> list[Record]:
        """Records that match a query. Blocks: call it in a thread.

        Raises
        ------
        BadQuery : not understood, too many hits, or it took too long.
        """
        query = parse(text)
        if not view.no:
            return []
        found = self.matching(view, query, limits.QUERY_ROWS_MAX + 1)
        if len(found) > limits.QUERY_ROWS_MAX:
            raise BadQuery(
                f"more than {limits.QUERY_ROWS_MAX} messages match",
                hint="narrow the query, for example by a range of _id",
            )
        return found

    def matching(self, view: View, query: Query, limit: int) -> list[Record]:
        """The first `limit` visible records that match. Blocks: call it in a thread.

        Raises
        ------
        BadQuery : it took too long.
        """
        try:
            return self._catalog.search(
                view.beamtime,
                view.no,
                query,
                upto_seq=view.visible_seq,
                limit=limit,
                seconds_max=limits.QUERY_SECONDS_MAX,
            )
        except TimedOut:
            raise BadQuery(
                f"the query took longer than {limits.QUERY_SECONDS_MAX:g} s",
                hint="narrow it, for example by a range of _id",
            ) from None

    # ------------------------------------------------------------------ payloads

    def spot(self, view: View, record: Record) -> Spot | None:
        """Where the payload of a record is in memory."""
        return self._payloads.find(view, record)

    def buf_id(self, view: View, record: Record) -> int:
        """The address of a payload for readers, 0 when it is not in memory."""
        return self._payloads.buf_id(view, record)

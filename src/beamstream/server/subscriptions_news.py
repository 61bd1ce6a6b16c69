"""What members of a desk are told beside messages: headers, and how far everything is settled.

Who does not read what was sent is told later, the newest only: nothing piles up.
"""

from __future__ import annotations

from collections.abc import Callable

from beamstream import limits
from beamstream.server.streams import View
from beamstream.server.subscriptions_members import Member
from beamstream.store.catalog import Catalog
from beamstream.wire.native.frames import Header, Settled


class _Told:
    """What a member knows."""

    def __init__(self, ref: int) -> None:
        self.ref = ref
        self.version = 0
        self.settled_seq = 0


class News:
    """Tells members what has changed, if they have asked for it.

    Parameters
    ----------
    settled_seq : finds the first seq that is not settled.
    """

    def __init__(self, catalog: Catalog, view: View, settled_seq: Callable[[], int]) -> None:
        self._catalog = catalog
        self._view = view
        self._settled_seq = settled_seq
        self._headers: dict[Member, _Told] = {}
        self._settled: dict[Member, _Told] = {}
        self._untold: dict[Member, None] = {}
        """Who may not know the header that there is."""

    @property
    def of_settled(self) -> bool:
        """Whether anybody wants to know what is settled."""
        return bool(self._settled)

    def join(self, member: Member, ref: int) -> None:
        told = _Told(ref)
        if member.frame.headers:
            self._headers[member] = told
            self._untold[member] = None
        if member.frame.settled:
            self._settled[member] = told

    def leave(self, member: Member) -> None:
        self._headers.pop(member, None)
        self._untold.pop(member, None)
        self._settled.pop(member, None)

    def header_changed(self) -> bool:
        """Whether anybody wants to know; they are told by `tell`."""
        self._untold = dict.fromkeys(self._headers)
        return bool(self._untold)

    def greet(self) -> None:
        """Tell of headers, and newcomers where the group is.

        Raises
        ------
        Error : the records cannot be read.
        """
        untold = [member for member in self._untold if member.outlet.writable]
        if untold:
            self._tell_header(untold)
        newcomers = [member for member, told in self._settled.items() if not told.settled_seq]
        if newcomers:
            self._tell_settled(newcomers)

    def tell(self) -> None:
        """Tell who wants to know how far everything is settled, if that has changed."""
        if self._settled:
            self._tell_settled(list(self._settled))

    def _tell_header(self, members: list[Member]) -> None:
        view = self._view
        header = self._catalog.header(view.beamtime, view.source, view.name, 0)
        document = header.document if header is not None else b""
        if len(document) > limits.HEADER_PUSHED_NBYTES_MAX:
            document = b""
        for member in members:
            del self._untold[member]
            told = self._headers[member]
            if header is not None and told.version != header.version:
                told.version = header.version
                member.outlet.header(Header(member.channel, told.ref, header.version, document))

    def _tell_settled(self, members: list[Member]) -> None:
        seq = self._settled_seq()
        for member in members:
            told = self._settled[member]
            if told.settled_seq != seq and member.outlet.writable:
                told.settled_seq = seq
                member.outlet.settled(Settled(member.channel, told.ref, seq))

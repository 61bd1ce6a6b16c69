"""Looking messages up by id: pages of what a call has fetched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from beamstream import limits
from beamstream.client.native import receiving
from beamstream.client.native.arrived import Arrived
from beamstream.client.native.messages import Columns, DatasetMessage, Message, each
from beamstream.errors import RemoteProtocolError
from beamstream.wire.native import calls

if TYPE_CHECKING:
    from beamstream.client.native.hub import Hub

PAGE: Final = 256
PAGE_NBYTES: Final = 16 * limits.MIB


def messages(
    source: str, stream: str, fetched: calls.Fetched, body: memoryview, *, verify: bool = True
) -> list[Message | DatasetMessage]:
    """What a call has fetched."""
    batch = fetched.batch
    if batch is None:
        return []
    receiving.check(batch)
    if len(body) != batch.body_nbytes():
        raise RemoteProtocolError(
            f"{batch.count} messages of stream {stream!r} came with {len(body)} bytes"
        )
    damaged = receiving.find_damage(batch, body) if verify and len(body) else {}
    return list(each(Columns(Arrived(source, stream, batch, body, None, damaged)), None))


def pages(
    hub: Hub, source: str, stream: str, ids: range, *, payloads: bool
) -> Iterator[Message | DatasetMessage]:
    """Messages with these ids, as far as they are there, page by page."""
    lo, hi = ids.start, ids.stop
    while lo < hi:
        params = calls.Fetch(
            source=source,
            stream=stream,
            lo=lo,
            hi=hi,
            limit=PAGE,
            payloads=payloads,
            nbytes_max=PAGE_NBYTES if payloads else 0,
        )
        fetched, body = hub._call_body(params)
        found = messages(source, stream, fetched, body, verify=hub._verify)
        for message in found:
            if message.id in ids:
                yield message
        if not found or not fetched.more:
            return
        lo = found[-1].id + 1

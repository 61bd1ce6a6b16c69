"""Beamstream: streaming for photon science.

>>> import beamstream as bs
>>> bs.connect, bs.errors.Error        # doctest: +ELLIPSIS
(<function connect at ...>, <class 'beamstream.errors.Error'>)

How a frame travels through this package::

    client.native           an array -> frames of our own protocol, many of them on their way
    wire.asapo, wire.native bytes -> requests (pure)
    server.doors            the kernel writes the payload into a slot of store.cache
    server.ingest, puts     check names, limits and identity; reserve id and path
    store.files, segments   the payload becomes a file, or part of the log, of the beamtime
    server.commits          the record joins the open commit of store.catalog
    server.streams          the message becomes visible, waiting readers are woken
    server.groups           decides who is handed the message next
    client.native           frames -> an array, in the memory into which it was received
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from beamstream._version import __version__

if TYPE_CHECKING:
    from beamstream import errors
    from beamstream.client.native.aio import AsyncHub, aconnect
    from beamstream.client.native.group import Group
    from beamstream.client.native.hub import Hub, connect
    from beamstream.client.native.messages import Batch, DatasetMessage, End, Gap, Message
    from beamstream.client.native.receipts import Receipt
    from beamstream.client.native.stream import Source, Stream
    from beamstream.client.native.writer import Writer
    from beamstream.errors import Error
    from beamstream.model import Level

__all__ = [
    "AsyncHub",
    "Batch",
    "DatasetMessage",
    "End",
    "Error",
    "Gap",
    "Group",
    "Hub",
    "Level",
    "Message",
    "Receipt",
    "Source",
    "Stream",
    "Writer",
    "__version__",
    "aconnect",
    "connect",
    "errors",
]

_NATIVE: Final = "beamstream.client.native"
_WHERE: Final = {
    "AsyncHub": f"{_NATIVE}.aio",
    "Batch": f"{_NATIVE}.messages",
    "DatasetMessage": f"{_NATIVE}.messages",
    "End": f"{_NATIVE}.messages",
    "Error": "beamstream.errors",
    "Gap": f"{_NATIVE}.messages",
    "Group": f"{_NATIVE}.group",
    "Hub": f"{_NATIVE}.hub",
    "Level": "beamstream.model",
    "Message": f"{_NATIVE}.messages",
    "Receipt": f"{_NATIVE}.receipts",
    "Source": f"{_NATIVE}.stream",
    "Stream": f"{_NATIVE}.stream",
    "Writer": f"{_NATIVE}.writer",
    "aconnect": f"{_NATIVE}.aio",
    "connect": f"{_NATIVE}.hub",
}


def __getattr__(name: str) -> Any:
    # Whoever wants an error or the version need not wait for numpy.
    if name == "errors":
        return importlib.import_module("beamstream.errors")
    if name not in _WHERE:
        raise AttributeError(f"module 'beamstream' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

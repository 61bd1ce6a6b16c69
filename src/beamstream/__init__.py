"""Beamstream: streaming for photon science.

How a frame travels through this package::

    wire.asapo.*            bytes -> requests (pure)
    server.doors.ingest     the kernel writes the payload into a slot of store.cache
    server.ingest           checks names, limits and identity; reserves id and path
    store.files             the payload becomes a file of the beamtime
    server.commits          the record joins the open commit of store.catalog
    server.streams          the message becomes visible, waiting readers are woken
    server.reads            a consumer group is handed the next message (server.groups decides)
    server.doors.data       the payload leaves the slot by a socket
"""

from beamstream._version import __version__

__all__ = ["__version__"]

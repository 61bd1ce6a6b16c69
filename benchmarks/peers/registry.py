"""All peers, in the order of the table."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.peers import (
    beamstream_native,
    jetstream,
    memory_copy,
    pvapy,
    raw_socket,
    redis_streams,
    zeromq,
)
from benchmarks.peers.interface import Peer

REFERENCE = raw_socket.PEERS[0]
"""What all the others are a share of."""

PEERS: tuple[Peer, ...] = (
    *raw_socket.PEERS,
    *memory_copy.PEERS,
    *beamstream_native.PEERS,
    *zeromq.PEERS,
    *pvapy.PEERS,
    *redis_streams.PEERS,
    *jetstream.PEERS,
)


def chosen(keys: Sequence[str]) -> list[Peer]:
    """Return the peers whose keys begin with one of `keys`, and the reference; all without keys.

    >>> [peer.title for peer in chosen(["zm"])]
    ['raw socket', 'ZeroMQ PUSH/PULL']
    """
    wanted = tuple(key for key in keys if key)
    return [
        peer for peer in PEERS if not wanted or peer is REFERENCE or peer.key.startswith(wanted)
    ]

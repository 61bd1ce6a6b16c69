"""What every door wants of its sockets."""

from __future__ import annotations

import asyncio
import resource
import socket

_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 20),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


def keep_alive(transport: asyncio.BaseTransport) -> None:
    """Have the kernel notice within two minutes that a silent peer is gone.

    Idle connections may stay for ever, so nothing else would notice a machine that lost its power.
    """
    peer: socket.socket | None = transport.get_extra_info("socket")
    if peer is not None and peer.family in (socket.AF_INET, socket.AF_INET6):
        for level, option, value in _KEEPALIVE:
            peer.setsockopt(level, option, value)


def allow_many_descriptors() -> None:
    """Use all the descriptors that the system lets this process have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

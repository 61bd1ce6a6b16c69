"""A plain ASAPO producer and consumer of our own, over wire.asapo."""

from __future__ import annotations

from beamstream.client.asapo.consumer import Consumer, Resend
from beamstream.client.asapo.errors import (
    EndReached,
    Finished,
    Incomplete,
    Missing,
    NotInCache,
    ServerFault,
    Unavailable,
    Unsupported,
)
from beamstream.client.asapo.producer import Producer, Sent
from beamstream.client.asapo.records import Dataset, Message, Stream

__all__ = [
    "Consumer",
    "Dataset",
    "EndReached",
    "Finished",
    "Incomplete",
    "Message",
    "Missing",
    "NotInCache",
    "Producer",
    "Resend",
    "Sent",
    "ServerFault",
    "Stream",
    "Unavailable",
    "Unsupported",
]

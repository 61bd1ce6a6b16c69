"""The Python client of Beamstream's own protocol.

``session``, ``outgoing`` and ``incoming`` are the pure core; ``link`` keeps a session up with two
threads and a socket; ``hub``, ``stream``, ``writer``, ``group`` and ``messages`` are what people
use; ``aio`` is the same for asyncio.
"""

"""The Python client of Beamstream's own protocol.

``session``, ``outgoing``, ``incoming``, ``asking`` and ``origins`` are the pure core; ``link``
keeps a session up with two threads and a socket; ``hub``, ``stream``, ``writer``, ``group``,
``messages`` and ``events`` are what people use; ``aio`` is the same for asyncio.
"""

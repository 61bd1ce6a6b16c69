"""Beamstream's own protocol: bytes <-> frames. Pure.

``framing`` cuts a connection into frames, ``frames`` are the ones of a session, ``batches`` say how
messages travel in them, ``calls`` are questions and answers. Normative text:
docs/reference/native-protocol.md.
"""

"""Bytes <-> events. Pure: no socket, no clock, no asyncio."""

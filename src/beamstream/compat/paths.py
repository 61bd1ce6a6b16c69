"""Paths and parameters of a consumer's questions, below the data source."""

from __future__ import annotations

from typing import Any

from beamstream.compat.arguments import unsigned
from beamstream.compat.consumer_errors import refused
from beamstream.wire.asapo.urls import escape


def not_empty(stream: str) -> str:
    """Return `stream`; `AsapoWrongInputError` if it is empty."""
    if not stream:
        raise refused("empty stream")
    return stream


def group_path(stream: str, group: str) -> str:
    """Return what all questions about a group in a stream begin with.

    >>> group_path("scan 1", "g")
    'scan%201/g'
    """
    if not group:
        raise refused("group id must not be empty")
    return f"{escape(stream)}/{escape(group)}"


def last_path(stream: str, group: str) -> str:
    """Return the path of the last message, with a group of the last that this has not had."""
    return f"{group_path(stream, group)}/groupedlast" if group else f"{escape(stream)}/0/last"


def by_id_path(id: int, stream: str) -> str:  # noqa: A002
    """Return the path of one message."""
    if not id:
        raise refused("id should be positive")
    return f"{escape(stream)}/0/{id}"


def dataset_params(min_size: Any, substream: Any) -> str:
    """Return the parameters that make a question one about datasets."""
    part, size = unsigned(substream), unsigned(min_size)
    # A part alone is whole as soon as it is there.
    return f"&dataset=true&minsize={1 if part else size}&substream={part}"


def flag(value: Any) -> str:
    """Return a truth value as the broker takes it."""
    return "true" if value else "false"

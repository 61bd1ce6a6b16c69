"""Exceptions of a producer, each as a tuple: the official class and that of the drop-in module."""

from __future__ import annotations

from official.implementations import IMPLEMENTATIONS


def _all(name: str) -> tuple[type[Exception], ...]:
    return tuple(getattr(clients.producer, name) for clients in IMPLEMENTATIONS.values())


AsapoLocalIOError = _all("AsapoLocalIOError")
AsapoProducerError = _all("AsapoProducerError")
AsapoRequestsPoolIsFull = _all("AsapoRequestsPoolIsFull")
AsapoServerWarning = _all("AsapoServerWarning")
AsapoTimeOutError = _all("AsapoTimeOutError")
AsapoUnsupportedClientError = _all("AsapoUnsupportedClientError")
AsapoWrongInputError = _all("AsapoWrongInputError")

"""Exceptions of a consumer, each as a tuple: the official class and that of the drop-in module."""

from __future__ import annotations

from official.implementations import IMPLEMENTATIONS


def _all(name: str) -> tuple[type[Exception], ...]:
    return tuple(getattr(clients.consumer, name) for clients in IMPLEMENTATIONS.values())


AsapoConsumerError = _all("AsapoConsumerError")
AsapoDataNotInCacheError = _all("AsapoDataNotInCacheError")
AsapoEndOfStreamError = _all("AsapoEndOfStreamError")
AsapoInterruptedTransactionError = _all("AsapoInterruptedTransactionError")
AsapoLocalIOError = _all("AsapoLocalIOError")
AsapoNoDataError = _all("AsapoNoDataError")
AsapoPartialDataError = _all("AsapoPartialDataError")
AsapoStreamFinishedError = _all("AsapoStreamFinishedError")
AsapoUnavailableServiceError = _all("AsapoUnavailableServiceError")
AsapoUnsupportedClientError = _all("AsapoUnsupportedClientError")
AsapoWrongInputError = _all("AsapoWrongInputError")

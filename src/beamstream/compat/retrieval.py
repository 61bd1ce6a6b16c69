"""Payloads as arrays, and the exceptions that programs expect when there is none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from beamstream.client.asapo.payloads import Payloads
from beamstream.client.asapo.records import Message
from beamstream.compat.consumer_errors import AsapoLocalIOError, AsapoUnavailableServiceError
from beamstream.errors import BadName, Corrupt, NotFound, RemoteProtocolError, TooLarge


def retrieve(payloads: Payloads, message: Message) -> npt.NDArray[np.int8]:
    """Return the payload of `message`, an array of its own.

    Raises
    ------
    AsapoLocalIOError : it is to be read from a folder, and cannot.
    AsapoUnavailableServiceError : the server does not have its file.
    Error : all else that `Payloads.fetch` raises.
    """
    try:
        view = payloads.fetch(message)
    except (BadName, Corrupt, NotFound, TooLarge) as error:
        if payloads.filesystem:
            raise AsapoLocalIOError(f"error: local i/o error, message: {error}") from None
        if isinstance(error, BadName | NotFound):
            raise AsapoUnavailableServiceError(
                f"error: service unavailable, message: {error}"
            ) from None
        raise RemoteProtocolError(str(error)) from None
    return np.asarray(view, np.uint8).view(np.int8)

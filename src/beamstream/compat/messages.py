"""What a program hands to a producer, checked as the official module does it and made a request."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any, Final

from beamstream import limits
from beamstream.client.asapo.encode import as_bytes
from beamstream.client.asapo.link import Buffer
from beamstream.client.asapo.outbox import Parcel
from beamstream.client.asapo.producer import pack_message
from beamstream.compat.arguments import unsigned
from beamstream.compat.producer_errors import (
    AsapoLocalIOError,
    AsapoProducerError,
    AsapoServerWarning,
    AsapoWrongInputError,
    refused,
    translated,
)
from beamstream.compat.producer_log import Log
from beamstream.wire.asapo.structs import Code, IngestMode, Reply

PATH_NBYTES_MAX: Final = 1024

Callback = Callable[[dict[str, Any], AsapoProducerError | None], object]

_DATA: Final = int(IngestMode.TRANSFER_DATA)
_META_ONLY: Final = int(IngestMode.METADATA_ONLY)
_FILE: Final = int(IngestMode.STORE_IN_FILESYSTEM)
_RECORD: Final = int(IngestMode.STORE_IN_DATABASE)


class Heading:
    """Where a message goes, and how: everything but its content.

    Raises
    ------
    AsapoWrongInputError, OverflowError, TypeError : the server would not take it, or ASAPO's
        client does not send it.
    """

    def __init__(
        self,
        id: int,  # noqa: A002
        path: str,
        stream: str,
        dataset: Any,
        mode: int,
        auto_id: bool,
    ) -> None:
        if not path:
            raise refused("empty filename")
        if len(path.encode()) > PATH_NBYTES_MAX:
            raise refused("too long filename")
        if not stream:
            raise refused("stream empty")
        check_mode(mode)
        substream, size = (unsigned(dataset[0]), unsigned(dataset[1])) if dataset else (0, 0)
        if substream and not size:
            raise refused("dataset dimensions")
        if auto_id:
            if id:
                raise refused("message id should be 0 for auto id mode")
            if substream:
                raise refused("auto id mode not implemented for datasets")
        elif not id:
            raise refused("message id should be positive")
        self.id = id
        self.path = path
        self.stream = stream
        self._dataset = (substream, size) if substream else None
        self._mode = mode

    @property
    def has_data(self) -> bool:
        """Whether a payload is sent."""
        return bool(self._mode & _DATA)

    def pack(self, nbytes: int, meta: bytes) -> bytes:
        """Return the header for a payload of so many bytes."""
        return pack_message(
            self.id, self.path, self.stream, nbytes, len(meta), self._mode, self._dataset
        )


def check_mode(mode: int) -> None:
    """Raise `AsapoWrongInputError` if the bits of an ingest mode contradict each other.

    >>> check_mode(13)
    >>> check_mode(3)
    Traceback (most recent call last):
    beamstream.compat.producer_errors.AsapoWrongInputError: error: wrong input, ...
    """
    data, meta_only = bool(mode & _DATA), bool(mode & _META_ONLY)
    kept = bool(mode & (_FILE | _RECORD))
    if data == meta_only or (data and not kept) or (meta_only and mode & _FILE):
        raise refused(f"wrong ingest mode {mode}")


def meta_bytes(user_meta: Any) -> bytes:
    """Return user metadata, a dict or JSON text, as they are sent.

    >>> meta_bytes({"energy": 12.4})
    b'{"energy": 12.4}'
    """
    if user_meta is None:
        return b""
    if isinstance(user_meta, dict):
        return json.dumps(user_meta).encode()
    try:
        json.loads(user_meta)
    except (TypeError, ValueError, RecursionError) as error:
        raise AsapoWrongInputError(
            f"Failed to interpret user_meta as json string: {error}"
        ) from None
    return user_meta.encode() if isinstance(user_meta, str) else bytes(user_meta)


def data_bytes(data: Any) -> memoryview | bytes:
    """Return a view of a payload, without a copy."""
    try:
        contiguous = memoryview(data).c_contiguous
    except TypeError:
        raise AsapoProducerError(f"wrong data type: {type(data)}") from None
    except ValueError:
        contiguous = True  # an array of times, for which there are no views but bytes
    if not contiguous:
        raise AsapoWrongInputError(
            "the array does not lie in one piece: send numpy.ascontiguousarray(array)"
        )
    return as_bytes(data)


class Call(Parcel):
    """A request, and the callback that is told how it ended.

    Parameters
    ----------
    parts : header, metadata, payload; what they are views of must not change until it is sent.
    told : what the callback gets, the server's response still to be filled in.
    """

    def __init__(
        self,
        parts: Sequence[Buffer],
        what: str,
        told: dict[str, Any],
        callback: Callback | None,
        log: Log,
    ) -> None:
        super().__init__(sum(map(len, parts[1:])), what)
        self._parts = parts
        self._told = told
        self._callback = callback
        self._log = log

    def parts(self) -> Sequence[Buffer]:
        return self._parts

    def delivered(self, reply: Reply) -> None:
        if reply.code == Code.WARNING:
            self._log("warn", f"warning from server for {self.what}: {reply.text}")
            text = f"error: server warning, details: response:{reply.text}"
            self._tell(b"", AsapoServerWarning(text))
        else:
            self._log("debug", f"sent {self.what}")
            self._tell(reply.text.encode(), None)

    def failed(self, error: Exception) -> None:
        self._log("error", f"cannot send {self.what}: {error}")
        self._tell(b"", translated(error))

    def _tell(self, response: bytes, error: AsapoProducerError | None) -> None:
        callback, self._callback = self._callback, None
        if callback is None:
            return
        self._told["server_response"] = response
        try:
            callback(self._told, error)
        except BaseException as problem:
            # The thread has other messages to send.
            self._log("error", f"the callback of {self.what} raised {problem!r}")


class FileCall(Call):
    """A message whose payload is a file, read when it is its turn."""

    def __init__(
        self,
        heading: Heading,
        meta: bytes,
        local_path: str,
        what: str,
        told: dict[str, Any],
        callback: Callback | None,
        log: Log,
    ) -> None:
        super().__init__((b"", meta), what, told, callback, log)
        self._heading = heading
        self._meta = meta
        self._local_path = local_path

    def parts(self) -> Sequence[Buffer]:
        data = self._read() if self._heading.has_data else b""
        return self._heading.pack(len(data), self._meta), self._meta, data

    def _read(self) -> bytes:
        path = self._local_path
        try:
            with open(path, "rb") as file:
                nbytes = os.fstat(file.fileno()).st_size
                if nbytes <= limits.PAYLOAD_NBYTES_MAX:
                    return file.read(nbytes)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            text = f"error: local i/o error, message: error: {reason}, details: name:{path}"
            raise AsapoLocalIOError(text) from None
        raise AsapoWrongInputError(
            f"error: wrong input, message: {path} has {nbytes} bytes, "
            f"{limits.PAYLOAD_NBYTES_MAX} are allowed"
        )

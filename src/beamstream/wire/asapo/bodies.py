"""What clients send in the bodies of requests: JSON of HTTP calls, metadata of special messages.

The official clients paste strings into JSON without escaping. Protocol sections 4, 5.7, 5.9, 6.1
and 8.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from beamstream import limits
from beamstream.errors import RemoteProtocolError
from beamstream.wire.asapo.routes import HttpError
from beamstream.wire.asapo.structs import Request

FINISH_NAME: Final = "asapo_finish_stream"
"""Path of the message that ends a stream; its id is the last id + 1."""

NO_NEXT: Final = "asapo_no_next"
"""What stands for "no next stream" in its metadata."""

BEAMTIME_META_NAME: Final = "beamtime_global.meta"


class FolderRequest(msgspec.Struct, frozen=True, gc=False):
    """A consumer asks for a token for the files in `folder` ("auto": those of the beamtime)."""

    folder: str = msgspec.field(name="Folder", default="")
    beamtime: str = msgspec.field(name="BeamtimeId", default="")
    token: str = msgspec.field(name="Token", default="")

    def __repr__(self) -> str:
        return f"<FolderRequest {self.folder!r} of {self.beamtime!r}>"


class TransferRequest(msgspec.Struct, frozen=True, gc=False):
    """A consumer asks for a file."""

    folder: str = msgspec.field(name="Folder")
    name: str = msgspec.field(name="FileName")


class DeleteRequest(msgspec.Struct, frozen=True, gc=False):
    """Delete a stream; `error_if_absent` is the client's wish to be told."""

    error_if_absent: bool = msgspec.field(name="ErrorOnNotExist")
    with_meta: bool = msgspec.field(name="DeleteMeta")


class AckRequest(msgspec.Struct, frozen=True, gc=False):
    """`negative`: give it to somebody again, after `delay_ms`."""

    negative: bool
    delay_ms: int = 0


class _Introspect(msgspec.Struct):
    token: str = msgspec.field(name="Token", default="")


class _Delay(msgspec.Struct):
    delay_ms: int = msgspec.field(name="DelayMs", default=0)


class _Ack(msgspec.Struct):
    op: str = msgspec.field(name="Op", default="")
    params: _Delay | None = msgspec.field(name="Params", default=None)


class _Finish(msgspec.Struct):
    next_stream: str


_T = TypeVar("_T")


def _decode(body: bytes, type_: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HttpError(400, f"request body is not understood: {error}") from None


def parse_folder_request(body: bytes) -> FolderRequest:
    """Raise `HttpError` 400 when something is missing, empty or not text.

    >>> parse_folder_request(b'{"Folder":"auto","BeamtimeId":"bt1","Token":"T"}').folder
    'auto'
    """
    request = _decode(body, FolderRequest)
    if not (request.folder and request.beamtime and request.token):
        raise HttpError(400, "some request fields are empty")
    return request


def parse_introspect_request(body: bytes) -> str:
    """Return the token; `HttpError` 400 when there is none."""
    token = _decode(body, _Introspect).token
    if not token:
        raise HttpError(400, "some request fields are empty")
    return token


def parse_transfer_request(body: bytes) -> TransferRequest:
    """Raise `HttpError` 400 when something is missing or not text."""
    request = _decode(body, TransferRequest)
    if not request.name:
        raise HttpError(400, "the name of the file is empty")
    return request


def parse_ack_request(body: bytes) -> AckRequest:
    """Raise `HttpError`: 400 not JSON or a bad delay, 503 an unknown operation.

    >>> parse_ack_request(b'{"Op":"negackmessage","Params":{"DelayMs":250}}').delay_ms
    250
    """
    request = _decode(body, _Ack)
    match request.op:
        case "ackmessage":
            return AckRequest(False)
        case "negackmessage":
            delay_ms = request.params.delay_ms if request.params else 0
            if not 0 <= delay_ms <= limits.ID_MAX:
                raise HttpError(400, f"a delay of {delay_ms} ms is not possible")
            return AckRequest(True, delay_ms)
    raise HttpError(503, f"Wrong db operation: {request.op[:80]}")


def parse_delete_request(body: bytes) -> DeleteRequest:
    """Raise `HttpError` 400 unless both flags are there."""
    try:
        return msgspec.json.decode(body, type=DeleteRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        shown = body[:200].decode("utf-8", "replace")
        raise HttpError(400, f"wrong params: {shown}") from None


# ------------------------------------------------------------------------ written by clients


def folder_request(folder: str, beamtime: str, token: str) -> bytes:
    return msgspec.json.encode(FolderRequest(folder, beamtime, token))


def transfer_request(folder: str, name: str) -> bytes:
    return msgspec.json.encode(TransferRequest(folder, name))


def delete_request(*, error_if_absent: bool, with_meta: bool) -> bytes:
    return msgspec.json.encode(DeleteRequest(error_if_absent, with_meta))


def ack_request() -> bytes:
    return b'{"Op":"ackmessage"}'


def nack_request(delay_ms: int) -> bytes:
    return b'{"Op":"negackmessage","Params":{"DelayMs":%d}}' % delay_ms


def finish_meta(next_stream: str) -> bytes:
    """Return the metadata of a finish flag; `next_stream` empty for none.

    >>> finish_meta("")
    b'{"next_stream":"asapo_no_next"}'
    """
    return msgspec.json.encode({"next_stream": next_stream or NO_NEXT})


# -------------------------------------------------------------------- special messages


def parse_finish_meta(meta: bytes) -> str:
    """Return the next stream that a finish flag's metadata announces, empty for none.

    Raises
    ------
    RemoteProtocolError : not a JSON object with the text `next_stream`.

    >>> parse_finish_meta(b'{"next_stream":"asapo_no_next"}')
    ''
    """
    try:
        name = msgspec.json.decode(meta, type=_Finish).next_stream
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"metadata of a finish flag is not understood: {error}") from None
    return "" if name == NO_NEXT else name


def meta_target(request: Request) -> str:
    """Return the stream whose metadata a request of op 8 or 10 is about, empty for the beamtime.

    Raises
    ------
    RemoteProtocolError : op 8 whose path does not belong to its stream.
    """
    expected = f"{request.stream}.meta" if request.stream else BEAMTIME_META_NAME
    if request.op == 8 and request.path != expected:
        raise RemoteProtocolError(
            f"metadata named {request.path[:80]!r} of stream {request.stream[:80]!r} is refused",
            hint="the name is '<stream>.meta', or 'beamtime_global.meta' without a stream",
        )
    return request.stream


def meta_mode(request: Request) -> tuple[int, bool]:
    """Return (mode, upsert) of a request of op 8: mode 1 insert, 2 replace, 3 update.

    Raises
    ------
    RemoteProtocolError : any other mode.
    """
    upsert, mode = divmod(request.custom[1], 10)
    if upsert not in (0, 1) or mode not in (1, 2, 3):
        raise RemoteProtocolError(
            f"metadata mode {request.custom[1]} is not known",
            hint="1 insert, 2 replace, 3 update, and 10 more to write it if absent",
        )
    return mode, upsert == 1


def delete_flags(request: Request) -> DeleteRequest:
    """Return what a request of op 9 says beside the stream's name."""
    return DeleteRequest(
        error_if_absent=bool(request.custom[0] & 2), with_meta=bool(request.custom[0] & 1)
    )

"""Where a consumer gets payloads: the server's memory, the file system, the file transfer."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final

import numpy as np

from beamstream import limits
from beamstream.client.asapo.address import Address, parse_address
from beamstream.client.asapo.broker import POLL_SECONDS, STALL_SECONDS
from beamstream.client.asapo.discovery import Discovery
from beamstream.client.asapo.errors import NotInCache, ServerFault, Unavailable, Unsupported
from beamstream.client.asapo.http import Http, Response
from beamstream.client.asapo.link import Link
from beamstream.client.asapo.pauses import Pauses
from beamstream.client.asapo.records import Message
from beamstream.errors import (
    BadInput,
    BadName,
    BadToken,
    ConnectionLost,
    Corrupt,
    Error,
    NotFound,
    StorageError,
    TimedOut,
    TooLarge,
)
from beamstream.model import check_path
from beamstream.wire.asapo.bodies import folder_request, transfer_request
from beamstream.wire.asapo.reading import read_file_size
from beamstream.wire.asapo.structs import Code, IngestMode, OpCode, Reply, pack_request
from beamstream.wire.asapo.urls import escape

_DATA_VERSION: Final = "v0.1"
_LINKS_MAX: Final = 16
"""Data servers to which connections are kept: the nodes of one system."""
_IN_FILE: Final = int(IngestMode.STORE_IN_FILESYSTEM)
_WITHOUT_DATA: Final = int(IngestMode.METADATA_ONLY)


def new_buffer(nbytes: int, nbytes_max: int = limits.PAYLOAD_NBYTES_MAX) -> memoryview:
    """Memory for a payload; the kernel gives the pages as they are written.

    Raises
    ------
    TooLarge : more than `nbytes_max`, or than this machine has.
    """
    if nbytes > nbytes_max:
        raise TooLarge(f"the server announces {nbytes} bytes, at most {nbytes_max} are taken")
    try:
        return np.empty(nbytes, np.uint8).data
    except MemoryError:
        raise TooLarge(f"no memory for a payload of {nbytes} bytes") from None


class Payloads:
    """Fetches payloads by their records; one call at a time.

    Parameters
    ----------
    tag : begins the note for the server's monitoring (instance, step, beamtime, source).
    folder : the beamtime's folder as this machine sees it, or ``auto``.
    filesystem : files are read from `folder` itself, not through the file transfer.
    nbytes_max : the largest payload that is taken.
    """

    def __init__(
        self,
        http: Http,
        discovery: Discovery,
        *,
        beamtime: str,
        token: str,
        who: str,
        tag: str,
        folder: str,
        filesystem: bool,
        timeout_s: float,
        nbytes_max: int,
        pauses: Pauses,
    ) -> None:
        self._http = http
        self._discovery = discovery
        self._beamtime = beamtime
        self._token = token
        self._who = who
        self._tag = tag
        self._folder = folder
        self.filesystem = filesystem
        self.timeout_s = timeout_s
        self.connected = False
        """Whether a data server has been reached."""
        self.monitored = True
        """Whether requests carry the note for monitoring."""
        self._nbytes_max = nbytes_max
        self._pauses = pauses
        self._lock = threading.Lock()
        self._links: dict[str, Link] = {}
        self._folder_token = ""
        self._hosts: set[str] = set()

    def fetch(self, message: Message, into: memoryview | None = None) -> memoryview:
        """Return the payload of `message`, in `into` if that is given.

        Raises
        ------
        NotInCache : it was kept in memory only and is not there any more.
        NotFound, StorageError, Corrupt : its file is missing, unreadable or of another size.
        TooLarge : it is larger than what is taken, or than `into`.
        """
        if message.size > self._nbytes_max:
            raise TooLarge(
                f"{message} is announced with {message.size} bytes, "
                f"at most {self._nbytes_max} are taken"
            )
        if into is not None and len(into) < message.size:
            raise TooLarge(f"{message} has {message.size} bytes, the buffer {len(into)}")
        with self._lock:
            if message.buf_id and message.size:
                view = self._from_memory(message, into)
                if view is not None:
                    return view
            if message.mode and not message.mode & _IN_FILE:
                if not message.size and not message.mode & _WITHOUT_DATA:
                    return memoryview(b"")
                raise NotInCache(
                    f"the payload of {message} was kept in memory only and is gone", record=message
                )
            check_path(message.name)
            if self.filesystem:
                return self._from_folder(message, into)
            return self._from_transfer(message, into)

    def close(self) -> None:
        with self._lock:
            for link in self._links.values():
                link.close()
            self._links.clear()

    # ------------------------------------------------------------- data server

    def _from_memory(self, message: Message, into: memoryview | None) -> memoryview | None:
        view = into[: message.size] if into is not None else None
        if view is None:
            view = new_buffer(message.size, self._nbytes_max)
        request = pack_request(
            OpCode.GET_BUFFER_DATA,
            message.buf_id & (2**64 - 1),
            message.size,
            stream=_cut(f"{self._tag}§{message.stream}") if self.monitored else "",
            version=_DATA_VERSION,
        )
        known = message.source in self._links
        try:
            reply = self._ask(message.source, request, view)
        except (ConnectionLost, TimedOut):
            if not known:
                return None
            try:
                reply = self._ask(message.source, request, view)
            except (ConnectionLost, TimedOut):
                return None
        return view if reply.code == Code.SUCCESS else None

    def _ask(self, source: str, request: bytes, view: memoryview) -> Reply:
        link = self._links.get(source)
        if link is None:
            link = Link(self._allowed(source), STALL_SECONDS)
            while len(self._links) >= _LINKS_MAX:
                self._links.pop(next(iter(self._links))).close()
            self._links[source] = link
            self.connected = True
        good = False
        try:
            reply = link.ask((request,))
            if reply.code == Code.SUCCESS:
                link.receive_into(view)
            good = reply.code in (Code.SUCCESS, Code.NO_DATA)
            return reply
        finally:
            if not good:
                del self._links[source]
                link.close()

    def _allowed(self, source: str) -> Address:
        """The address in a record, if it is on a host that discovery named.

        A record holds what a producer's node wrote: nobody may send readers elsewhere by it.
        """
        try:
            address = parse_address(source)
        except BadInput:
            raise Unavailable(f"the record names {source[:100]!r} as data server") from None
        if address.host not in self._hosts:
            self._hosts |= _same_hosts(self._named())
        if address.host not in self._hosts and not _same_hosts({address.host}) & self._hosts:
            raise Unavailable(f"data server {address} is on no host that discovery names")
        return address

    def _named(self) -> Collection[str]:
        hosts = {self._discovery.endpoint.host}
        try:
            hosts |= {a.host for a in self._discovery.receivers().addresses}
            hosts.add(self._discovery.broker().host)
        except Error:
            pass
        return hosts

    # -------------------------------------------------------------- file system

    def _from_folder(self, message: Message, into: memoryview | None) -> memoryview:
        root = Path(self._folder).resolve()
        wait = self._pauses.begin()
        deadline_s = time.monotonic() + self.timeout_s
        while True:
            try:
                return self._read_file(root, message, into)
            except (FileNotFoundError, Corrupt) as error:
                # It may be on its way through a network file system.
                problem = error
            except OSError as error:
                raise StorageError(f"the file of {message} in {root}: {error}") from None
            if time.monotonic() >= deadline_s or wait(POLL_SECONDS):
                if isinstance(problem, Error):
                    raise problem
                raise NotFound(f"the file of {message} is not in {root}") from None

    def _read_file(self, root: Path, message: Message, into: memoryview | None) -> memoryview:
        path = (root / message.name).resolve()
        if not path.is_relative_to(root):
            raise BadName(f"the file of {message} would lie outside {root}")
        with path.open("rb", buffering=0) as file:
            nbytes = os.fstat(file.fileno()).st_size
            if message.size and nbytes != message.size:
                raise Corrupt(f"the file of {message} has {nbytes} bytes, not {message.size}")
            view = self._room(nbytes, into)
            filled = 0
            while filled < nbytes:
                got = file.readinto(view[filled:])
                if not got:
                    raise Corrupt(f"the file of {message} ends after {filled} bytes")
                filled += got
        return view

    def _room(self, nbytes: int, into: memoryview | None) -> memoryview:
        if into is None:
            return new_buffer(nbytes, self._nbytes_max)
        if nbytes > len(into):
            raise TooLarge(f"a file of {nbytes} bytes, the buffer has {len(into)}")
        return into[:nbytes]

    # ------------------------------------------------------------ file transfer

    def _from_transfer(self, message: Message, into: memoryview | None) -> memoryview:
        fresh = not self._folder_token
        wait = self._pauses.begin()
        deadline_s = time.monotonic() + self.timeout_s
        while True:
            try:
                return self._transfer(message, into)
            except BadToken:
                # Folder tokens are short-lived: a new one is asked for once.
                self._folder_token = ""
                if fresh:
                    raise
                fresh = True
                continue
            except (ConnectionLost, TimedOut, ServerFault):
                self._discovery.forget()
                if time.monotonic() >= deadline_s or wait(POLL_SECONDS):
                    raise

    def _transfer(self, message: Message, into: memoryview | None) -> memoryview:
        if not self._folder_token:
            self._folder_token = self._ask_folder_token()
        body = transfer_request(self._folder, message.name)
        size = message.size
        if not size:
            reply = self._post_transfer("&sizeonly=true", body, None, message)
            size = read_file_size(reply.body)
            if not size:
                return memoryview(b"")
        view = self._room(size, into)
        params = (
            f"{self._who}&beamtime={self._beamtime}&stream={escape(message.stream)}"
            f"&source={escape(message.source)}"
        )
        reply = self._post_transfer(params, body, view, message)
        if reply.nbytes != size:
            raise Corrupt(f"the file of {message} came with {reply.nbytes} bytes, not {size}")
        return view

    def _post_transfer(
        self, params: str, body: bytes, into: memoryview | None, message: Message
    ) -> Response:
        response = self._http.request(
            self._discovery.files(),
            "POST",
            f"/v0.2/transfer?token={self._token}{params}",
            body,
            cookie=f"Authorization=Bearer {self._folder_token}",
            timeout_s=STALL_SECONDS,
            into=into,
        )
        return _good(response, f"the file of {message}")

    def _ask_folder_token(self) -> str:
        body = folder_request(self._folder, self._beamtime, self._token)
        response = self._http.request(
            self._discovery.endpoint,
            "POST",
            f"/asapo-authorizer/v0.2/folder?token={self._token}",
            body,
            timeout_s=STALL_SECONDS,
            nbytes_max=limits.TOKEN_NBYTES_MAX,
        )
        token = _good(response, f"folder {self._folder!r} of beamtime {self._beamtime}").body
        if not token.isascii() or not token.decode("ascii").isprintable():
            raise ServerFault("the server's folder token is not text")
        return token.decode("ascii")


def _good(response: Response, what: str) -> Response:
    text = f"{what}: {response.text or f'status {response.status}'}"
    match response.status:
        case 200:
            return response
        case 400 | 401:
            raise BadToken(text)
        case 404:
            raise NotFound(text)
        case 503:
            raise Unavailable(text)
        case 415:
            raise Unsupported(text)
        case _:
            raise ServerFault(text)


def _same_hosts(hosts: Collection[str]) -> set[str]:
    """`hosts` with the addresses that their names stand for."""
    found = set(hosts)
    for host in hosts:
        try:
            found |= {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
        except OSError:
            pass
    return found


def _cut(text: str) -> str:
    """The beginning of `text` that fits into the request's field of 1023 bytes."""
    if len(text) * 4 <= limits.STREAM_NBYTES_MAX:
        return text
    return text.encode()[: limits.STREAM_NBYTES_MAX].decode("utf-8", "ignore")

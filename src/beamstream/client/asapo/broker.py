"""Requests to ASAPO's broker and what its answers mean: addresses, polling, errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from beamstream.client.asapo.address import Address
from beamstream.client.asapo.discovery import PROTOCOL, Discovery
from beamstream.client.asapo.errors import (
    EndReached,
    Finished,
    Incomplete,
    Missing,
    ServerFault,
    Unavailable,
    Unsupported,
)
from beamstream.client.asapo.http import Http, Response
from beamstream.client.asapo.pauses import Pauses
from beamstream.client.asapo.records import no_data_error, read_dataset
from beamstream.errors import (
    AlreadyAcknowledged,
    BadInput,
    BadToken,
    ConnectionLost,
    Error,
    NotFound,
    TimedOut,
)
from beamstream.wire.asapo.urls import escape

POLL_SECONDS: Final = 0.1
"""Between two attempts. The server knows a client that waits by this pause, and holds its next
request open until there is something."""
_HELD_SECONDS: Final = 0.8 * POLL_SECONDS
STALL_SECONDS: Final = 30.0
"""A server that does not answer for this long is given up."""


class Broker:
    """One beamtime and data source at the broker that discovery names.

    Parameters
    ----------
    timeout_s : how long calls wait for what is not there yet; 0 is one attempt.
    instance, step : who this program is; escaped already.
    """

    def __init__(
        self,
        http: Http,
        discovery: Discovery,
        *,
        beamtime: str,
        source: str,
        token: str,
        timeout_s: float,
        instance: str,
        step: str,
    ) -> None:
        self.timeout_s = timeout_s
        self.what = f"beamtime {beamtime}, source {source!r}"
        self.who = f"&instanceid={escape(instance)}&pipelinestep={escape(step)}"
        self._http = http
        self._discovery = discovery
        self._token = token
        self._base = f"/{PROTOCOL}/beamtime/{beamtime}/{escape(source)}"
        self.pauses = Pauses()

    def interrupt(self) -> None:
        """End the waiting of calls in other threads: they raise what they know by then."""
        self.pauses.interrupt()

    # ------------------------------------------------------------------- calls

    def call(
        self,
        method: str,
        path: str,
        params: str = "",
        body: bytes = b"",
        *,
        timeout_s: float | None = None,
        patient: bool = False,
    ) -> bytes:
        """Make a request that may be repeated, and return the answer's body.

        `path` is below the data source. What can change by waiting is asked again every 100 ms,
        for `timeout_s` if that is given; with `patient` also for what is not there at all.

        Raises
        ------
        EndReached, Finished, Missing, Incomplete : it is not there after `timeout_s`.
        BadInput, BadToken, NotFound, Unsupported : it will not be there by waiting.
        Unavailable, ServerFault, ConnectionLost, TimedOut : no good answer in time.
        """
        return self._until_timeout(
            lambda: self._attempt(method, path, params, body),
            timeout_s=timeout_s,
            patient=patient,
        )

    def next(self, path: str, params: str, *, safe: bool) -> bytes:
        """Make a request that moves a group's position.

        When the group has stepped over a message that is not there, or handed out a dataset that
        is not complete, waiting goes on for that one by its id.

        Parameters
        ----------
        path : below the data source: ``stream/group/next``.
        safe : the server delivers again what was lost on the way (resends are on).

        Raises
        ------
        ConnectionLost : not `safe`; whether a message was handed out is not known.
        """
        wanted = ""

        def attempt() -> bytes:
            nonlocal wanted
            if wanted:
                by_id = f"{path.split('/', 1)[0]}/0/{wanted}"
                return self._attempt("GET", by_id, _without_resend(params))
            try:
                return self._attempt("GET", path, params, b"", repeat=safe)
            except Missing as error:
                wanted = str(error.id)
                raise
            except Incomplete as error:
                wanted = str(error.dataset.id)
                raise

        return self._until_timeout(attempt, safe=safe)

    def simple(self, method: str, path: str) -> bytes:
        """Make a request that is not below a data source (``/v0.7/…``)."""
        return self._until_timeout(
            lambda: self._checked(self._send(method, f"/{PROTOCOL}/{path}"), path)
        )

    # ------------------------------------------------------------------ inside

    def _until_timeout(
        self,
        attempt: Callable[[], bytes],
        *,
        safe: bool = True,
        timeout_s: float | None = None,
        patient: bool = False,
    ) -> bytes:
        wait = self.pauses.begin()
        deadline_s = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        while True:
            begun_s = time.monotonic()
            try:
                return attempt()
            except Finished:
                raise
            except Error as error:
                hopeful = error.retryable or (patient and isinstance(error, NotFound))
                if not hopeful or not (safe or _harmless(error)):
                    raise
                now_s = time.monotonic()
                # An answer that the server held back has waited for us already.
                pause_s = 0.0 if now_s - begun_s > _HELD_SECONDS else POLL_SECONDS
                if now_s >= deadline_s or wait(pause_s):
                    raise

    def _attempt(
        self, method: str, path: str, params: str, body: bytes = b"", *, repeat: bool = True
    ) -> bytes:
        target = f"{self._base}/{path}"
        repeat = repeat and method == "GET"
        return self._checked(self._send(method, target, params, body, repeat=repeat), path)

    def _send(
        self, method: str, target: str, params: str = "", body: bytes = b"", *, repeat: bool = False
    ) -> Response:
        try:
            address: Address = self._discovery.broker()
            return self._http.request(
                address,
                method,
                f"{target}?token={self._token}{params}",
                body,
                timeout_s=max(self.timeout_s, STALL_SECONDS),
                repeat=repeat,
            )
        except (ConnectionLost, TimedOut):
            self._discovery.forget()
            raise

    def _checked(self, response: Response, path: str) -> bytes:
        """The body of a good answer; else the error that the status stands for."""
        if response.status in (200, 204):
            return response.body
        what = f"{self.what}, {path}"
        text = f"{what}: {response.text or f'status {response.status}'}"
        match response.status:
            case 206:
                dataset = read_dataset(response.body)
                raise Incomplete(
                    f"{what}: {len(dataset.parts)} of {dataset.expected} parts are there",
                    dataset=dataset,
                )
            case 400:
                acked = "already acknowledged" in response.text
                raise AlreadyAcknowledged(text) if acked else BadInput(text)
            case 401:
                raise BadToken(text)
            case 404 | 503:
                raise Unavailable(text)
            case 409:
                raise no_data_error(response.body, what) or NotFound(text)
            case 415:
                raise Unsupported(text)
            case _:
                raise ServerFault(text)


def _harmless(error: Error) -> bool:
    """Whether a `next` that ended so has not taken a message from the group."""
    return isinstance(error, EndReached | Missing | Incomplete | Unavailable)


def _without_resend(params: str) -> str:
    kept = [p for p in params.split("&") if not p.startswith(("resend_", "delay_ms="))]
    return "&".join(kept)

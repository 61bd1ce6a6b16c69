"""The text a producer logs in with: protocol section 5.5.

::

    <type>%<instance>%<step>%<beamtime>%<beamline>%<source>%<token>     newer than v0.5
    <type>%<beamtime>%<beamline>%<source>%<token>                       v0.5 and older

Nothing is escaped and the source may hold ``%``: so all but the source is split off from the left,
the token from the right.
"""

from __future__ import annotations

from typing import Final

import msgspec

from beamstream import limits
from beamstream.errors import BadName, RemoteProtocolError
from beamstream.wire.asapo.structs import parse_version

AUTO: Final = "auto"
"""Stands for a beamtime or beamline that the server is to find out."""

DEFAULT_SOURCE: Final = "detector"

_OLD: Final = (0, 5)


class Credentials(msgspec.Struct, frozen=True, gc=False):
    """Who a producer says it is.

    Parameters
    ----------
    raw : its source type is `raw`, not `processed`.
    instance, step : empty for clients that have none (v0.5 and older).
    beamtime, beamline : `auto` when not given.
    source : `detector` when not given.
    """

    raw: bool
    instance: str
    step: str
    beamtime: str
    beamline: str
    source: str
    token: str

    def __repr__(self) -> str:
        kind = "raw" if self.raw else "processed"
        return f"<Credentials {kind} {self.beamtime}/{self.beamline} {self.source!r}>"


def parse_credentials(text: bytes, version: str) -> Credentials:
    """Return what `text`, sent by a client of protocol `version`, says.

    Raises
    ------
    RemoteProtocolError : not UTF-8, too long, too few parts or an unknown source type.

    >>> parse_credentials(b"raw%i1%s1%bt1%%50 % Si%TOKEN", "v0.7").source
    '50 % Si'
    """
    if len(text) > limits.CREDENTIALS_NBYTES_MAX:
        raise RemoteProtocolError(
            f"credentials have {len(text)} bytes, {limits.CREDENTIALS_NBYTES_MAX} are allowed"
        )
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        raise RemoteProtocolError("credentials are not UTF-8") from None
    old = parse_version(version) <= _OLD
    head = decoded.split("%", 3 if old else 5)
    source, percent, token = head[-1].rpartition("%")
    if len(head) != (4 if old else 6) or not percent:
        raise RemoteProtocolError(
            f"credentials have {decoded.count('%') + 1} parts, "
            f"{5 if old else 7} belong to protocol {version}"
        )
    if head[0] not in ("raw", "processed"):
        raise RemoteProtocolError(
            f"source type {head[0][:40]!r} is not known", hint="use 'raw' or 'processed'"
        )
    instance, step = ("", "") if old else head[1:3]
    beamtime, beamline = head[-3:-1]
    return Credentials(
        raw=head[0] == "raw",
        instance=instance,
        step=step,
        beamtime=beamtime or AUTO,
        beamline=beamline or AUTO,
        source=source or DEFAULT_SOURCE,
        token=token,
    )


def format_credentials(credentials: Credentials, version: str = "v0.7") -> bytes:
    """Return the text a client of protocol `version` sends.

    Raises
    ------
    BadName : ``%`` in a part other than the source, which would be read as something else.

    >>> format_credentials(Credentials(False, "i", "s", "bt1", "auto", "src", "T"))
    b'processed%i%s%bt1%auto%src%T'
    """
    c = credentials
    who = [] if parse_version(version) <= _OLD else [c.instance, c.step]
    parts = ["raw" if c.raw else "processed", *who, c.beamtime, c.beamline]
    for part in (*parts, c.token):
        if "%" in part:
            raise BadName("a '%' is allowed in the data source only, not in the other credentials")
    try:
        return "%".join([*parts, c.source, c.token]).encode()
    except UnicodeEncodeError:
        raise BadName("credentials are not valid Unicode") from None

"""Tokens: made, checked, and watched until they end.

A token is a JWT signed with HMAC-SHA256. The algorithm is a constant here and never read from a
token; each kind of token has a key of its own, derived from the key of the node, beside its own
``typ`` and ``aud``. A user token is good as long as it is not expired, not revoked and known to the
registry; when the registry cannot be read, none is.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Final
from weakref import WeakValueDictionary

import jwt

from beamstream import limits
from beamstream.errors import BadInput, BadName, BadToken, Error, NotAllowed
from beamstream.model import check_beamtime
from beamstream.store.registry import Registry, Token, check_beamline

ALGORITHM: Final = "HS256"
ISSUER: Final = "beamstream"
RIGHTS: Final = ("read", "write", "writeraw")
ADMIN: Final = "admin"
"""The right to see and do things to the whole node; only tokens of the node have it."""

_NODE: Final = "node"
_NODE_RIGHTS: Final = ("admin", "read", "write")
_USER: Final = "JWT"
_ADMIN: Final = "admin+jwt"
_FOLDER: Final = "folder+jwt"
_LABELS: Final = {
    _USER: b"beamstream user token 1",
    _ADMIN: b"beamstream admin token 1",
    _FOLDER: b"beamstream folder token 1",
}
_AUDIENCES: Final = {
    _USER: "beamstream/user",
    _ADMIN: "beamstream/admin",
    _FOLDER: "beamstream/folder",
}
_SECONDS_MAX: Final = {
    _USER: limits.TOKEN_DAYS_MAX * 24 * 3600,
    _ADMIN: limits.TOKEN_DAYS_MAX * 24 * 3600,
    _FOLDER: limits.FOLDER_TOKEN_SECONDS,
}
_FOR_EVER: Final = 2**62
_GRANTS_CACHED_MAX: Final = limits.CLIENTS_MAX

# The last letter of 32 bytes in base64 has two spare bits: only one spelling is taken. A header of
# 200 letters cannot be deep enough to hurt the JSON parser, which sees it before the signature is
# checked.
_FORM: Final = re.compile(
    r"[A-Za-z0-9_-]{1,200}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]"
)


class Grant:
    """What a good token allows; `valid` becomes False when it is revoked or expires.

    Parameters
    ----------
    kind : ``bt`` for a beamtime, ``bl`` for a beamline, ``nd`` for all of the node.
    name : of that beamtime or beamline.
    access : rights: ``read``, ``write``, ``writeraw``, ``admin``.
    token_id : the claim ``jti``.
    expires : seconds since 1970 UTC.
    """

    __slots__ = ("__weakref__", "access", "expires", "kind", "name", "token_id", "valid")

    def __init__(
        self, kind: str, name: str, access: frozenset[str], token_id: str, expires: int
    ) -> None:
        self.kind = kind
        self.name = name
        self.access = access
        self.token_id = token_id
        self.expires = expires
        self.valid = True

    def __repr__(self) -> str:
        rights = ",".join(sorted(self.access))
        return f"Grant({self.subject!r}, {rights}, token_id={self.token_id!r}, valid={self.valid})"

    @property
    def subject(self) -> str:
        return f"{self.kind}_{self.name}"


def issue(
    registry: Registry,
    key: bytes,
    *,
    beamtime: str = "",
    beamline: str = "",
    access: Iterable[str],
    days: float,
    now_ns: int,
    note: str = "",
) -> str:
    """Make a token for a beamtime or a beamline, and record it.

    Parameters
    ----------
    key : of the node, 32 bytes.
    access : one or more of ``read``, ``write``, ``writeraw``.
    days : until it expires; up to 366.

    Raises
    ------
    BadInput : not exactly one of beamtime and beamline, unknown rights, or days out of range.
    BadName : the name is refused.
    """
    if bool(beamtime) == bool(beamline):
        raise BadInput("a token is for a beamtime or for a beamline")
    subject = f"bt_{check_beamtime(beamtime)}" if beamtime else f"bl_{check_beamline(beamline)}"
    rights = tuple(sorted(set(access)))
    if not rights or not set(rights) <= set(RIGHTS):
        raise BadInput(f"access {','.join(rights)[:80]!r} is unknown", hint=", ".join(RIGHTS))
    return _issue(registry, key, _USER, subject, rights, days, now_ns, note)


def issue_admin(registry: Registry, key: bytes, *, days: float, now_ns: int, note: str = "") -> str:
    """Make a token for the whole node: all beamtimes, with the right `admin`, and record it.

    Raises
    ------
    BadInput : days out of range.
    """
    return _issue(registry, key, _ADMIN, f"nd_{_NODE}", _NODE_RIGHTS, days, now_ns, note)


def _issue(
    registry: Registry,
    key: bytes,
    kind: str,
    subject: str,
    rights: tuple[str, ...],
    days: float,
    now_ns: int,
    note: str,
) -> str:
    if not 0 < days <= limits.TOKEN_DAYS_MAX:
        raise BadInput(f"a token cannot last {days} days", hint=f"up to {limits.TOKEN_DAYS_MAX}")
    now = now_ns // 10**9
    expires = now + int(days * 24 * 3600)
    token_id = secrets.token_hex(10)
    text = _sign(
        kind,
        key,
        {
            "sub": subject,
            "jti": token_id,
            "iat": now,
            "exp": expires,
            "ExtraClaims": {"AccessTypes": list(rights)},
        },
    )
    registry.add_token(Token(token_id, subject, rights, now_ns, expires * 10**9, note))
    return text


class Authorizer:
    """Turns tokens into grants and keeps an eye on those that are in use.

    Parameters
    ----------
    registry : where tokens and revocations are recorded.
    key : of the node, 32 bytes.
    clock : returns seconds since 1970 UTC.

    Call `refresh` every second: within one call a revoked or expired grant is not valid any more,
    wherever it is held.
    """

    def __init__(self, registry: Registry, key: bytes, clock: Callable[[], float]) -> None:
        self._registry = registry
        self._key = key
        self._clock = clock
        self._recent: OrderedDict[bytes, Grant] = OrderedDict()
        self._live: WeakValueDictionary[bytes, Grant] = WeakValueDictionary()
        self._own: dict[bytes, Grant] = {}

    def trust(self, token: str) -> None:
        """Let a program of the node itself in by this secret, which is recorded nowhere."""
        digest = hashlib.sha256(token.encode()).digest()
        grant = Grant("nd", _NODE, frozenset(_NODE_RIGHTS), "own", _FOR_EVER)
        self._own[digest] = self._live[digest] = grant

    def grant(self, token: str) -> Grant:
        """Return what `token` allows.

        Raises
        ------
        BadToken : it is not a token of this node, expired or revoked.
        StorageError : the registry cannot be read, so nobody can be let in.
        """
        if len(token) > limits.TOKEN_NBYTES_MAX:
            raise _bad()
        # A digest is kept instead of the token: a dump of memory or log of keys gives none away.
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        grant = self._live.get(digest)
        if grant is None or not grant.valid or self._ended(grant, self._clock()):
            grant = self._live[digest] = self._check(token)
        self._recent[digest] = grant
        self._recent.move_to_end(digest)
        if len(self._recent) > _GRANTS_CACHED_MAX:
            self._recent.popitem(last=False)
        return grant

    def refresh(self, now: float) -> None:
        """End the grants that are expired or revoked at `now`, in seconds since 1970.

        Raises
        ------
        StorageError : the registry cannot be read; all grants have ended.
        """
        try:
            revoked = self._registry.revoked() if self._registry.changed() else frozenset()
        except Error:
            self._end(lambda grant: True)
            raise
        self._end(lambda grant: self._ended(grant, now) or grant.token_id in revoked)

    def folder_token(self, grant: Grant, beamtime: str) -> str:
        """Return a token that allows to fetch files of `beamtime` for ten minutes.

        Raises
        ------
        BadToken : `grant` has ended.
        NotAllowed : `grant` does not allow to read.
        """
        if not grant.valid:
            raise _bad()
        check_access(grant, "read")
        now = int(self._clock())
        expires = min(now + limits.FOLDER_TOKEN_SECONDS, grant.expires)
        claims = {"sub": f"bt_{check_beamtime(beamtime)}", "jti": grant.token_id}
        return _sign(_FOLDER, self._key, claims | {"iat": now, "exp": expires})

    def check_folder_token(self, text: str) -> str:
        """Return the beamtime whose files `text` allows to fetch.

        Raises
        ------
        BadToken : it is not a folder token, expired, or the token behind it was revoked.
        StorageError : the registry cannot be read.
        """
        claims = _verify(_FOLDER, self._key, text, self._clock())
        kind, name = _subject(claims)
        token = self._registry.token(claims["jti"])
        if kind != "bt" or token is None or token.revoked_ns:
            raise _bad()
        return name

    def _check(self, text: str) -> Grant:
        try:
            claims = _verify(_USER, self._key, text, self._clock())
            wanted: tuple[str, ...] = ("bt", "bl")
            rights: tuple[str, ...] = RIGHTS
        except BadToken:
            claims = _verify(_ADMIN, self._key, text, self._clock())
            wanted, rights = ("nd",), _NODE_RIGHTS
        kind, name = _subject(claims)
        if kind not in wanted:
            raise _bad()
        access = _access(claims, rights)
        token = self._registry.token(claims["jti"])
        if token is None or token.revoked_ns or token.subject != claims["sub"]:
            raise _bad()
        return Grant(kind, name, access, token.token_id, claims["exp"])

    def _end(self, ended: Callable[[Grant], bool]) -> None:
        for digest, grant in list(self._live.items()):
            if ended(grant):
                grant.valid = False
                self._recent.pop(digest, None)

    @staticmethod
    def _ended(grant: Grant, now: float) -> bool:
        return now >= grant.expires + limits.TOKEN_LEEWAY_SECONDS


def check_access(grant: Grant, right: str) -> None:
    """Do nothing if `grant` has the `right`, else raise `NotAllowed`."""
    if right not in grant.access:
        raise NotAllowed("wrong token access type")


def check_subject(grant: Grant, beamtime: str, beamline: str = "") -> None:
    """Do nothing if `grant` is for `beamtime` or for the `beamline` it belongs to.

    Raises
    ------
    NotAllowed : it is for something else.
    """
    if grant.kind == "nd":
        return
    if (grant.kind, grant.name) not in (("bt", beamtime), ("bl", beamline)):
        raise NotAllowed("wrong token subject")


def _bad() -> BadToken:
    # One text for every reason: who guesses tokens must not learn which part was right.
    return BadToken("wrong or expired JWT token")


def _key_of(kind: str, key: bytes) -> bytes:
    return hmac.digest(key, _LABELS[kind], "sha256")


def _sign(kind: str, key: bytes, claims: dict[str, Any]) -> str:
    everything = claims | {"iss": ISSUER, "aud": _AUDIENCES[kind]}
    return jwt.encode(everything, _key_of(kind, key), algorithm=ALGORITHM, headers={"typ": kind})


def _verify(kind: str, key: bytes, text: str, now: float) -> dict[str, Any]:
    if len(text) > limits.TOKEN_NBYTES_MAX or not _FORM.fullmatch(text):
        raise _bad()
    try:
        # Times are checked below, by the clock that was handed in.
        token = jwt.decode_complete(
            text,
            _key_of(kind, key),
            algorithms=[ALGORITHM],
            audience=_AUDIENCES[kind],
            issuer=ISSUER,
            options={
                "require": ["exp", "iat", "jti", "sub", "aud", "iss"],
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise _bad() from None
    # Nothing else may stand in the header: crit, kid, jku and the like ask for trust.
    claims: dict[str, Any] = token["payload"]
    if token["header"] != {"alg": ALGORITHM, "typ": kind} or claims["aud"] != _AUDIENCES[kind]:
        raise _bad()
    _check_times(claims, now, _SECONDS_MAX[kind])
    return claims


def _check_times(claims: dict[str, Any], now: float, seconds_max: int) -> None:
    made, expires, begins = claims["iat"], claims["exp"], claims.get("nbf", 0)
    leeway = limits.TOKEN_LEEWAY_SECONDS
    whole = type(made) is int and type(expires) is int and type(begins) is int
    if (
        not whole
        or now >= expires + leeway
        or max(made, begins) > now + leeway
        or expires - made > seconds_max
    ):
        raise _bad()


def _subject(claims: dict[str, Any]) -> tuple[str, str]:
    kind, _, name = claims["sub"].partition("_")
    try:
        if kind == "bt":
            return kind, check_beamtime(name)
        if kind == "bl":
            return kind, check_beamline(name)
        if (kind, name) == ("nd", _NODE):
            return kind, name
    except BadName:
        pass
    raise _bad()


def _access(claims: dict[str, Any], known: tuple[str, ...]) -> frozenset[str]:
    extra = claims.get("ExtraClaims")
    rights = extra.get("AccessTypes") if type(extra) is dict else None
    if type(rights) is not list or not rights or not all(right in known for right in rights):
        raise _bad()
    return frozenset(rights)

"""Who may see what: by where they come from, and by the token that they bring.

On loopback anybody may look at everything. A token that reads shows its beamtime, one that writes
lets its beamtime be changed, one of the node shows and lets change all.
"""

from __future__ import annotations

import hashlib
import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from beamstream import limits
from beamstream.errors import BadToken, Denied, NotAllowed, TooMany
from beamstream.monitor import documents as doc

COOKIE: Final = "beamstream"
PEER_HEADER: Final = "x-beamstream-peer"
KEPT_S: Final = 60.0
KEPT_REFUSED_S: Final = 5.0
_KEPT_MAX: Final = 1_000
_ASKING_MAX: Final = 8
_RANK: Final[Mapping[str, int]] = {"viewer": 0, "operator": 1, "admin": 2}


class Visitor(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody may do at a node.

    Parameters
    ----------
    sees, operates : beamtimes; None: all.
    known : whether a good token came along.
    """

    sees: frozenset[str] | None = frozenset()
    operates: frozenset[str] | None = frozenset()
    role: doc.Role = "viewer"
    loopback: bool = False
    known: bool = False

    @property
    def somebody(self) -> bool:
        """Whether there is anything that they may see."""
        return self.loopback or self.known

    def may_see(self, beamtime: str) -> bool:
        return self.sees is None or beamtime in self.sees

    def may_operate(self, beamtime: str) -> bool:
        return self.operates is None or beamtime in self.operates

    def check_sees(self, beamtime: str) -> None:
        """Raises `Denied` if a beamtime is not theirs to see."""
        if not self.may_see(beamtime):
            raise _denied(self, f"beamtime {beamtime!r} is not shown", "--access read")

    def check_operates(self, beamtime: str) -> None:
        """Raises `Denied` if a beamtime is not theirs to change."""
        if not self.may_operate(beamtime):
            raise _denied(self, f"beamtime {beamtime!r} cannot be changed", "--access read,write")


NOBODY: Final = Visitor()


def _denied(visitor: Visitor, what: str, access: str) -> Denied:
    hint = f"log in with a token: beamstream token new --beamtime ID {access}"
    if visitor.known:
        return NotAllowed(f"{what} to this token", hint=hint)
    return BadToken(f"{what} without a token", hint=hint)


def is_loopback(peer: str, host: str, local_names: frozenset[str], *, forwarded: bool) -> bool:
    """Whether somebody sits at this machine.

    A proxy on this machine says that it hands on what others ask (`forwarded`). A page of another
    site that had its name point here would show that name as `host`.

    Parameters
    ----------
    peer : address, with or without port; empty for a program that came by the Unix socket.
    host : of the header Host, with or without port.

    >>> is_loopback("127.0.0.1:4711", "localhost:8400", frozenset(), forwarded=False)
    True
    >>> is_loopback("127.0.0.1:4711", "evil.example:8400", frozenset(), forwarded=False)
    False
    >>> is_loopback("131.169.1.2:99", "localhost", frozenset(), forwarded=False)
    False
    """
    if forwarded:
        return False
    if peer and not _is_local(bare_host(peer)):
        return False
    name = bare_host(host)
    return name in local_names or name == "localhost" or _is_local(name)


def bare_host(text: str) -> str:
    """A host without its port.

    >>> bare_host("[::1]:8400"), bare_host("::1"), bare_host("a:1")
    ('::1', '::1', 'a')
    """
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.rpartition(":")[0] if text.count(":") == 1 else text


def _is_local(text: str) -> bool:
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


class Access(msgspec.Struct, frozen=True):
    """What the node says of a token."""

    beamtime: str
    rights: tuple[str, ...]


def visitor_of(access: Access | None, *, loopback: bool) -> Visitor:
    """What somebody with such a token may do."""
    if access is None:
        return Visitor(sees=None, loopback=True) if loopback else NOBODY
    if "admin" in access.rights:
        return Visitor(sees=None, operates=None, role="admin", loopback=loopback, known=True)
    own = frozenset((access.beamtime,))
    reads, writes = "read" in access.rights, "write" in access.rights
    return Visitor(
        sees=None if loopback else own if reads or writes else frozenset(),
        operates=own if writes else frozenset(),
        role="operator" if writes else "viewer",
        loopback=loopback,
        known=True,
    )


class Tokens:
    """Asks the node what tokens allow, and remembers the answers for a minute.

    Parameters
    ----------
    ask : what the node says of a token; raises `Denied` if it is none of its.
    """

    def __init__(
        self, ask: Callable[[str], Access], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._asking = threading.BoundedSemaphore(_ASKING_MAX)
        self._kept: OrderedDict[bytes, tuple[float, Access | Denied]] = OrderedDict()

    def access(self, token: str) -> Access:
        """What a token allows; in a thread.

        Raises
        ------
        Denied : nothing. TooMany : many others are being asked for.
        Error : the node cannot be asked.
        """
        if not token or len(token) > limits.TOKEN_NBYTES_MAX or not token.isascii():
            raise BadToken("this is no token")
        # A digest is kept in place of the token: nothing that is dumped gives one away.
        key = hashlib.sha256(token.encode()).digest()
        with self._lock:
            until_s, found = self._kept.get(key, (0.0, BadToken("")))
            if self._clock() < until_s:
                return _given(found)
        if not self._asking.acquire(blocking=False):
            raise TooMany("many tokens are being checked", hint="try again in a moment")
        try:
            answer: Access | Denied = self._ask(token)
        except Denied as error:
            answer = error
        finally:
            self._asking.release()
        seconds = KEPT_REFUSED_S if isinstance(answer, Denied) else KEPT_S
        with self._lock:
            self._kept[key] = (self._clock() + seconds, answer)
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT_MAX:
                self._kept.popitem(last=False)
        return _given(answer)


def _given(answer: Access | Denied) -> Access:
    if isinstance(answer, Access):
        return answer
    raise BadToken(answer.message, hint="is it of this node, and not expired?")


def rank(role: str) -> int:
    """Roles in order: viewer, operator, admin."""
    return _RANK[role]

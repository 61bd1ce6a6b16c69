"""How memory is shared with clients on the node's machine: what is said on the second socket.

It is a Unix socket of whole packets (``SOCK_SEQPACKET``). The client's first packet names its
session, which the node answers; then it asks for arenas by their ids, and says which pins it has
let go. The node answers each question with one packet, which carries a descriptor if it is
granted; a notice that a memory is of no use any more may come at any time. Integers are little
endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

import msgspec
import xxhash

from beamstream.errors import RemoteProtocolError

PACKET_NBYTES_MAX: Final = 32 * 1024
PINS_AT_ONCE: Final = 4_000

BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"

_MAGIC: Final = b"BSA1"
_ASK: Final = struct.Struct("<cQ?")
_ANSWER: Final = struct.Struct("<cQQ")
READY: Final = b"H"
GRANTED: Final = b"G"
REFUSED: Final = b"R"
RETIRED: Final = b"X"
_ASKED: Final = b"A"
_UNPIN: Final = b"U"
_SESSION_NBYTES: Final = 16


def machine_id(boot_id: bytes) -> str:
    """What tells machines (and their boots) apart, without telling which one it is.

    >>> machine_id(b"1f2e\\n") == machine_id(b"1f2e"), len(machine_id(b"1f2e"))
    (True, 32)
    """
    return xxhash.xxh3_128_hexdigest(b"beamstream machine " + boot_id.strip())


def pack_session(session: bytes) -> bytes:
    """The first packet of a client."""
    return _MAGIC + session


def unpack_session(packet: bytes) -> bytes:
    """The session of a first packet.

    Raises
    ------
    RemoteProtocolError : it is none.

    >>> unpack_session(pack_session(bytes(16))) == bytes(16)
    True
    """
    if len(packet) != len(_MAGIC) + _SESSION_NBYTES or not packet.startswith(_MAGIC):
        raise RemoteProtocolError("this is no client of shared memory")
    return packet[len(_MAGIC) :]


def pack_ask(arena: int, *, writable: bool) -> bytes:
    """A question for the descriptor of an arena."""
    return _ASK.pack(_ASKED, arena, writable)


def pack_unpin(pins: Iterable[int]) -> bytes:
    """Pins that the client has let go, at most `PINS_AT_ONCE`."""
    numbers = tuple(pins)
    return struct.pack(f"<c{len(numbers)}Q", _UNPIN, *numbers)


class Ask(msgspec.Struct, frozen=True):
    """A client wants to map an arena."""

    arena: int
    writable: bool


class LetGo(msgspec.Struct, frozen=True):
    """Views that a client no longer has."""

    pins: tuple[int, ...]


def unpack_request(packet: bytes) -> Ask | LetGo:
    """What a client says.

    Raises
    ------
    RemoteProtocolError : nothing that clients say.

    >>> unpack_request(pack_ask(7, writable=True)), unpack_request(pack_unpin([3, 5]))
    (Ask(arena=7, writable=True), LetGo(pins=(3, 5)))
    """
    if packet.startswith(_UNPIN) and len(packet) % 8 == 1:
        return LetGo(struct.unpack(f"<{len(packet) // 8}Q", packet[1:]))
    if packet.startswith(_ASKED) and len(packet) == _ASK.size:
        _, arena, writable = _ASK.unpack(packet)
        return Ask(arena, writable)
    raise RemoteProtocolError("a packet that is not understood")


def pack_answer(kind: bytes, arena: int, nbytes: int = 0) -> bytes:
    """`READY`, `GRANTED` (of `nbytes`, with a descriptor), `REFUSED`, or the notice `RETIRED`."""
    return _ANSWER.pack(kind, arena, nbytes)


def unpack_answer(packet: bytes) -> tuple[bytes, int, int]:
    """Kind, arena and nbytes.

    Raises
    ------
    RemoteProtocolError : it is no answer.

    >>> unpack_answer(pack_answer(GRANTED, 3, 4096))
    (b'G', 3, 4096)
    """
    if len(packet) != _ANSWER.size:
        raise RemoteProtocolError("an answer about shared memory that is not understood")
    kind, arena, nbytes = _ANSWER.unpack(packet)
    return kind, arena, nbytes

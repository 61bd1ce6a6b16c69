"""Which member the messages of one key belong to: sticky blocks of ids, or a value of the metadata.

Pure. The first member that is handed a message of a key owns that key, until it leaves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

import msgspec

from beamstream import limits

Key = int | bytes
"""A block of ids, or the JSON text of a value (of a long one a digest)."""

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_VALUE_NBYTES_MAX = 64
_DIGEST_NBYTES = 32
_FORGOTTEN_PART = 16
"""At the limit a 16th is forgotten at once: whoever looks for messages begins anew then."""


def block_of(id: int, ids: int) -> int:
    """The block of `ids` ids in a row that an id lies in.

    >>> block_of(1, 10), block_of(10, 10), block_of(11, 10)
    (0, 0, 1)
    """
    return (id - 1) // ids


def value_of(meta: bytes, name: str) -> bytes | None:
    """The value under `name` of metadata, as text that is the same for the same value.

    None if there is none: the message belongs to nobody in particular.

    >>> value_of(b'{"module": [1,  2], "run": 7}', "module")
    b'[1,2]'
    >>> value_of(b'{"run": 7}', "module") is None
    True
    """
    try:
        raw = _decode(meta).get(name)
        if raw is None:
            return None
        text = msgspec.json.encode(msgspec.json.decode(raw), order="deterministic")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if len(text) <= _VALUE_NBYTES_MAX:
        return text
    # No JSON begins so: it never meets a text that is kept as it is.
    return b"#" + hashlib.blake2b(text, digest_size=_DIGEST_NBYTES).digest()


class Affinity:
    """Keys and their owners, up to a number of them: beyond, the oldest are forgotten.

    >>> affinity = Affinity()
    >>> affinity.take(3, "a")
    >>> affinity.owner(3), affinity.owner(4)
    ('a', None)
    >>> affinity.forget("a")
    >>> affinity.owner(3) is None
    True
    """

    def __init__(self, most: int = limits.AFFINITIES_MAX) -> None:
        self._most = most
        self._owners: dict[Key, Hashable] = {}
        self.version = 0
        """How often keys lost their owner."""

    def __len__(self) -> int:
        return len(self._owners)

    def owner(self, key: Key) -> Hashable | None:
        return self._owners.get(key)

    def take(self, key: Key, owner: Hashable) -> None:
        """This key, which has no owner, gets one."""
        owners = self._owners
        if len(owners) >= self._most:
            for old in list(owners)[: max(self._most // _FORGOTTEN_PART, 1)]:
                del owners[old]
            self.version += 1
        owners[key] = owner

    def forget(self, owner: Hashable) -> None:
        """An owner has left: its keys are for whoever comes."""
        kept = {key: one for key, one in self._owners.items() if one != owner}
        if len(kept) < len(self._owners):
            self._owners = kept
            self.version += 1

    def passed(self, block: int) -> None:
        """All before a block of ids is settled, and nobody will be handed it."""
        done = [key for key in self._owners if isinstance(key, int) and key < block]
        for key in done:
            del self._owners[key]

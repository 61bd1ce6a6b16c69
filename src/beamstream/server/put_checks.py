"""What a native put has to be before memory is given to it; many messages at once."""

from __future__ import annotations

from itertools import repeat
from typing import Any, Final

import msgspec
import xxhash

from beamstream import limits
from beamstream.errors import BadInput, BadMetadata, RemoteProtocolError, TooLarge
from beamstream.model import NO_META, check_label, check_metadata
from beamstream.server.made import check_settles, check_skips
from beamstream.wire.native.batches import DIGEST_NBYTES, NO_DIGEST, check_columns
from beamstream.wire.native.frames import Made, Put, unpack_span

_lines: Final = msgspec.json.Decoder(dict[str, Any]).decode_lines


def check_put(frame: Put, body_nbytes: int) -> None:
    """Refuse what cannot be taken.

    Raises
    ------
    RemoteProtocolError : columns of different lengths.
    BadInput, BadMetadata, TooLarge : see the message.
    """
    check_columns(
        frame.count,
        frame.sizes,
        frame.digests,
        ids=frame.ids,
        metas=frame.metas,
        infos=frame.infos,
    )
    if frame.place is not None:
        if frame.name or body_nbytes or frame.sizes.count(frame.sizes[0]) != frame.count:
            raise BadInput("payloads in granted memory are of one size, without names and body")
    elif sum(frame.sizes) != body_nbytes:
        raise BadInput(f"payloads of {sum(frame.sizes)} bytes come with {body_nbytes} bytes")
    if frame.sequence < 1 or frame.sequence + frame.count > limits.ID_MAX:
        raise BadInput(f"sequence {frame.sequence} is not possible", hint="counts begin at 1")
    _check_ids(frame)
    if (frame.name or frame.substream or frame.expected) and frame.count != 1:
        raise BadInput("a name or substream goes with one message, not with many")
    if frame.substream or frame.expected:
        if not 1 <= frame.expected <= limits.DATASET_SIZE_MAX:
            raise BadInput(f"a dataset of {frame.expected} parts is not possible")
        if not 1 <= frame.substream <= frame.expected:
            raise BadInput(
                f"substream {frame.substream} of a dataset of {frame.expected} is not possible"
            )
        if not (frame.id or frame.ids):
            raise BadInput("parts of datasets need an id", hint="ids start at 1")
    infos = frame.infos
    longest = len(infos) if isinstance(infos, bytes) else max(map(len, infos))
    if longest > limits.META_NBYTES_MAX:
        raise TooLarge(f"a description of {longest} bytes, {limits.META_NBYTES_MAX} are allowed")
    if frame.metas is not None:
        check_metas(frame.metas)
    if frame.made is not None:
        if frame.substream or frame.expected:
            raise BadInput("results are single messages, not parts of datasets")
        _check_made(frame.made, frame.count)


def _check_made(made: Made, count: int) -> None:
    for name, column in (("inputs", made.seqs), ("numbers", made.ks), ("spans", made.spans)):
        if column is not None and len(column) != count:
            raise RemoteProtocolError(f"{count} results have {len(column)} {name}")
    check_label("input source", made.source)
    check_label("input stream", made.stream)
    if not 0 <= made.run <= limits.ID_MAX:
        raise BadInput(f"run {made.run} is not possible", hint="`run.define` gives the number")
    if min(made.seqs) < 1 or max(made.seqs) > limits.ID_MAX:
        raise BadInput("inputs are told by their seqs, 1 … 2^63 - 1")
    if made.ks is not None and (min(made.ks) < 0 or max(made.ks) > limits.ID_MAX):
        raise BadInput("results of one input are counted 0, 1, 2 …")
    for span in made.spans or ():
        _check_span(span)
    check_settles(made.settles)
    check_skips(made.skips)


def _check_span(span: bytes) -> None:
    try:
        ranges = unpack_span(span)
    except msgspec.MsgspecError as error:
        raise BadInput(f"a span of inputs cannot be read: {error}") from None
    end = 1
    for lo, hi in ranges:
        if not end <= lo < hi <= limits.ID_MAX:
            raise BadInput("a span of inputs is not of ascending ranges of seqs")
        end = hi


def _check_ids(frame: Put) -> None:
    if frame.ids is not None:
        if frame.id or min(frame.ids) < 1 or max(frame.ids) > limits.ID_MAX:
            raise BadInput("ids of a batch are 1 … 2^63 - 1, each given or the first one")
    elif not 0 <= frame.id <= limits.ID_MAX - frame.count + 1:
        raise BadInput(f"id {frame.id} is not between 1 and 2^63 - 1")


def check_metas(metas: tuple[bytes, ...]) -> None:
    """As `check_metadata` for each, a fraction of its cost where they are small and plain.

    Raises
    ------
    BadMetadata, TooLarge : one of them is refused.

    >>> check_metas((b'{"a": 1}', b"{}"))
    """
    if metas.count(metas[0]) == len(metas):
        check_metadata(metas[0])
        return
    joined = b"\n".join(metas)
    brackets = max(map(bytes.count, metas, repeat(b"{"))) + max(
        map(bytes.count, metas, repeat(b"["))
    )
    plain = (
        max(map(len, metas)) <= limits.META_NBYTES_MAX
        and brackets <= limits.META_DEPTH_MAX
        and joined.count(b"\n") == len(metas) - 1
    )
    if plain:
        try:
            # Empty lines are left out.
            if len(_lines(joined)) == len(metas):
                return
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # Told below, by the one that is wrong.
            pass
    for index, meta in enumerate(metas):
        try:
            check_metadata(meta)
        except BadMetadata as error:
            raise BadMetadata(f"message {index} of the batch: {error.message}") from None


def plain_metas(metas: tuple[bytes, ...] | None) -> tuple[bytes, ...] | None:
    """None when there is nothing in any of them."""
    if metas is not None and metas.count(NO_META) == len(metas):
        return None
    return metas


def wants_hashing(frame: Put) -> bool:
    """Whether the node is asked for some of the digests."""
    if NO_DIGEST not in frame.digests:
        return False
    return any(
        size and frame.digests[at : at + DIGEST_NBYTES] == NO_DIGEST
        for size, at in zip(frame.sizes, range(0, len(frame.digests), DIGEST_NBYTES), strict=True)
    )


def hashed(frame: Put, body: memoryview) -> bytes:
    """The digests of a put, with those that it left to the node."""
    found = bytearray(frame.digests)
    offset = 0
    for index, size in enumerate(frame.sizes):
        at = index * DIGEST_NBYTES
        if found[at : at + DIGEST_NBYTES] == NO_DIGEST and size:
            digest = xxhash.xxh3_128_digest(body[offset : offset + size])
            found[at : at + DIGEST_NBYTES] = digest
        offset += size
    return bytes(found)

"""dtypes as text, in a grammar that can name numbers and records, and nothing that runs code.

A plain dtype is what numpy calls its ``str`` (``<u2``, ``|b1``, ``>f4``, ``<M8[ns]``); a structured
one is the JSON of its ``descr``: ``[["x","<f4"],["y","<u2",[2,3]]]``. Objects, and types that are
not the same on every machine (long double), have no text here.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from beamstream import limits
from beamstream.errors import BadInput, TooLarge

DType = np.dtype[Any]

_PLAIN: Final = re.compile(
    r"[<>|](?:b1|[iu]1)"
    r"|[<>](?:[iu][248]|f[248]|c8|c16)"
    r"|[<>|](?:[SV](?P<nbytes>[1-9][0-9]{0,9}))"
    r"|[<>](?:U(?P<characters>[1-9][0-9]{0,8}))"
    r"|[<>][mM]8(?:\[(?:[1-9][0-9]{0,8})?(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?"
)
_ITEM_NBYTES_MAX: Final = 2**31 - 1
_DEPTH_MAX: Final = 8


@functools.lru_cache(maxsize=256)
def format_dtype(dtype: DType) -> str:
    """Return the text that stands for `dtype`.

    Raises
    ------
    BadInput : objects, and what has no text that means the same elsewhere.

    >>> format_dtype(np.dtype("uint16").newbyteorder("<"))
    '<u2'
    >>> format_dtype(np.dtype([("x", "<f4"), ("y", "<u2", (2, 3))]))
    '[["x","<f4"],["y","<u2",[2,3]]]'
    """
    if dtype.hasobject:
        raise BadInput(
            f"an array of dtype {str(dtype)[:80]!r} holds Python objects, which are not sent",
            hint="array.astype(float), or a fixed length such as 'S16' for text",
        )
    try:
        text = dtype.str if dtype.names is None else msgspec.json.encode(dtype.descr).decode()
        same = parse_dtype(text) == dtype
    except ValueError:
        same = False
    if not same:
        raise BadInput(
            f"dtype {str(dtype)[:80]!r} has no form that is the same on every machine",
            hint="send numbers up to 64 bits, complex, bool, text, times or records of them",
        )
    return text


@functools.lru_cache(maxsize=256)
def parse_dtype(text: str) -> DType:
    """Return the dtype that `text` stands for.

    Raises
    ------
    BadInput : not in the grammar.
    TooLarge : longer than `limits.ARRAY_DTYPE_NBYTES_MAX`, too many fields, or items above 2 GiB.

    >>> parse_dtype('[["x","<f4"],["","|V4"],["y","<f8"]]').itemsize
    16
    """
    if len(text) > limits.ARRAY_DTYPE_NBYTES_MAX:
        raise TooLarge(f"a dtype of {len(text)} characters is refused")
    if not text.startswith("["):
        return _plain(text)
    try:
        descr = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput(f"dtype {text[:80]!r} is not JSON: {error}") from None
    return from_descr(descr)


def from_descr(descr: object) -> DType:
    """Return the dtype of a numpy ``descr``: a string, or a list of (name, format[, shape]).

    Raises
    ------
    BadInput, TooLarge : as `parse_dtype`.
    """
    return _from_descr(descr, [limits.ARRAY_FIELDS_MAX], _DEPTH_MAX)


def _from_descr(descr: object, fields_left: list[int], depth: int) -> DType:
    if isinstance(descr, str):
        return _plain(descr)
    if not isinstance(descr, list) or not descr:
        raise BadInput(f"dtype {str(descr)[:80]!r} is neither a string nor a list of fields")
    fields_left[0] -= len(descr)
    if depth == 0 or fields_left[0] < 0:
        raise TooLarge(
            f"a dtype of more than {limits.ARRAY_FIELDS_MAX} fields or {_DEPTH_MAX} levels"
        )
    names: list[str] = []
    formats: list[Any] = []
    offsets: list[int] = []
    offset = 0
    for field in descr:
        name, format, shape = _field(field)
        inner = _from_descr(format, fields_left, depth - 1)
        if name:
            names.append(name)
            formats.append((inner, shape) if shape else inner)
            offsets.append(offset)
        elif inner.kind != "V" or inner.names is not None:
            raise BadInput(f"dtype has a field without a name: {str(field)[:80]!r}")
        offset += inner.itemsize * math.prod(shape)
        if offset > _ITEM_NBYTES_MAX:
            raise TooLarge("a dtype with items of more than 2 GiB is refused")
    if len(set(names)) != len(names) or not names:
        raise BadInput("dtype has two fields of one name, or none at all")
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": offset})


def _field(field: object) -> tuple[str, object, tuple[int, ...]]:
    match field:
        case [str(name), format]:
            return name, format, ()
        case [str(name), format, int(count)]:
            return name, format, check_shape((count,), 1)
        case [str(name), format, [*shape]]:
            return name, format, check_shape(shape, 1)
        case _:
            raise BadInput(
                f"dtype has a field that is not [name, format, shape]: {str(field)[:80]}"
            )


def _plain(text: str) -> DType:
    found = _PLAIN.fullmatch(text)
    if not found:
        raise BadInput(
            f"dtype {text[:80]!r} is not understood", hint="as numpy writes it: '<u2', '>f4', '|b1'"
        )
    if int(found["nbytes"] or 0) + 4 * int(found["characters"] or 0) > _ITEM_NBYTES_MAX:
        raise TooLarge(f"dtype {text!r} with items of more than 2 GiB is refused")
    try:
        return np.dtype(text)
    except (TypeError, ValueError) as error:
        raise BadInput(f"dtype {text[:80]!r} is not understood: {error}") from None


def check_shape(shape: Sequence[object], smallest: int = 0) -> tuple[int, ...]:
    """Return `shape` as a tuple if it is one, with lengths of at least `smallest`.

    Raises
    ------
    BadInput : not integers, negative, too many dimensions.

    >>> check_shape([512, 1028])
    (512, 1028)
    """
    if len(shape) > limits.ARRAY_NDIM_MAX:
        raise BadInput(
            f"an array of {len(shape)} dimensions is refused, {limits.ARRAY_NDIM_MAX} are allowed"
        )
    lengths = []
    for length in shape:
        if not isinstance(length, int) or isinstance(length, bool) or length < smallest:
            raise BadInput(f"shape {str(shape)[:80]} is not a list of lengths from {smallest} on")
        lengths.append(length)
    return tuple(lengths)


def check_nbytes(
    dtype: DType, shape: tuple[int, ...], nbytes_max: int = limits.ARRAY_NBYTES_MAX
) -> int:
    """Return the nbytes of such an array if numpy can hold it within `nbytes_max`.

    Raises
    ------
    TooLarge : it cannot.

    >>> check_nbytes(np.dtype("<u2"), (512, 1028))
    1052672
    """
    # A shape like (0, 10**18) takes no memory, but numpy and all who loop over it choke on it.
    if dtype.itemsize * math.prod(max(length, 1) for length in shape) > nbytes_max:
        raise TooLarge(
            f"an array of dtype {str(dtype)[:40]} and shape {str(shape)[:80]} has more than "
            f"{nbytes_max} bytes",
            hint="send it in parts, or raise the reader's limit",
        )
    return dtype.itemsize * math.prod(shape)

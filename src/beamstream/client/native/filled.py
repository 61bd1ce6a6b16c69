"""An array that is filled in place, in the node's memory if possible, and then sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from beamstream import limits
from beamstream.client.native.packing import Meta
from beamstream.client.native.receipts import Receipt
from beamstream.errors import BadInput, LocalProtocolError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike

    from beamstream.client.native.writer import Writer


class FilledFrame:
    """An array that is filled in place; `receipt` is there after the end of ``with``."""

    def __init__(
        self,
        writer: Writer,
        shape: tuple[int, ...] | int,
        dtype: DTypeLike,
        meta: Meta | None,
        how: dict[str, Any],
    ) -> None:
        import numpy as np

        self._writer = writer
        self._meta = meta
        self._how = how
        self.receipt: Receipt | None = None
        kind = np.dtype(dtype)
        lengths = (shape,) if isinstance(shape, int) else tuple(shape)
        nbytes = kind.itemsize
        for length in lengths:
            nbytes *= length
        if not 0 <= nbytes <= limits.PAYLOAD_NBYTES_MAX:
            raise BadInput(f"an array of shape {lengths} and dtype {kind} cannot be sent")
        memory, self._filling = writer._fill(nbytes, how)
        self._array: np.ndarray[Any, Any] | None = np.ndarray(lengths, kind, buffer=memory)

    def __enter__(self) -> np.ndarray[Any, Any]:
        if self._array is None:
            raise LocalProtocolError("this frame has been sent; ask the writer for another one")
        return self._array

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        array, self._array = self._array, None
        if array is None:
            return
        filling, self._filling = self._filling, None
        if filling is None:
            if kind is None:
                self.receipt = self._writer.send(array, self._meta, **self._how)
            return
        try:
            if kind is None:
                self.receipt = self._writer._sent_in_place(array, self._meta, filling, **self._how)
        finally:
            if self.receipt is None:
                filling.give_back()

"""Buffers that readers fill, and errors about names and ranges that do not exist."""

from collections.abc import Iterable

import numpy as np

from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.tensor_info import TensorInfo

_ALIGNMENT = 64  # XLA takes a buffer without copying it only if it is this aligned.


def aligned_empty(nbytes: int) -> np.ndarray:
    """An uninitialised uint8 buffer whose address is a multiple of 64.

    >>> aligned_empty(100).ctypes.data % 64
    0
    """
    raw = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + nbytes]


def take_buffer(out: np.ndarray | None, nbytes: int) -> np.ndarray:
    """The first `nbytes` of the caller's buffer, or a fresh aligned one.

    Raises:
      ValueError: if `out` is not a contiguous 1-D uint8 array of at least that length.
    """
    if out is None:
        return aligned_empty(nbytes)
    usable = out.dtype == np.uint8 and out.ndim == 1 and out.flags.carray
    if not usable or out.nbytes < nbytes:
        raise ValueError(
            f"out is a {out.dtype} array of shape {out.shape}; expected a contiguous, "
            f"writable 1-D uint8 array of at least {nbytes} bytes"
        )
    return out[:nbytes]


def near(name: str, names: Iterable[str]) -> str:
    """The end of an error: names that look like the one that is not there."""
    import difflib  # Only errors need it.

    close = difflib.get_close_matches(name, list(names), n=3)
    return f"; there are {', '.join(map(repr, close))}" if close else ""


def check_range(where: str, info: TensorInfo, start: int, stop: int) -> None:
    """Refuses a flat element range that is not inside a tensor."""
    if not 0 <= start <= stop <= info.size:
        raise CheckpointError(
            f"{where}: elements {start}:{stop} of tensor {info.name!r} do not exist; "
            f"it has {info.size}"
        )

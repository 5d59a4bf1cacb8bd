"""What is known of a stored tensor without reading it: name, shape and dtype.

Dtypes are NumPy's, with `ml_dtypes` for those that NumPy lacks. Each has the code by
which safetensors calls it; formats with other names translate at their own border.
"""

import dataclasses
import math

import ml_dtypes
import numpy as np

from jaxmerge.checkpoint.errors import CheckpointError

# In the order of the reference implementation, which lays out the tensors of a file by
# descending position here, so that the widest come first and stay aligned.
_TYPES = {
    "BOOL": np.bool_,
    "F4": ml_dtypes.float4_e2m1fn,
    "F6_E2M3": ml_dtypes.float6_e2m3fn,
    "F6_E3M2": ml_dtypes.float6_e3m2fn,
    "U8": np.uint8,
    "I8": np.int8,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "I16": np.int16,
    "U16": np.uint16,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I32": np.int32,
    "U32": np.uint32,
    "F32": np.float32,
    "C64": np.complex64,
    "F64": np.float64,
    "I64": np.int64,
    "U64": np.uint64,
}
DTYPES: dict[str, np.dtype] = {code: np.dtype(t) for code, t in _TYPES.items()}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
_RANK = {code: rank for rank, code in enumerate(DTYPES)}
# ml_dtypes spends a byte on an element of these; a file packs their bits.
_PACKED_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}


def dtype_code(dtype: np.dtype) -> str | None:
    """The safetensors code of a dtype, or None if it has none.

    >>> dtype_code(np.dtype("float32")), dtype_code(np.dtype("complex128"))
    ('F32', None)
    """
    return _CODES.get(dtype)


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """A stored tensor, unread.

    >>> info = TensorInfo("w", (2, 3), np.dtype(ml_dtypes.bfloat16))
    >>> info.code, info.size, info.nbytes
    ('BF16', 6, 12)

    Attributes:
      name: its name in the file.
      shape: its shape; `()` is a scalar.
      dtype: its dtype, one of those that safetensors can name.

    Raises:
      CheckpointError: if the dtype is not one of them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def __post_init__(self) -> None:
        if self.dtype not in _CODES:
            raise CheckpointError(
                f"tensor {self.name!r} has dtype {self.dtype}, which a checkpoint "
                "cannot hold; cast it to one of " + ", ".join(map(str, _CODES))
            )

    @property
    def code(self) -> str:
        """The dtype as safetensors writes it, `"F32"` or `"BF16"`."""
        return _CODES[self.dtype]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def floating(self) -> bool:
        """Whether its elements are real floating-point numbers."""
        return self.code.startswith(("F", "BF"))

    @property
    def packed(self) -> bool:
        """Whether elements share bytes in the file: codes of a quantised tensor."""
        return self.code in _PACKED_BITS

    @property
    def nbytes(self) -> int:
        """Number of bytes in a file."""
        if bits := _PACKED_BITS.get(self.code):
            return -(-self.size * bits // 8)
        return self.size * self.dtype.itemsize

    @property
    def layout_key(self) -> tuple[int, str]:
        """Sorts the tensors of a file as the reference implementation lays them out."""
        return (-_RANK[self.code], self.name)

"""Reading and writing safetensors files by position.

The reader and the writer know where every tensor lies and move bytes with positioned
system calls between the file and buffers that the caller may reuse. There is no memory
map: its pages would count in the process's memory, and a file cut short under it kills
the process, where a short read is an error with a sentence.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from jaxmerge.checkpoint.buffers import (
    aligned_empty as aligned_empty,
    check_range,
    near,
    take_buffer,
)
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.safetensors_header import MAX_HEADER_BYTES, parse_header
from jaxmerge.checkpoint.safetensors_writer import (
    SafetensorsWriter as SafetensorsWriter,
)
from jaxmerge.checkpoint.tensor_info import TensorInfo

_CHUNK = 1 << 30  # Linux moves at most 2 GiB - 4 KiB in a call.


class SafetensorsFile:
    """A safetensors file to read from; every method may run in several threads.

    Args:
      path: the file.

    Attributes:
      path: the file.
      infos: its tensors by name, in the order of their bytes.
      metadata: its `__metadata__`.
      header_sha256: hash of the header with its length: what the file claims to hold.
      size: number of bytes in the file.

    Raises:
      CheckpointError: if the header is not that of a safetensors file, or the file has
        more or fewer bytes than it says.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        if not self.path.is_file():
            raise CheckpointError(f"{self.path} is not a file")
        where = str(self.path)
        self._state = None
        with self._opened() as descriptor:
            self.size = os.fstat(descriptor).st_size
            if self.size < 8:
                raise CheckpointError(
                    f"{where} has {self.size} bytes; a safetensors file begins with 8 "
                    "bytes that give the length of its header"
                )
            length = self._fetch(descriptor, aligned_empty(8), 0, "its header")
            header_bytes = int.from_bytes(length.tobytes(), "little")
            if header_bytes > min(self.size - 8, MAX_HEADER_BYTES):
                raise CheckpointError(
                    f"{where} is no safetensors file, or is cut short: its header "
                    f"should have {header_bytes} bytes, the file has {self.size}, and "
                    f"a header at most {MAX_HEADER_BYTES}"
                )
            buffer = aligned_empty(8 + header_bytes)
            raw = self._fetch(descriptor, buffer, 0, "its header").tobytes()
        self._data = len(raw)
        self.infos, self._begins, self.metadata = parse_header(
            where, raw[8:], self.size - self._data
        )
        self.header_sha256 = hashlib.sha256(raw).hexdigest()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """The file's descriptor, if it is still the file whose header was read.

        Opening costs microseconds, and a hundred shards of ten experts would be more
        descriptors than a process may have.
        """
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            now = os.fstat(descriptor)
            state = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)
            self._state = self._state or state
            if state != self._state:
                raise CheckpointError(
                    f"{self.path} has changed since it was opened; something else is "
                    "writing it"
                )
            yield descriptor
        finally:
            os.close(descriptor)

    def _fetch(
        self, descriptor: int, buffer: np.ndarray, offset: int, what: str
    ) -> np.ndarray:
        done = 0
        while done < buffer.nbytes:
            part = buffer[done : done + _CHUNK]
            count = os.preadv(descriptor, [part.data], offset + done)
            if count == 0:
                raise CheckpointError(
                    f"{self.path}: the file ended while {what} was read, "
                    f"{buffer.nbytes - done} bytes too early; something else is "
                    "writing it"
                )
            done += count
        return buffer

    def info(self, name: str) -> TensorInfo:
        """The description of a tensor.

        Raises:
          CheckpointError: if there is no such tensor.
        """
        if name not in self.infos:
            raise CheckpointError(
                f"{self.path} has no tensor {name!r}" + near(name, self.infos)
            )
        return self.infos[name]

    def offset(self, name: str) -> int:
        """Where in the file the tensor's bytes begin."""
        return self._data + self._begins[self.info(name).name]

    def read_range(
        self, name: str, start: int, stop: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Elements `start` to `stop` of the flat tensor, as a 1-D array.

        Args:
          name: the tensor.
          start: first element, in row-major order.
          stop: one past the last element.
          out: a uint8 buffer to read into; the result is a view of it. A fresh one,
            aligned to 64 bytes, if None.

        Raises:
          CheckpointError: if there is no such tensor or range, its dtype packs several
            codes into a byte, or the file ends early.
        """
        info = self.info(name)
        check_range(str(self.path), info, start, stop)
        if info.packed:
            raise CheckpointError(
                f"{self.path}: tensor {name!r} is stored as {info.code}, the packed "
                "codes of a quantised tensor; codes are not weights, dequantise first"
            )
        width = info.dtype.itemsize
        buffer = take_buffer(out, (stop - start) * width)
        offset = self.offset(name) + start * width
        with self._opened() as descriptor:
            self._fetch(descriptor, buffer, offset, f"tensor {name!r}")
        if info.dtype == np.bool_ and buffer.size and buffer.max() > 1:
            raise CheckpointError(
                f"{self.path}: tensor {name!r} is boolean and holds a byte that is "
                "neither 0 nor 1"
            )
        return buffer.view(info.dtype)

    def read(self, name: str, out: np.ndarray | None = None) -> np.ndarray:
        """A whole tensor; see `read_range`."""
        info = self.info(name)
        return self.read_range(name, 0, info.size, out).reshape(info.shape)

    def close(self) -> None:
        """Does nothing: between reads, no file is held open."""

    def __enter__(self) -> "SafetensorsFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

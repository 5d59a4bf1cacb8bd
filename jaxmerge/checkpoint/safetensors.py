"""Reading and writing safetensors files by position.

The reader and the writer know where every tensor lies and move bytes with positioned
system calls between the file and buffers that the caller may reuse. There is no memory
map: its pages would count in the process's memory, and a file cut short under it kills
the process, where a short read is an error with a sentence.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.safetensors_header import (
    MAX_HEADER_BYTES,
    encode_header,
    parse_header,
)
from jaxmerge.checkpoint.tensor_info import TensorInfo

_ALIGNMENT = 64  # XLA takes a buffer without copying it only if it is this aligned.
_CHUNK = 1 << 30  # Linux moves at most 2 GiB - 4 KiB in a call.


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


def _reserve(path: Path, descriptor: int, size: int) -> None:
    """Takes the disk space now, so that a full disk is found before any work."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
            return
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _full(path, size) from error
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
    # A file system that cannot reserve gets the length; writing may still run out.
    os.truncate(descriptor, size)


def sync(path: Path) -> None:
    """Flushes a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _full(path: Path, needed: int) -> CheckpointError:
    free = shutil.disk_usage(path.parent).free
    return CheckpointError(
        f"no space for {path}: it needs {needed} bytes and the disk (or quota) has "
        f"{free} available"
    )


class SafetensorsWriter:
    """A safetensors file whose tensors are written in any order, from any thread.

    The layout follows from the tensors' descriptions, so every write goes straight to
    its place. The order in the file is the reference implementation's: widest dtypes
    first, then by name.

    Args:
      path: the file, which must not exist.
      infos: the tensors it will hold.
      metadata: its `__metadata__`.

    Raises:
      CheckpointError: if the tensors cannot be in one file, or the disk has no room.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        infos: Sequence[TensorInfo],
        metadata: dict[str, str] | None = None,
    ):
        self.path = Path(path)
        ordered = sorted(infos, key=lambda info: info.layout_key)
        header, self._offsets = encode_header(ordered, metadata)
        self.infos = {info.name: info for info in ordered}
        self.size = len(header) + sum(info.nbytes for info in ordered)
        self._lock = threading.Lock()
        self._written: dict[str, list[tuple[int, int]]] = {n: [] for n in self.infos}
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o666)
        try:
            _reserve(self.path, descriptor, self.size)
            self._store(np.frombuffer(header, np.uint8), 0)
        except BaseException:
            self.path.unlink()
            raise
        finally:
            os.close(descriptor)

    def _store(self, raw: np.ndarray, offset: int) -> None:
        done = 0
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            while done < raw.nbytes:
                part = raw[done : done + _CHUNK]
                done += os.pwrite(descriptor, part.data, offset + done)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _full(self.path, self.size) from error
            raise
        finally:
            os.close(descriptor)

    def _claim(self, name: str, start: int, stop: int) -> None:
        """Notes elements as written, and refuses those that already are."""
        with self._lock:
            ranges = self._written[name]
            if start == stop < self.infos[name].size:
                return
            empty_again = start == stop and bool(ranges)
            if empty_again or any(start < b and a < stop for a, b in ranges):
                raise CheckpointError(
                    f"{self.path}: elements {start}:{stop} of tensor {name!r} are "
                    "written twice"
                )
            # Neighbours are joined, so a tensor written front to back stays one range.
            for a, b in [r for r in ranges if r[0] == stop or r[1] == start]:
                ranges.remove((a, b))
                start, stop = min(start, a), max(stop, b)
            ranges.append((start, stop))

    def write_range(self, name: str, start: int, array: np.ndarray) -> None:
        """Writes a 1-D array as the elements from `start` of the flat tensor.

        Raises:
          CheckpointError: if the tensor is unknown, the dtype is another, or elements
            do not exist or are written already.
        """
        if name not in self.infos:
            raise CheckpointError(
                f"{self.path} has no place for tensor {name!r}" + near(name, self.infos)
            )
        info = self.infos[name]
        if array.dtype != info.dtype or array.ndim != 1:
            raise CheckpointError(
                f"{self.path}: tensor {name!r} was declared as {info.dtype} and is "
                f"written in a {array.ndim}-D array of {array.dtype}"
            )
        check_range(str(self.path), info, start, start + array.size)
        self._claim(name, start, start + array.size)
        raw = np.ascontiguousarray(array).view(np.uint8)
        self._store(raw, self._offsets[name] + start * info.dtype.itemsize)

    def write(self, name: str, array: np.ndarray) -> None:
        """Writes a whole tensor; see `write_range`.

        Raises:
          CheckpointError: also if the shape is not the declared one.
        """
        if name in self.infos and array.shape != self.infos[name].shape:
            raise CheckpointError(
                f"{self.path}: tensor {name!r} was declared with shape "
                f"{self.infos[name].shape} and is written with {array.shape}"
            )
        self.write_range(name, 0, np.ascontiguousarray(array).reshape(-1))

    def close(self) -> None:
        """Checks that every tensor is complete and flushes the file to the disk.

        Raises:
          CheckpointError: if something was not written.
        """
        missing = [
            name
            for name, info in self.infos.items()
            if self._written[name] != [(0, info.size)]
        ]
        if missing:
            raise CheckpointError(
                f"{self.path}: {len(missing)} of {len(self.infos)} tensors are not "
                f"completely written, {missing[0]!r} among them"
            )
        sync(self.path)

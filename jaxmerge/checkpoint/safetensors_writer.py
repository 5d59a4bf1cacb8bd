"""Writing a safetensors file by position, in any order and from any thread."""

import errno
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxmerge.checkpoint.buffers import check_range, near
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.safetensors_header import encode_header
from jaxmerge.checkpoint.tensor_info import TensorInfo

_CHUNK = 1 << 30  # Linux moves at most 2 GiB - 4 KiB in a call.


def _reserve(path: Path, descriptor: int, size: int) -> None:
    """Takes the disk space now, so that a full disk is found before any work."""
    # Asked first: a reservation that fails may fill the disk for others until it does.
    if size > shutil.disk_usage(path.parent).free:
        raise _full(path, size)
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

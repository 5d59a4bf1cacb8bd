"""NumPy's .npz files: a zip of .npy members, one a tensor.

NumPy's format has no name for bfloat16 and float8: an array of them is stored as bare
bytes (`V2`, `V1`). A file that is written here therefore has a member `__dtypes__`, the
JSON of the true dtypes by name, and a reader that knows nothing of it sees the bytes. A
bare `V2` in somebody else's file is refused, as it could be anything.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from jaxmerge.checkpoint._source import Source, file_identity
from jaxmerge.checkpoint.buffers import check_range, take_buffer
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.tensor_info import DTYPES, TensorInfo, dtype_code

_DTYPES_MEMBER = "__dtypes__"
_METADATA_MEMBER = "__metadata__"
_FIRST_DATE = (1980, 1, 1, 0, 0, 0)  # The zip format's own zero.
_BY_NAME = {str(dtype): dtype for dtype in DTYPES.values()}
_PIECE = 1 << 22
# What zipfile, zlib and json raise for bytes that are not what they should be.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError),
    *(NotImplementedError, RuntimeError, struct.error, OverflowError),
)


_DEFLATE_LIMIT = 1032  # No deflated byte stands for more.

# The header is a Python literal. It is matched and never evaluated: NumPy writes only
# this form for arrays that are tensors.
_DESCR = re.compile(r"'descr'\s*:\s*'([<>|=]?[?biufcVOSUMm]\d*(?:\[\w+\])?)'")
_ORDER = re.compile(r"'fortran_order'\s*:\s*(True|False)")
_SHAPE = re.compile(r"'shape'\s*:\s*\(((?:\d{1,19}\s*,?\s*)*)\)")
_MAX_DIMENSIONS = 64  # NumPy's


def _read_npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    start = stream.read(8)
    if start[:6] != b"\x93NUMPY" or len(start) < 8:
        raise CheckpointError("it does not begin as one")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    text = stream.read(min(length, 1 << 16)).decode("latin-1")
    descr, order, shape = (p.search(text) for p in (_DESCR, _ORDER, _SHAPE))
    if descr is None or order is None or shape is None or len(text) < length:
        raise CheckpointError(f"its header is {text[:200]!r}, not a tensor's")
    sizes = tuple(int(n) for n in re.findall(r"\d+", shape[1]))
    if len(sizes) > _MAX_DIMENSIONS:
        raise CheckpointError(f"it has {len(sizes)} dimensions")
    return sizes, order[1] == "True", np.dtype(descr[1])


class NpzSource(Source):
    """An .npz file, its members read one at a time; see `Source`.

    Arrays of Python objects are never unpickled. A range of a compressed member costs
    the reading of all before it.

    Args:
      path: the file.

    Raises:
      CheckpointError: if it is not an .npz file, or a member is not a tensor.
    """

    def __init__(self, path: Path):
        self.path, self.kind = path, "npz"
        self.config, self.aliases, self.sidecars, self.notes = None, {}, [], []
        self._lock = threading.Lock()
        self._file_bytes = path.stat().st_size
        try:
            self._zip = zipfile.ZipFile(path)
        except _DAMAGE as error:
            raise CheckpointError(f"{path} is not an .npz file: {error}") from error
        try:
            self._list()
        except BaseException:
            self._zip.close()
            raise

    def _list(self) -> None:
        members = self._zip.namelist()
        for member in members:
            if not member.endswith(".npy"):
                raise CheckpointError(
                    f"{self.path} has the member {member!r}, which is no .npy array; "
                    "if this is a PyTorch pickle, convert it to safetensors first"
                )
        if len(set(members)) < len(members):
            raise CheckpointError(f"{self.path} has two members of one name")
        self._members = {m.removesuffix(".npy"): m for m in members}
        true_dtypes = self._strings(_DTYPES_MEMBER)
        self.metadata = self._strings(_METADATA_MEMBER)
        self.infos: dict[str, TensorInfo] = {}
        self._layout: dict[str, tuple[int, bool, bool]] = {}
        for name, member in self._members.items():
            if name not in (_DTYPES_MEMBER, _METADATA_MEMBER):
                self._describe(name, member, true_dtypes.get(name))

    def _describe(self, name: str, member: str, true: str | None) -> None:
        size = self._zip.getinfo(member).file_size
        with self._stream(name) as stream:
            shape, fortran, stored = _read_npy_header(stream)
            begin = stream.tell()
        dtype = stored.newbyteorder("=")
        if true is not None:
            dtype = _BY_NAME.get(true, dtype)
        if dtype_code(dtype) is None or dtype.itemsize != stored.itemsize:
            raise CheckpointError(
                f"{self.path}: member {name!r} has dtype {stored}, which is no tensor's"
                + self._explain(stored)
            )
        self.infos[name] = TensorInfo(name, shape, dtype)
        self._layout[name] = (begin, fortran, stored != dtype and true is None)
        if begin + self.infos[name].nbytes != size:
            raise CheckpointError(
                f"{self.path}: member {name!r} has {size - begin} bytes of data, and "
                f"its shape {shape} and dtype {dtype} take {self.infos[name].nbytes}"
            )

    def _explain(self, dtype: np.dtype) -> str:
        if dtype.hasobject:
            return "; arrays of Python objects are pickles and are never loaded"
        if dtype.kind == "V":
            return (
                f": bare bytes, as NumPy saves bfloat16; without a {_DTYPES_MEMBER} "
                "member there is no telling what they are, save it as safetensors"
            )
        return ""

    def _strings(self, name: str) -> dict[str, str]:
        """Our own members: the JSON of an object of strings, as an array of bytes."""
        if name not in self._members:
            return {}
        with self._stream(name) as stream:
            shape, _, dtype = _read_npy_header(stream)
            strings = json.loads(stream.read())
        whole = dtype == np.uint8 and len(shape) == 1 and isinstance(strings, dict)
        if not whole or not all(isinstance(v, str) for v in strings.values()):
            raise CheckpointError(f"{self.path}: member {name!r} is not what we write")
        return strings

    @contextlib.contextmanager
    def _stream(self, name: str) -> Iterator[Any]:
        """A member's bytes; whatever is wrong with them becomes one kind of error."""
        entry = self._zip.getinfo(self._members[name])
        limit = _DEFLATE_LIMIT if entry.compress_type == zipfile.ZIP_DEFLATED else 1
        if entry.file_size > limit * min(entry.compress_size, self._file_bytes):
            raise CheckpointError(
                f"{self.path}: member {name!r} is damaged: it should have "
                f"{entry.file_size} bytes, in a file of {self._file_bytes}"
            )
        try:
            with self._zip.open(entry) as stream:
                yield stream
        except _DAMAGE as error:
            raise CheckpointError(
                f"{self.path}: member {name!r} is damaged ({error})"
            ) from error

    def read_range(
        self, name: str, start: int, stop: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        info = self.info(name)
        check_range(str(self.path), info, start, stop)
        begin, fortran, swapped = self._layout[name]
        if fortran and len(info.shape) > 1 and info.size:
            return self._read_fortran(info, start, stop, out)
        width = info.dtype.itemsize
        buffer = take_buffer(out, (stop - start) * width)
        self._fetch(name, begin + start * width, buffer)
        array = buffer.view(info.dtype)
        return array.byteswap(inplace=True) if swapped else array

    def _read_fortran(
        self, info: TensorInfo, start: int, stop: int, out: np.ndarray | None
    ) -> np.ndarray:
        begin, _, swapped = self._layout[info.name]
        columns = np.empty(info.nbytes, np.uint8)
        self._fetch(info.name, begin, columns)
        whole = columns.view(info.dtype).reshape(info.shape, order="F")
        buffer = take_buffer(out, (stop - start) * info.dtype.itemsize)
        array = buffer.view(info.dtype)
        array[:] = whole.reshape(-1)[start:stop]
        return array.byteswap(inplace=True) if swapped else array

    def _fetch(self, name: str, offset: int, buffer: np.ndarray) -> None:
        done = 0
        # A zip file shares one position among its streams.
        with self._lock, self._stream(name) as stream:
            stream.seek(offset)
            while done < buffer.nbytes:
                piece = stream.read(min(_PIECE, buffer.nbytes - done))
                if not piece:
                    raise CheckpointError("it ends early")
                buffer[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
                done += len(piece)

    def identity(self, checksums: bool = False) -> dict[str, Any]:
        listing = [(i.filename, i.file_size, i.CRC) for i in self._zip.infolist()]
        digest = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
        entry = file_identity(self.path, self.path.name, checksums, digest)
        return {"kind": self.kind, "files": [entry]}

    def close(self) -> None:
        self._zip.close()


def _npy_header(info: TensorInfo) -> bytes:
    native = info.dtype.isbuiltin == 1
    descr = npy.dtype_to_descr(info.dtype) if native else f"|V{info.dtype.itemsize}"
    stream = io.BytesIO()
    fields = {"descr": descr, "fortran_order": False, "shape": info.shape}
    npy.write_array_header_1_0(stream, fields)
    return stream.getvalue()


def write_npz(
    path: Path,
    infos: Sequence[TensorInfo],
    read_range: Callable[[str, int, int], np.ndarray],
    metadata: dict[str, str] | None = None,
) -> None:
    """Writes an .npz file, uncompressed and the same bytes every time.

    Args:
      path: the file, which must not exist.
      infos: its tensors, in the order in which they are written.
      read_range: gives elements `start` to `stop` of a tensor, flat.
      metadata: strings for a `__metadata__` member.

    Raises:
      CheckpointError: if a tensor has a name of our own members.
    """
    with path.open("xb") as file, zipfile.ZipFile(file, "w") as archive:

        def member(name: str) -> Any:
            entry = zipfile.ZipInfo(f"{name}.npy", _FIRST_DATE)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            return archive.open(entry, "w", force_zip64=True)

        def strings(name: str, values: dict[str, str]) -> None:
            raw = json.dumps(values, ensure_ascii=False, sort_keys=True).encode()
            with member(name) as stream:
                info = TensorInfo(name, (len(raw),), np.dtype(np.uint8))
                stream.write(_npy_header(info) + raw)

        true = {i.name: str(i.dtype) for i in infos if i.dtype.isbuiltin != 1}
        if true:
            strings(_DTYPES_MEMBER, true)
        if metadata:
            strings(_METADATA_MEMBER, metadata)
        for info in infos:
            if info.name in (_DTYPES_MEMBER, _METADATA_MEMBER):
                raise CheckpointError(f"{path}: the tensor name {info.name!r} is taken")
            step = max(1, _PIECE // info.dtype.itemsize)
            with member(info.name) as stream:
                stream.write(_npy_header(info))
                for start in range(0, info.size, step):
                    piece = read_range(info.name, start, min(start + step, info.size))
                    stream.write(piece.view(np.uint8).data)
        archive.close()
        file.flush()
        os.fsync(file.fileno())

"""NumPy's .npz files: a zip of .npy members, one a tensor.

NumPy's format has no name for bfloat16 and float8: an array of them is stored as bare
bytes (`V2`, `V1`). A file that is written here therefore has a member `__dtypes__`, the
JSON of the true dtypes by name, and a reader that knows nothing of it sees the bytes. A
bare `V2` in somebody else's file is refused, as it could be anything.
"""

import hashlib
import json
import os
import threading
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from jaxmerge.checkpoint._source import Source, file_identity
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.safetensors import check_range, take_buffer
from jaxmerge.checkpoint.tensor_info import DTYPES, TensorInfo, dtype_code

_DTYPES_MEMBER = "__dtypes__"
_METADATA_MEMBER = "__metadata__"
_FIRST_DATE = (1980, 1, 1, 0, 0, 0)  # The zip format's own zero.
_BY_NAME = {str(dtype): dtype for dtype in DTYPES.values()}
_PIECE = 1 << 22


def _read_npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(stream)
    if version == (1, 0):
        return npy.read_array_header_1_0(stream)
    return npy.read_array_header_2_0(stream)


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
        try:
            self._zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
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
            try:
                shape, fortran, stored = _read_npy_header(stream)
                begin = stream.tell()
            except (ValueError, OSError, zlib.error, zipfile.BadZipFile) as error:
                raise CheckpointError(
                    f"{self.path}: member {name!r} is no .npy array ({error})"
                ) from error
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
            try:
                shape, _, dtype = _read_npy_header(stream)
                strings = json.loads(stream.read())
            except (ValueError, RecursionError) as error:
                raise CheckpointError(
                    f"{self.path}: member {name!r} is not JSON ({error})"
                ) from error
        whole = dtype == np.uint8 and len(shape) == 1 and isinstance(strings, dict)
        if not whole or not all(isinstance(v, str) for v in strings.values()):
            raise CheckpointError(f"{self.path}: member {name!r} is not what we write")
        return strings

    def _stream(self, name: str) -> Any:
        try:
            return self._zip.open(self._members[name])
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise CheckpointError(
                f"{self.path}: member {name!r} cannot be read ({error})"
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
            try:
                stream.seek(offset)
                while done < buffer.nbytes:
                    piece = stream.read(min(_PIECE, buffer.nbytes - done))
                    if not piece:
                        break
                    buffer[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
                    done += len(piece)
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                raise CheckpointError(
                    f"{self.path}: member {name!r} is damaged ({error})"
                ) from error
        if done < buffer.nbytes:
            raise CheckpointError(f"{self.path}: member {name!r} ends early")

    def identity(self, checksums: bool = False) -> dict[str, Any]:
        listing = [(i.filename, i.file_size, i.CRC) for i in self._zip.infolist()]
        digest = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
        entry = file_identity(self.path, self.path.name, checksums, digest)
        return {"kind": self.kind, "files": [entry]}

    def close(self) -> None:
        self._zip.close()


def _npy_header(info: TensorInfo) -> bytes:
    import io

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

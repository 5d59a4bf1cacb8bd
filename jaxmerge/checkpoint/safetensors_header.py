"""The header of a safetensors file: eight bytes of length, then JSON.

    {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, ...,
     "__metadata__": {"format": "pt"}}

A header comes from a stranger. It is believed only when every byte of the file behind
it belongs to exactly one tensor and every tensor has the bytes that its shape and dtype
need; that is what the reference implementation asks too.
"""

import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn

from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.tensor_info import DTYPES, TensorInfo

MAX_HEADER_BYTES = 100_000_000
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}
# Sizes are 64-bit in the format; beyond that a reader elsewhere would wrap around.
_MAX_INT = 2**64 - 1
_MAX_DIMENSIONS = 64  # NumPy's


def _refuse(where: str, sentence: str) -> NoReturn:
    raise CheckpointError(f"{where}: {sentence}")


def _brief(value: Any) -> str:
    """A stranger's value in an error, cut to a line."""
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for key, value in pairs:
        if key in entries:
            raise CheckpointError(f"the key {_brief(key)} is there twice")
        entries[key] = value
    return entries


def _parse_json(where: str, raw: bytes) -> dict[str, Any]:
    if raw[:1] != b"{":
        _refuse(where, f"the header begins with {raw[:1]!r}, not with a brace")
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        _refuse(where, f"the header is not UTF-8 ({error})")
    except CheckpointError as error:
        _refuse(where, f"the header is ambiguous: {error}")
    # Too deep a nesting and too long a number are JSON that Python will not read.
    except (ValueError, RecursionError) as error:
        _refuse(where, f"the header is not JSON ({error})")
    return header


def _parse_metadata(where: str, metadata: Any) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        _refuse(where, f"{_METADATA} has to map strings to strings")
    for text in (*metadata, *metadata.values()):
        _check_text(where, text)
    return metadata


def _check_text(where: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        _refuse(where, f"the text {_brief(text)} has half a surrogate pair in it")


def _integers(where: str, what: str, field: str, values: Any) -> list[int]:
    if not isinstance(values, list):
        _refuse(where, f"{what} has {field} {_brief(values)}, not a list")
    for value in values:
        if type(value) is not int or not 0 <= value <= _MAX_INT:
            _refuse(
                where,
                f"{what} has {field} {_brief(values)}; expected integers from 0 "
                "to 2**64 - 1",
            )
    return values


def _parse_tensor(where: str, name: str, entry: Any) -> tuple[int, int, TensorInfo]:
    _check_text(where, name)
    what = f"tensor {_brief(name)}"
    if not isinstance(entry, dict) or set(entry) != _FIELDS:
        found = sorted(entry) if isinstance(entry, dict) else entry
        _refuse(
            where,
            f"{what} is described by {_brief(found)}; expected exactly the "
            "fields data_offsets, dtype, shape",
        )
    code = entry["dtype"]
    if not isinstance(code, str) or code not in DTYPES:
        _refuse(
            where,
            f"{what} has the unknown dtype {_brief(code)}; known are "
            + ", ".join(DTYPES),
        )
    shape = _integers(where, what, "shape", entry["shape"])
    offsets = _integers(where, what, "data_offsets", entry["data_offsets"])
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(
            where,
            f"{what} has data_offsets {_brief(offsets)}; expected [begin, end] "
            "with begin <= end",
        )
    begin, end = offsets
    elements = math.prod(filter(None, shape[: _MAX_DIMENSIONS + 1]))
    if len(shape) > _MAX_DIMENSIONS or elements * DTYPES[code].itemsize > 2**63 - 1:
        _refuse(where, f"{what} has the shape {_brief(shape)}, too big")
    info = TensorInfo(name, tuple(shape), DTYPES[code])
    if end - begin != info.nbytes:
        _refuse(
            where,
            f"{what} of dtype {code} and shape {_brief(shape)} takes "
            f"{info.nbytes} bytes, and data_offsets gives it {end - begin}",
        )
    return begin, end, info


def parse_header(
    where: str, raw: bytes, data_bytes: int
) -> tuple[dict[str, TensorInfo], dict[str, int], dict[str, str]]:
    """Reads the JSON of a header and checks it against the size of the file.

    >>> infos, offsets, metadata = parse_header("x.safetensors", b'{}', 0)
    >>> infos, offsets, metadata
    ({}, {}, {})

    Args:
      where: what to call the file in errors.
      raw: the header's JSON, without its length.
      data_bytes: number of bytes in the file behind the header.

    Returns:
      The tensors in the order of their bytes, where in the data each begins, and the
      metadata.

    Raises:
      CheckpointError: if anything in the header is not as the format says.
    """
    header = _parse_json(where, raw)
    metadata = _parse_metadata(where, header.pop(_METADATA, None))
    tensors = [_parse_tensor(where, name, entry) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: tensor[:2])
    position = 0
    for begin, end, info in tensors:
        what = f"tensor {_brief(info.name)}"
        if begin != position:
            kind = "overlaps the tensor before it" if begin < position else "has a gap"
            _refuse(
                where,
                f"{what} begins at byte {begin} of the data and {kind}: "
                f"the bytes so far end at {position}",
            )
        if end > data_bytes:
            _refuse(
                where,
                f"{what} ends at byte {end} of the data, of which there "
                f"are {data_bytes}; the file is cut short, fetch it again",
            )
        position = end
    if position != data_bytes:
        _refuse(
            where,
            f"{data_bytes - position} bytes behind the last tensor belong to nothing",
        )
    infos = {info.name: info for _, _, info in tensors}
    return infos, {info.name: begin for begin, _, info in tensors}, metadata


def encode_header(
    infos: Sequence[TensorInfo], metadata: dict[str, str] | None
) -> tuple[bytes, dict[str, int]]:
    """The first bytes of a file that holds the given tensors, in the given order.

    >>> raw, offsets = encode_header([TensorInfo("w", (2,), DTYPES["F32"])], None)
    >>> raw[8:]
    b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  '

    Returns:
      Length, JSON and padding (so that the data begin at a multiple of eight), and
      where in the file each tensor begins.

    Raises:
      CheckpointError: if two tensors have one name, one is called `__metadata__`, one
        has a packed dtype, a text is not Unicode, or the header is too long.
    """
    header: dict[str, Any] = {}
    if metadata:
        header[_METADATA] = dict(sorted(metadata.items()))
    position, begins = 0, {}
    for text in (*(metadata or {}), *(metadata or {}).values()):
        _check_text("the metadata to write", text)
    for info in infos:
        where = f"tensor {_brief(info.name)} cannot be written"
        _check_text(where, info.name)
        if info.name in begins or info.name == _METADATA:
            _refuse(where, "its name is taken")
        if info.packed:
            _refuse(where, f"{info.code} packs the codes of a quantised tensor")
        end = position + info.nbytes
        header[info.name] = {
            "dtype": info.code,
            "shape": list(info.shape),
            "data_offsets": [position, end],
        }
        begins[info.name], position = position, end
    raw = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    if len(raw) > MAX_HEADER_BYTES:
        _refuse(
            f"{len(begins)} tensors",
            f"their header takes {len(raw)} bytes and a safetensors file allows "
            f"{MAX_HEADER_BYTES}; write more shards",
        )
    start = 8 + len(raw)
    offsets = {name: start + begin for name, begin in begins.items()}
    return len(raw).to_bytes(8, "little") + raw, offsets

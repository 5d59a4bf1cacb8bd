"""Our safetensors files against the reference library, which is the oracle here."""

import errno
import json
import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings, strategies as st

from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.safetensors import (
    SafetensorsFile,
    SafetensorsWriter,
    aligned_empty,
)
from jaxmerge.checkpoint.tensor_info import DTYPES, TensorInfo

WHOLE = [code for code in DTYPES if not code.startswith(("F4", "F6"))]


def bits(code: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """An array of random bits of a dtype: every NaN and subnormal may be in it."""
    dtype = DTYPES[code]
    count = int(np.prod(shape)) * dtype.itemsize
    high = 2 if code == "BOOL" else 256
    raw = np.random.default_rng(seed).integers(0, high, count, np.uint8)
    return raw.view(dtype).reshape(shape)


def write(path: Path, tensors: dict[str, np.ndarray], metadata=None) -> Path:
    infos = [TensorInfo(name, x.shape, x.dtype) for name, x in tensors.items()]
    writer = SafetensorsWriter(path, infos, metadata)
    for name, x in tensors.items():
        writer.write(name, x)
    writer.close()
    return path


def raw_file(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


EVERY = {
    f"{code}/{shape}": bits(code, shape, seed)
    for seed, code in enumerate(WHOLE)
    for shape in [(), (3, 2), (0,), (4, 0, 2)]
} | {"": np.float32([1]), "ключ.ß.重み": np.arange(5), 'quote" \\ \n': np.int8([7])}


def test_the_reference_reads_what_we_write(tmp_path):
    path = write(tmp_path / "x.safetensors", EVERY, {"format": "pt", "ключ": "знач"})
    read = dict(safetensors.deserialize(path.read_bytes()))
    assert set(read) == set(EVERY)
    for name, x in EVERY.items():
        assert tuple(read[name]["shape"]) == x.shape
        assert DTYPES[read[name]["dtype"]] == x.dtype
        assert bytes(read[name]["data"]) == x.tobytes()
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt", "ключ": "знач"}


def test_we_read_what_the_reference_writes(tmp_path):
    from safetensors.flax import save_file

    path = tmp_path / "x.safetensors"
    tensors = {
        f"{code}{shape}": bits(code, shape)
        for code in ["F32", "BF16", "F16", "I32", "U8", "BOOL", "F8_E4M3", "F8_E5M2"]
        for shape in [(), (5,), (0, 2)]
    }
    import jax.numpy as jnp

    save_file({k: jnp.asarray(v) for k, v in tensors.items()}, path, {"a": "b"})
    with SafetensorsFile(path) as file:
        assert file.metadata == {"a": "b"}
        assert file.infos.keys() == tensors.keys()
        for name, x in tensors.items():
            assert file.infos[name] == TensorInfo(name, x.shape, x.dtype)
            assert file.read(name).tobytes() == x.tobytes()
    # The same layout, byte for byte, as the reference's own writer.
    ours = write(tmp_path / "y.safetensors", tensors, {"a": "b"})
    assert ours.read_bytes() == path.read_bytes()


def test_bytes_do_not_depend_on_the_order_of_anything(tmp_path):
    a = write(tmp_path / "a", EVERY)
    b = write(tmp_path / "b", dict(reversed(EVERY.items())))
    assert a.read_bytes() == b.read_bytes()


def test_reading_into_a_reused_buffer(tmp_path):
    path = write(tmp_path / "x", {"a": bits("BF16", (5, 7)), "b": bits("F64", (3,))})
    buffer = aligned_empty(1000)
    with SafetensorsFile(path) as file:
        for name, info in file.infos.items():
            x = file.read(name, buffer)
            assert x.ctypes.data == buffer.ctypes.data
            assert (x.shape, x.dtype) == (info.shape, info.dtype)
            assert x.tobytes() == file.read(name).tobytes()
            assert path.read_bytes()[file.offset(name) :][: x.nbytes] == x.tobytes()
        part = file.read_range("a", 3, 11, buffer)
        assert part.tobytes() == file.read("a").reshape(-1)[3:11].tobytes()
        assert file.read("b").ctypes.data % 64 == 0
        for bad in [buffer[:20], buffer.view(np.int8), buffer[::2], EVERY[""]]:
            with pytest.raises(ValueError, match="out is a"):
                file.read("a", bad)
        with pytest.raises(CheckpointError, match="elements 30:36"):
            file.read_range("a", 30, 36)
        with pytest.raises(CheckpointError, match=r"no tensor 'aa'; there are 'a'"):
            file.read("aa")


def test_threads_read_and_write_one_file(tmp_path):
    tensors = {f"t{i}": bits("F32", (999,), i) for i in range(8)}
    infos = [TensorInfo(name, x.shape, x.dtype) for name, x in tensors.items()]
    writer = SafetensorsWriter(tmp_path / "x", infos)

    def copy(name: str) -> None:
        for start in range(0, 999, 111):
            writer.write_range(name, start, tensors[name][start : start + 111])

    threads = [threading.Thread(target=copy, args=(name,)) for name in tensors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    with SafetensorsFile(tmp_path / "x") as file:
        for name, x in tensors.items():
            assert file.read(name).tobytes() == x.tobytes()


def test_the_writer_refuses(tmp_path):
    infos = [TensorInfo("a", (4,), np.dtype("f4")), TensorInfo("e", (0,), DTYPES["U8"])]
    writer = SafetensorsWriter(tmp_path / "x", infos)
    four = np.ones(4, np.float32)
    with pytest.raises(CheckpointError, match="declared as float32"):
        writer.write("a", four.astype(np.float64))
    with pytest.raises(CheckpointError, match="declared with shape"):
        writer.write("a", four.reshape(2, 2))
    with pytest.raises(CheckpointError, match="no place for tensor 'b'"):
        writer.write("b", four)
    writer.write_range("a", 2, four[:2])
    with pytest.raises(CheckpointError, match="written twice"):
        writer.write_range("a", 1, four[:2])
    with pytest.raises(CheckpointError, match="elements 3:7"):
        writer.write_range("a", 3, four)
    with pytest.raises(CheckpointError, match="2 of 2 tensors are not completely"):
        writer.close()
    writer.write_range("a", 1, four[:0])
    writer.write_range("a", 0, four[:2])
    with pytest.raises(CheckpointError, match="1 of 2 tensors .* 'e'"):
        writer.close()
    writer.write("e", np.empty(0, np.uint8))
    with pytest.raises(CheckpointError, match="written twice"):
        writer.write("e", np.empty(0, np.uint8))
    writer.close()
    assert len(safetensors.deserialize((tmp_path / "x").read_bytes())) == 2
    with pytest.raises(FileExistsError):
        SafetensorsWriter(tmp_path / "x", infos)


@pytest.mark.parametrize(
    ("infos", "metadata", "sentence"),
    [
        ([("a", "F32"), ("a", "F32")], None, "its name is taken"),
        ([("__metadata__", "F32")], None, "its name is taken"),
        ([("a", "F4")], None, "packs the codes"),
        ([("\ud800", "F32")], None, "surrogate"),
        ([("a", "F32")], {"x": "\ud800"}, "surrogate"),
    ],
)
def test_the_writer_refuses_headers(tmp_path, infos, metadata, sentence):
    infos = [TensorInfo(name, (1,), DTYPES[code]) for name, code in infos]
    with pytest.raises(CheckpointError, match=sentence):
        SafetensorsWriter(tmp_path / "x", infos, metadata)
    assert not (tmp_path / "x").exists()


def test_a_full_disk_is_found_before_the_work(tmp_path):
    infos = [TensorInfo("a", (2**56,), np.dtype("u1"))]
    with pytest.raises(
        CheckpointError, match=r"needs 7205759403\d+ bytes and the disk"
    ):
        SafetensorsWriter(tmp_path / "x", infos)
    assert not (tmp_path / "x").exists()


def test_a_disk_that_fills_up_meanwhile(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    infos = [TensorInfo("a", (4,), np.dtype("f4"))]
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(CheckpointError, match=r"no space for .*x: it needs \d+ bytes"):
        SafetensorsWriter(tmp_path / "x", infos)
    assert not (tmp_path / "x").exists()
    monkeypatch.undo()
    writer = SafetensorsWriter(tmp_path / "x", infos)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(CheckpointError, match="no space for"):
        writer.write("a", np.ones(4, np.float32))


def test_a_file_system_that_cannot_reserve(tmp_path, monkeypatch):
    def unsupported(*args):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    path = write(tmp_path / "x", {"a": np.float32([1, 2])})
    with SafetensorsFile(path) as file:
        assert file.read("a").tolist() == [1, 2]


def test_the_file_obeys_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        path = write(tmp_path / "x", {"a": np.float32([1])})
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


def entry(dtype="F32", shape=(1,), begin=0, end=4, **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end], **more}


A = entry()
HOSTILE = {
    "not json": (b"{'a'}", "not JSON"),
    "empty": (b"", "begins with b''"),
    "list": (b"[]", "begins with"),
    "leading space": (b" {}", "begins with"),
    "not utf-8": (b'{"\xff": 1}', "not UTF-8"),
    "deep": (b'{"a":' + b"[" * 100_000, "not JSON"),
    "long integer": (b'{"a":' + b"9" * 5000 + b"}", "not JSON"),
    "twice": (b'{"a": 1, "a": 2}', "'a' is there twice"),
    "field twice": (b'{"a": {"dtype": "F32", "dtype": "F32"}}', "twice"),
    "surrogate": (b'{"\\ud800": {}}', "surrogate"),
    "no object": ({"a": 3}, "tensor 'a' is described by 3"),
    "no dtype": ({"a": {"shape": [1], "data_offsets": [0, 4]}}, "tensor 'a' is desc"),
    "extra field": ({"a": entry(stride=1)}, "exactly the fields"),
    "dtype": ({"a": entry("F33")}, "unknown dtype 'F33'"),
    "dtype list": ({"a": entry(["F32"])}, "unknown dtype"),
    "negative": ({"a": entry(shape=[-1])}, "tensor 'a' has shape"),
    "boolean": ({"a": entry(shape=[True])}, "tensor 'a' has shape"),
    "float": ({"a": entry(shape=[1.0])}, "tensor 'a' has shape"),
    "shape number": ({"a": {**A, "shape": 1}}, "not a list"),
    "offset float": ({"a": entry(end=4.0)}, "data_offsets"),
    "offset negative": ({"a": entry(begin=-4, end=0)}, "data_offsets"),
    "offset huge": ({"a": entry(end=2**64)}, "data_offsets"),
    "three offsets": ({"a": {**A, "data_offsets": [0, 4, 8]}}, "begin, end"),
    "backwards": ({"a": entry(begin=4, end=0)}, "begin <= end"),
    "overflow": ({"a": entry(shape=[2**62, 4, 2])}, "too big"),
    "empty overflow": ({"a": entry(shape=[0, 2**62, 8], end=0)}, "too big"),
    "dimensions": ({"a": entry(shape=[1] * 65)}, "too big"),
    "size": ({"a": entry(shape=[2])}, "takes 8 bytes, and data_offsets gives it 4"),
    "gap at the front": ({"a": entry(begin=4, end=8)}, "has a gap"),
    "gap": ({"a": A, "b": entry(begin=8, end=12)}, "'b' .* has a gap"),
    "overlap": ({"a": A, "b": entry(begin=2, end=6)}, "'b' .* overlaps"),
    "same bytes": ({"a": A, "b": A}, "overlaps"),
    "beyond": (
        {"a": entry(shape=[8], end=32)},
        "ends at byte 32 of the data, of which",
    ),
    "trailing": ({"a": A}, "12 bytes behind the last tensor"),
    "metadata": ({"__metadata__": {"a": 1}}, "map strings to strings"),
    "metadata list": ({"__metadata__": []}, "map strings to strings"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers(tmp_path, case):
    header, sentence = HOSTILE[case]
    path = raw_file(tmp_path / "evil.safetensors", header, bytes(16))
    with pytest.raises(CheckpointError, match=sentence) as caught:
        SafetensorsFile(path)
    assert "evil.safetensors" in str(caught.value)
    assert len(str(caught.value)) < 2000
    if case not in {"extra field"}:
        with pytest.raises(safetensors.SafetensorError):
            safetensors.deserialize(path.read_bytes())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "has 0 bytes"),
        (b"1234567", "has 7 bytes"),
        (struct.pack("<Q", 3) + b"{}", "should have 3 bytes, the file has 10"),
        (struct.pack("<Q", 2**63) + b"{}", "should have 9223372036854775808 bytes"),
        (b"version https://git-lfs.github.com/spec/v1", "no safetensors file"),
    ],
)
def test_hostile_lengths(tmp_path, content, sentence):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=sentence):
        SafetensorsFile(path)


def test_a_header_over_the_limit_is_refused_unread(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 100_000_001))
    os.truncate(path, 200_000_000)  # A hole: no disk is used.
    with pytest.raises(CheckpointError, match="at most 100000000"):
        SafetensorsFile(path)


def test_holding_no_tensor_is_fine(tmp_path):
    with SafetensorsFile(raw_file(tmp_path / "x", b"{}   ")) as file:
        assert file.infos == {}
    with pytest.raises(CheckpointError, match="is not a file"):
        SafetensorsFile(tmp_path)


def test_packed_codes_are_listed_and_not_read(tmp_path):
    path = raw_file(tmp_path / "x", {"a": entry("F4", [8])}, bytes(4))
    with SafetensorsFile(path) as file:
        assert file.infos["a"].nbytes == 4
        with pytest.raises(CheckpointError, match="'a' is stored as F4, the packed"):
            file.read("a")


def test_a_boolean_is_zero_or_one(tmp_path):
    path = raw_file(tmp_path / "x", {"a": entry("BOOL", [4])}, b"\0\1\2\1")
    with (
        SafetensorsFile(path) as file,
        pytest.raises(CheckpointError, match="neither 0 nor 1"),
    ):
        file.read("a")


def test_a_file_cut_while_it_is_read(tmp_path):
    path = write(tmp_path / "x", {"a": bits("F32", (100_000,))})
    with SafetensorsFile(path) as file:
        os.truncate(path, 200_000)
        with pytest.raises(CheckpointError, match="changed since it was opened"):
            file.read("a")
        file._state = None  # As if it were cut after the check.
        with pytest.raises(CheckpointError, match="ended while tensor 'a' was read"):
            file.read("a")


VALID = json.dumps(
    {
        "__metadata__": {"format": "pt"},
        "a": entry("F32", [2, 1], 0, 8),
        "b": entry("BF16", [3], 8, 14),
        "c": entry("U8", [0], 14, 14),
    }
).encode()


def mutate_and_open(folder: Path, edits: list[tuple[int, int]]) -> None:
    header = bytearray(VALID)
    for position, byte in edits:
        header[position % len(header)] = byte
    path = raw_file(folder / "fuzz", bytes(header), bytes(range(14)))
    try:
        file = SafetensorsFile(path)
    except CheckpointError:
        return
    with file:
        assert sum(info.nbytes for info in file.infos.values()) == 14
        for name, info in file.infos.items():
            if not info.packed and info.code != "BOOL":
                assert file.read(name).shape == info.shape


EDITS = st.lists(
    st.tuples(st.integers(0, len(VALID) - 1), st.sampled_from(b'{}[]:,"0123456789-e.')),
    min_size=1,
    max_size=4,
)
ANY_EDITS = st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)))


@settings(max_examples=150, deadline=None)
@given(edits=EDITS | ANY_EDITS)
def test_edited_headers_parse_or_are_refused(tmp_path_factory, edits):
    mutate_and_open(tmp_path_factory.getbasetemp(), edits)


@pytest.mark.slow
@settings(max_examples=5_000, deadline=None)
@given(edits=EDITS | ANY_EDITS)
def test_edited_headers_at_length(tmp_path_factory, edits):
    mutate_and_open(tmp_path_factory.getbasetemp(), edits)

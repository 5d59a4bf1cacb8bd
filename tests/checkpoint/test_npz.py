"""Files of numpy.savez, ours, and bad ones."""

import io
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.npz import NpzSource
from jaxmerge.checkpoint.safetensors import aligned_empty

ARRAYS = {
    "c": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big": np.arange(5, dtype=">i4"),
    "big.fortran": np.asfortranarray(np.arange(6, dtype=">f2").reshape(3, 2)),
    "scalar": np.float16(3),
    "empty": np.empty((0, 3), np.uint8),
    "flag": np.array([True, False]),
    "with/slash": np.arange(3, dtype=np.complex64),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes(tmp_path, save):
    save(tmp_path / "x.npz", **ARRAYS)
    buffer = aligned_empty(200)
    with NpzSource(tmp_path / "x.npz") as source:
        assert set(source.infos) == set(ARRAYS)
        for name, x in ARRAYS.items():
            native = x.astype(x.dtype.newbyteorder("="))
            assert source.infos[name].dtype == native.dtype
            read = source.read(name, buffer)
            assert np.shares_memory(read, buffer) or not read.size
            np.testing.assert_array_equal(read, native, strict=True)
            middle = source.read_range(name, x.size // 3, x.size)
            assert middle.tolist() == native.reshape(-1)[x.size // 3 :].tolist()
        with pytest.raises(CheckpointError, match="elements 1:3"):
            source.read_range("scalar", 1, 3)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.array([None]), "'a' has dtype object.*never loaded"),
        (np.array(["x"]), "'a' has dtype <U1"),
        (np.ones(1, np.complex128), "'a' has dtype complex128"),
        (np.ones(1, ml_dtypes.bfloat16), r"'a' has dtype \|?<?V2.*bare bytes"),
        (np.ones(1, [("x", "f4")]), "not a tensor's"),
        (np.array(["2020"], "M8[D]"), "'a' has dtype"),
    ],
)
def test_what_is_no_tensor(tmp_path, array, sentence):
    np.savez(tmp_path / "x.npz", a=array)
    with pytest.raises(CheckpointError, match=sentence):
        NpzSource(tmp_path / "x.npz")


def archive(path, *members: tuple[str, bytes]):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


GOOD = npy(np.ones(4, np.float32))


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ([("archive/data.pkl", b"")], "'archive/data.pkl', which is no .npy"),
        ([("a.npy", b"text")], "'a' is damaged .it does not begin as one"),
        ([("a.npy", b"")], "'a' is damaged .it does not begin as one"),
        ([("a.npy", GOOD[:-4])], "'a' has 12 bytes of data, and its shape"),
        ([("a.npy", GOOD + b"1")], "'a' has 17 bytes of data"),
        ([("__dtypes__.npy", GOOD)], "'__dtypes__' is damaged"),
        ([("__dtypes__.npy", npy(np.frombuffer(b"[]", "u1")))], "not what we write"),
        ([("__dtypes__.npy", npy(np.frombuffer(b'{"a":1}', "u1")))], "not what we"),
    ],
)
def test_bad_members(tmp_path, members, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        NpzSource(archive(tmp_path / "x.npz", *members))


def test_two_members_of_one_name(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = archive(tmp_path / "x.npz", ("a.npy", GOOD), ("a.npy", GOOD))
    with pytest.raises(CheckpointError, match="two members of one name"):
        NpzSource(path)


def test_a_member_whose_bytes_changed(tmp_path):
    path = archive(tmp_path / "x.npz", ("a.npy", GOOD))
    raw = bytearray(path.read_bytes())
    raw[raw.index(GOOD) + len(GOOD) - 1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="'a' is damaged .Bad CRC"):
        NpzSource(path).read("a")


def test_not_a_zip(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK12345")
    with pytest.raises(CheckpointError, match="is not an .npz file"):
        NpzSource(tmp_path / "x.npz")


@settings(max_examples=150, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1)
)
def test_edited_files_read_or_are_refused(tmp_path_factory, edits):
    path = tmp_path_factory.getbasetemp() / "fuzz.npz"
    np.savez(path, a=ARRAYS["c"][0], b=ARRAYS["flag"])
    raw = bytearray(path.read_bytes())
    for position, byte in edits:
        raw[position % len(raw)] = byte
    path.write_bytes(raw)
    try:
        with NpzSource(path) as source:
            for name, info in source.infos.items():
                assert source.read(name).shape == info.shape
    except CheckpointError:
        pass

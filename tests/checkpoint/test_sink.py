"""Outputs: what they look like to other readers, and that they are whole or absent."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors

from jaxmerge.checkpoint import atomic
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.sink import default_kind, open_sink
from jaxmerge.checkpoint.source import open_source
from jaxmerge.checkpoint.tensor_info import TensorInfo

TENSORS = {
    "z": np.arange(6, dtype=np.float32).reshape(2, 3),
    "layers.0.w": np.arange(5).astype(ml_dtypes.bfloat16),
    "a": np.array(7, np.int32),
    "flags": np.array([True, False]),
    "e4": np.arange(3).astype(ml_dtypes.float8_e4m3fn),
}
INFOS = [TensorInfo(name, x.shape, x.dtype) for name, x in TENSORS.items()]
FOLDERS = ("huggingface", "peft", "orbax")


def fill(sink) -> None:
    for name, x in reversed(TENSORS.items()):
        sink.write(name, x)


def make(out: Path, kind: str = "huggingface", **options) -> Path:
    with open_sink(out, INFOS, kind=kind, **options) as sink:
        fill(sink)
        sink.commit()
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("kind", ["huggingface", "safetensors", "npz", "peft", "orbax"])
def test_round_trip(tmp_path, kind):
    out = make(tmp_path / "deep" / "out", kind, metadata={"recipe": "r"})
    assert os.listdir(out.parent) == ["out"]
    if kind == "peft":
        (out / "adapter_config.json").write_text("{}")
    with open_source(out) as source:
        assert source.kind == kind
        assert set(source.infos) == set(TENSORS)
        assert kind == "orbax" or source.metadata["recipe"] == "r"
        for name, x in TENSORS.items():
            assert source.infos[name] == TensorInfo(name, x.shape, x.dtype)
            assert source.read(name).tobytes() == x.tobytes()
            half = x.size // 2
            part = source.read_range(name, half, x.size)
            assert part.tobytes() == x.reshape(-1)[half:].tobytes()


@pytest.mark.parametrize("kind", ["huggingface", "safetensors", "npz", "peft"])
def test_equal_inputs_give_equal_bytes(tmp_path, kind):
    first = make(tmp_path / "a", kind, shard_bytes=20, metadata={"b": "1", "a": "2"})
    os.utime(first, (0, 0))
    second = make(tmp_path / "b", kind, shard_bytes=20, metadata={"a": "2", "b": "1"})
    if kind in FOLDERS:
        assert contents(first) == contents(second)
    else:
        assert first.read_bytes() == second.read_bytes()


def test_shards_as_hugging_face_writes_them(tmp_path):
    out = make(tmp_path / "out", shard_bytes=20, aliases={"head": "z", "a": "z"})
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in TENSORS.values())
    assert index["weight_map"] == {
        "a": "model-00002-of-00002.safetensors",
        "e4": "model-00002-of-00002.safetensors",
        "flags": "model-00002-of-00002.safetensors",
        "layers.0.w": "model-00002-of-00002.safetensors",
        "z": "model-00001-of-00002.safetensors",
    }
    for shard in set(index["weight_map"].values()):
        with safetensors.safe_open(out / shard, "np") as file:
            assert file.metadata() == {"format": "pt", "head": "z"}
            expected = {n for n, s in index["weight_map"].items() if s == shard}
            assert set(file.keys()) == expected
    with open_source(out) as source:
        assert source.aliases == {"head": "z"}
    assert sorted(os.listdir(out)) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]


def test_numpy_reads_our_npz(tmp_path):
    out = make(tmp_path / "x.npz", "npz")
    with np.load(out) as file:
        assert file["z"].tolist() == TENSORS["z"].tolist()
        assert file["a"].shape == ()
        bare = file["layers.0.w"]
        assert bare.view(ml_dtypes.bfloat16).tolist() == [0, 1, 2, 3, 4]


def test_sidecars_and_files(tmp_path):
    donor = tmp_path / "donor"
    (donor / "additional_chat_templates").mkdir(parents=True)
    (donor / "additional_chat_templates" / "tool.jinja").write_text("t")
    (donor / "tokenizer.json").write_text("{}")
    (donor / "config.json").write_text("{}")
    (donor / "link.json").symlink_to(donor / "tokenizer.json")
    out = tmp_path / "out"
    with open_sink(
        out, INFOS, kind="huggingface", sidecars=sorted(donor.iterdir())
    ) as sink:
        fill(sink)
        sink.write_file("config.json", b"new")
        for name in ["model.safetensors", "../x", "model.safetensors.index.json"]:
            with pytest.raises(CheckpointError, match="cannot be put into"):
                sink.write_file(name, b"")
        sink.commit()
    files = contents(out)
    del files["model.safetensors"]
    assert files == {
        "additional_chat_templates/tool.jinja": b"t",
        "config.json": b"new",
        "link.json": b"{}",
        "tokenizer.json": b"{}",
    }
    assert not (out / "link.json").is_symlink()
    with pytest.raises(CheckpointError, match=r"two files called config\.json"):
        make(tmp_path / "o", sidecars=[donor / "config.json", out / "config.json"])
    assert not (tmp_path / "o.partial").exists()


@pytest.mark.parametrize(
    ("dtypes", "stated"),
    [
        (["float32", "int32"], "float32"),
        (["bfloat16", "bool"], "bfloat16"),
        (["float32", "bfloat16"], "float16"),  # No one dtype is right.
        (["float8_e4m3fn"], "float16"),
    ],
)
def test_the_config_states_the_dtype_that_is_stored(tmp_path, dtypes, stated):
    config = {"torch_dtype": "float16", "text_config": {"dtype": "float16", "n": 1}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    infos = [TensorInfo(t, (), np.dtype(getattr(ml_dtypes, t, t))) for t in dtypes]
    with open_sink(
        tmp_path / "out",
        infos,
        kind="huggingface",
        sidecars=[tmp_path / "config.json"],
    ) as sink:
        for info in infos:
            sink.write(info.name, np.zeros((), info.dtype))
        sink.commit()
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {
        "torch_dtype": stated,
        "text_config": {"dtype": stated, "n": 1},
    }


def test_modes_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        out = make(tmp_path / "out", sidecars=[Path(__file__)])
    finally:
        os.umask(old)
    modes = {path.stat().st_mode & 0o777 for path in out.iterdir()}
    assert (out.stat().st_mode & 0o777, modes) == (0o750, {0o640})


@pytest.mark.parametrize("kind", ["huggingface", "safetensors", "npz"])
def test_a_failure_leaves_nothing(tmp_path, kind):
    def fail() -> None:
        with open_sink(tmp_path / "out", INFOS, kind=kind) as sink:
            sink.write("z", TENSORS["z"])
            assert not (tmp_path / "out").exists()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []
    with (
        open_sink(tmp_path / "out", INFOS, kind=kind) as sink,
        pytest.raises(CheckpointError, match="5 of 5 tensors are not completely"),
    ):
        sink.commit()
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists(tmp_path):
    out = make(tmp_path / "out")
    before = contents(out)
    with pytest.raises(CheckpointError, match="exists; choose another"):
        make(out)
    assert contents(out) == before
    with open_sink(out, INFOS, kind="huggingface", overwrite=True) as sink:
        fill(sink)
        assert contents(out) == before
    assert contents(out) == before
    make(out, shard_bytes=20, overwrite=True)
    assert len(contents(out)) == 3
    with pytest.raises(CheckpointError, match="is a folder and the output is a file"):
        make(out, "npz", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_overwriting_where_names_cannot_be_swapped(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_exchange", lambda a, b: False)
    out = make(tmp_path / "out")
    make(out, shard_bytes=20, overwrite=True)
    assert len(contents(out)) == 3
    file = make(tmp_path / "x.npz", "npz")
    make(file, "npz", metadata={"new": "1"}, overwrite=True)
    with open_source(file) as source:
        assert source.metadata == {"new": "1"}
    assert {path.name for path in tmp_path.iterdir()} == {"out", "x.npz"}


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    out = make(tmp_path / "out")
    before = contents(out)
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / ".jaxmerge-partial").touch()
    out.rename(partial / "previous")
    with pytest.raises(CheckpointError, match="exists; choose another"):
        make(out)
    assert contents(out) == before
    assert not partial.exists()


def test_overwriting_spares_folders_that_are_no_checkpoints(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(CheckpointError, match="without a checkpoint in it"):
        make(tmp_path, overwrite=True)
    assert os.listdir(tmp_path) == ["thesis.tex"]
    empty = tmp_path / "empty"
    empty.mkdir()
    make(empty, overwrite=True)
    assert "model.safetensors" in contents(empty)


def test_a_link_is_replaced_and_its_target_kept(tmp_path):
    target = make(tmp_path / "target")
    link = tmp_path / "link"
    link.symlink_to(target)
    make(link, shard_bytes=20, overwrite=True)
    assert not link.is_symlink()
    assert list(contents(target)) == ["model.safetensors"]


def test_a_foreign_partial_is_refused(tmp_path):
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / "precious").touch()
    with pytest.raises(CheckpointError, match="jaxmerge did not write it"):
        make(tmp_path / "out")
    assert (partial / "precious").exists()
    (partial / "precious").unlink()
    make(tmp_path / "out")
    (tmp_path / "two.partial").touch()
    with pytest.raises(CheckpointError, match="jaxmerge did not write it"):
        make(tmp_path / "two")


def test_two_runs_into_one_output(tmp_path):
    with open_sink(tmp_path / "out", INFOS, kind="huggingface") as sink:
        with pytest.raises(CheckpointError, match="written by another process"):
            make(tmp_path / "out")
        fill(sink)
        sink.commit()
    assert list(contents(tmp_path / "out")) == ["model.safetensors"]


def test_an_output_that_appears_meanwhile_is_kept(tmp_path):
    out = tmp_path / "out"
    with open_sink(out, INFOS, kind="safetensors") as sink:
        fill(sink)
        out.write_text("mine")
        with pytest.raises(CheckpointError, match="exists"):
            sink.commit()
    assert out.read_text() == "mine"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["huggingface", "safetensors"])
def test_a_killed_run_is_replaced_by_the_next(tmp_path, kind):
    script = (
        "import sys, time, numpy as np\n"
        "from jaxmerge.checkpoint.sink import open_sink\n"
        "from jaxmerge.checkpoint.tensor_info import TensorInfo\n"
        "info = TensorInfo('w', (3,), np.dtype('f4'))\n"
        f"sink = open_sink(sys.argv[1], [info], kind={kind!r})\n"
        "print('open', flush=True)\n"
        "time.sleep(60)\n"
    )
    out = tmp_path / "out"
    run = subprocess.Popen(
        [sys.executable, "-c", script, str(out)], stdout=subprocess.PIPE
    )
    assert run.stdout is not None
    assert run.stdout.readline() == b"open\n"
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    assert os.listdir(tmp_path) == ["out.partial"]
    make(out, kind)
    assert os.listdir(tmp_path) == ["out"]


def test_bad_arguments(tmp_path):
    with pytest.raises(CheckpointError, match="kind 'zip' is none of"):
        make(tmp_path / "out", "zip")
    with pytest.raises(CheckpointError, match="cannot be the name"):
        make(Path("/"))
    with open_sink(tmp_path / "out", INFOS, kind="huggingface") as sink:
        with pytest.raises(
            CheckpointError, match="no place for tensor 'zz'; there are"
        ):
            sink.write("zz", TENSORS["z"])
        with pytest.raises(CheckpointError, match="no place"):
            sink.write_range("zz", 0, TENSORS["z"][0])
    empty = [TensorInfo("none", (0,), np.dtype("f4"))]
    with open_sink(tmp_path / "out", empty, kind="orbax") as sink:
        sink.write("none", np.empty(0, np.float32))
        with pytest.raises(CheckpointError, match="'none' has no elements"):
            sink.commit()
    assert list(tmp_path.iterdir()) == []


def test_default_kind(tmp_path):
    with open_source(make(tmp_path / "m")) as model:
        assert default_kind("x.safetensors", model) == "safetensors"
        assert default_kind("x.npz", model) == "npz"
        assert default_kind("x-v1.5", model) == "huggingface"
    with open_source(make(tmp_path / "o", "orbax")) as model:
        assert default_kind("x", model) == "orbax"

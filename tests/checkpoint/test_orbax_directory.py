"""Directories that Orbax itself writes."""

import sys

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.source import open_source

TREE = {
    "layers": [{"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, {"w": np.ones(2)}],
    "half": jnp.arange(3).astype(jnp.bfloat16),
    "step": np.array(3, np.int32),
}


def test_names_ranges_and_identity(tmp_path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "a", TREE)
    with open_source(tmp_path / "a") as source:
        assert source.kind == "orbax"
        assert set(source.infos) == {"layers.0.w", "layers.1.w", "half", "step"}
        assert source.read("layers.0.w").tolist() == [[0, 1, 2], [3, 4, 5]]
        assert source.read_range("layers.0.w", 2, 5).tolist() == [2, 3, 4]
        assert source.read("half").tobytes() == np.asarray(TREE["half"]).tobytes()
        assert source.read("step").shape == ()
        files = {file["name"]: file for file in source.identity(True)["files"]}
        assert "header_sha256" in files["_METADATA"]
        assert all(len(file["sha256"]) == 64 for file in files.values())
        with pytest.raises(CheckpointError, match="no tensor 'layer.0.w'; there are"):
            source.read("layer.0.w")


def test_managers_keep_steps_and_items(tmp_path):
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        manager.save(3, args=ocp.args.StandardSave(TREE))
        manager.save(10, args=ocp.args.StandardSave(TREE))
    with pytest.raises(CheckpointError, match=r"steps 3, 10; name one .*run/10"):
        open_source(tmp_path / "run")
    with open_source(tmp_path / "run" / "10") as source:
        assert source.read("layers.1.w").tolist() == [1, 1]
    both = ocp.args.Composite(
        params=ocp.args.StandardSave(TREE), state=ocp.args.StandardSave(TREE)
    )
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(tmp_path / "two", both)
    with pytest.raises(
        CheckpointError, match=r"2 items that are trees \(params, state"
    ):
        open_source(tmp_path / "two")
    with open_source(tmp_path / "two" / "params") as source:
        assert "half" in source


def test_without_orbax(tmp_path, monkeypatch):
    (tmp_path / "_METADATA").touch()
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(CheckpointError, match=r"pip install 'jaxmerge\[orbax\]'"):
        open_source(tmp_path)

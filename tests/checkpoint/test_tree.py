"""Whole models between files and pytrees."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxmerge._types import pytree
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.source import open_source
from jaxmerge.checkpoint.tree import load, save

TREE = {
    "layers": {"0": {"w": np.float32([[1, 2]]), "h": np.ones(3, ml_dtypes.bfloat16)}},
    "step": np.array(7, np.int64),
    "mask": np.array([True]),
}
KINDS = ["huggingface", "safetensors", "npz", "orbax"]


def assert_equal(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(tmp_path, kind):
    save(tmp_path / "out", TREE, kind=kind)
    assert_equal(load(tmp_path / "out"), TREE)


def test_kind_by_suffix_and_by_like(tmp_path):
    for name in ["m", "m.safetensors", "m.npz"]:
        save(tmp_path / name, TREE)
    save(tmp_path / "o", TREE, kind="orbax")
    save(tmp_path / "p", TREE, like=tmp_path / "o")
    save(tmp_path / "q", TREE, like=tmp_path / "m.npz")
    kinds = {}
    for path in tmp_path.iterdir():
        with open_source(path) as source:
            kinds[path.name] = source.kind
    assert kinds == {
        "m": "huggingface",
        "m.safetensors": "safetensors",
        "m.npz": "npz",
        "o": "orbax",
        "p": "orbax",
        "q": "huggingface",
    }


def test_dtype_casts_floats_only(tmp_path):
    save(tmp_path / "x.npz", TREE)
    tree = load(tmp_path / "x.npz", dtype=jnp.float16)
    assert [str(x.dtype) for x in jax.tree.leaves(tree)] == [
        "float16",
        "float16",
        "bool",
        "int64",
    ]


def test_metadata_and_overwrite(tmp_path):
    save(tmp_path / "m", TREE)
    with pytest.raises(CheckpointError, match="exists"):
        save(tmp_path / "m", TREE)
    save(tmp_path / "m", {"a": jnp.ones(2)}, overwrite=True, metadata={"k": "v"})
    with open_source(tmp_path / "m") as source:
        assert source.metadata == {"format": "pt", "k": "v"}
    assert_equal(load(tmp_path / "m"), {"a": np.ones(2, np.float32)})


def test_filling_a_tree(tmp_path):
    @pytree
    class Model:
        blocks: list
        head: jax.Array

    model = Model(
        [{"w": jnp.ones((2, 2))}, (jnp.zeros(3, jnp.bfloat16),)], jnp.arange(2)
    )
    save(tmp_path / "m", model)
    assert set(load(tmp_path / "m")) == {"blocks", "head"}
    for like in [model, jax.eval_shape(lambda: model)]:
        assert_equal(load(tmp_path / "m", like=like), model)
    wide = jax.eval_shape(lambda: Model([{"w": model.head}], model.head))
    with pytest.raises(
        CheckpointError, match=r"unexpected|'blocks.1.0', which the tree"
    ):
        load(tmp_path / "m", like=wide)


def test_filling_flax_models(tmp_path):
    from flax import nnx

    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    save(tmp_path / "m", nnx.state(model))
    assert set(load(tmp_path / "m")) == {"kernel", "bias"}
    other = nnx.Linear(2, 3, rngs=nnx.Rngs(1))
    nnx.update(other, load(tmp_path / "m", like=nnx.state(other)))
    assert_equal(nnx.state(other), nnx.state(model))


@pytest.mark.parametrize(
    ("like", "dtype", "sentence"),
    [
        (
            {"a": jnp.ones(2), "c": jnp.ones(2)},
            None,
            "no tensor 'c', .*1 of 2 are miss",
        ),
        ({"a": jnp.ones(2)}, None, "a tensor 'b', which the tree has not .1 of 2"),
        ({"a": jnp.ones(2), "b": jnp.ones(3)}, None, r"'b' has shape \(2,\) .* \(3,\)"),
        ({"a": jnp.ones(2), "b": jnp.ones(2)}, None, "'b' is int32 .* float32"),
        ({"a": jnp.ones(2), "b": jnp.ones(2)}, jnp.float32, "'b' is int32 .* float32"),
    ],
)
def test_a_tree_that_does_not_fit(tmp_path, like, dtype, sentence):
    save(tmp_path / "x.npz", {"a": np.ones(2, np.float32), "b": np.ones(2, np.int32)})
    with pytest.raises(CheckpointError, match=sentence):
        load(tmp_path / "x.npz", like=like, dtype=dtype)


def test_a_cast_to_another_float_is_asked_for(tmp_path):
    save(tmp_path / "x.npz", {"a": np.ones(2, np.float32)})
    like = {"a": jax.ShapeDtypeStruct((2,), jnp.bfloat16)}
    with pytest.raises(CheckpointError, match="Give dtype= to cast"):
        load(tmp_path / "x.npz", like=like)
    assert (
        load(tmp_path / "x.npz", like=like, dtype=jnp.bfloat16)["a"].dtype == "bfloat16"
    )


EMBED = "model.embed_tokens.weight"


def test_a_tied_model_is_not_enlarged(tmp_path, save_folder):
    base = save_folder(
        tmp_path / "base",
        {EMBED: np.ones((4, 2), np.float32)},
        config={"tie_word_embeddings": True},
    )
    (base / "tokenizer.json").write_text("{}")
    weight = 2 * jnp.ones((4, 2))
    both = {
        "model": {"embed_tokens": {"weight": weight}},
        "lm_head": {"weight": weight},
    }
    save(tmp_path / "out", both, like=base)
    with open_source(tmp_path / "out") as source:
        assert list(source.infos) == [EMBED]
        assert source.aliases == {"lm_head.weight": EMBED}
        assert [path.name for path in source.sidecars] == [
            "config.json",
            "tokenizer.json",
        ]
        assert json.loads(source.sidecars[0].read_text()) == source.config
    assert_equal(load(tmp_path / "out", like=both), both)
    different = both | {"lm_head": {"weight": weight + 1}}
    with pytest.raises(CheckpointError, match=r"'lm_head\.weight' differs from"):
        save(tmp_path / "no", different, like=base)
    assert not (tmp_path / "no").exists()


def test_leaves_that_no_file_can_hold(tmp_path):
    with pytest.raises(CheckpointError, match="'rng' is an array of keys"):
        save(tmp_path / "m", {"rng": jax.random.key(0)})
    with pytest.raises(CheckpointError, match="'z' has dtype complex128"):
        save(tmp_path / "m", {"z": np.ones(2, np.complex128)})
    with pytest.raises(CheckpointError, match="'s' has dtype <U1"):
        save(tmp_path / "m", {"s": "x"})
    with pytest.raises(CheckpointError, match=r"two leaves are called 'a\.b'"):
        save(tmp_path / "m", {"a.b": np.ones(1), "a": {"b": np.ones(1)}})
    assert list(tmp_path.iterdir()) == []

"""The streamed Gram matrix against NumPy's of the loaded models."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxmerge import checkpoint, named_leaves
from jaxmerge.checkpoint import CheckpointError, grams as module
from tests.checkpoint.test_merge import adapter

SHAPES = {"model.layers.0.a": (40, 30), "model.layers.1.a": (7,), "head.w": (9000,)}


def models(tmp_path, num: int, dtype=np.float32) -> list:
    rng = np.random.default_rng(0)
    paths = []
    for i in range(num):
        tensors = {k: rng.normal(size=s).astype(dtype) for k, s in SHAPES.items()}
        tensors["steps"] = np.arange(3, dtype=np.int32)
        paths.append(tmp_path / f"{i}.safetensors")
        checkpoint.save(paths[-1], checkpoint.unflatten_names(tensors))
    return paths


def load(path) -> dict[str, np.ndarray]:
    return named_leaves(checkpoint.load(path))


def reference(paths) -> np.ndarray:
    flat = [
        np.concatenate([np.asarray(load(p)[k], np.float64).ravel() for k in SHAPES])
        for p in paths
    ]
    rows = np.stack(flat[1:]) - flat[0]
    return rows @ rows.T


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float64])
def test_gram_of_checkpoints_is_that_of_their_deltas(tmp_path, dtype, monkeypatch):
    monkeypatch.setattr(module, "_MOST", 1 << 12)  # so that there are pieces
    paths = models(tmp_path, 5, dtype)
    told = []
    grams = checkpoint.gram(paths[0], paths[1:], progress=told.append)
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(grams.total, reference(paths), rtol=tolerance, atol=1e-3)
    assert set(grams.names) == set(SHAPES)
    assert dict(zip(grams.names, grams.sizes, strict=True))["head.w"] == 9000
    assert sum(grams.sizes) * np.dtype(dtype).itemsize * 5 == grams.bytes_read
    assert told[-1].bytes_read == grams.bytes_read
    layers = grams.by_layer()
    assert set(layers) == {"model.layers.0", "model.layers.1", "head.w"}
    np.testing.assert_allclose(sum(layers.values()), grams.total)


def test_gram_in_memory_is_the_streamed_one(tmp_path):
    from jaxmerge import geometry

    paths = models(tmp_path, 4)
    trees = [load(p) for p in paths]
    trees = [{k: jnp.asarray(t[k]) for k in SHAPES} for t in trees]
    np.testing.assert_allclose(
        geometry.gram(trees[1:], trees[0]),
        checkpoint.gram(paths[0], paths[1:]).total,
        rtol=1e-5,
    )


def test_adapters_stay_factored_and_give_the_gram_of_their_products(tmp_path):
    target = "model.layers.0.mlp"
    rng = np.random.default_rng(1)
    base = {f"{target}.weight": rng.normal(size=(6, 4)).astype(np.float32)}
    base["other.weight"] = np.ones((2, 2), np.float32)
    checkpoint.save(tmp_path / "base.safetensors", checkpoint.unflatten_names(base))
    paths = [adapter(tmp_path / str(seed), seed)[0] for seed in range(3)]
    grams = checkpoint.gram(tmp_path / "base.safetensors", paths)
    products = []
    for path in paths:
        (pair,) = checkpoint.lora_pairs(checkpoint.open_source(path)).values()
        factors = pair.read(checkpoint.open_source(path))
        b, a = np.asarray(factors.b, np.float64), np.asarray(factors.a, np.float64)
        products.append(float(factors.scale) * b @ a)
    rows = np.stack(products).reshape(3, -1)
    np.testing.assert_allclose(grams.total, rows @ rows.T, rtol=1e-6)
    assert grams.names == ("model.layers.0.mlp.weight",)  # no adapter has others


def test_what_is_not_finite_is_named(tmp_path):
    paths = models(tmp_path, 3)
    broken = load(paths[2])
    broken["head.w"] = np.asarray(broken["head.w"]).copy()
    broken["head.w"][17] = np.nan
    checkpoint.save(tmp_path / "broken.safetensors", checkpoint.unflatten_names(broken))
    with pytest.raises(CheckpointError, match=r"'head.w' has a NaN.*expert 1 \(broken"):
        checkpoint.gram(paths[0], [paths[1], tmp_path / "broken.safetensors"])
    with pytest.raises(CheckpointError, match="no experts were given"):
        checkpoint.gram(paths[0], [])

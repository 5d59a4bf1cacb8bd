"""Breadcrumbs: both cuts at their edges, against NumPy, and on disk in pieces."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmerge
from jaxmerge import checkpoint
from jaxmerge._types import Leaf
from jaxmerge.checkpoint import _pieces
from jaxmerge.transforms import DropExtreme, KeepLargest, breadcrumbs

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPE = (10, 20)  # one for all, so that they share two programs


@jax.jit
def run(transforms, x):
    for transform in transforms:
        x = transform(x, Leaf())
    return x


def chain(x, density, gamma, rescale="none"):
    pair = breadcrumbs(np.float32(density), np.float32(gamma), rescale=rescale)
    exact = breadcrumbs(density, gamma)  # counted from float64
    counted = [
        dataclasses.replace(one, count=other.bind(x.size).count)
        for one, other in zip(pair, exact, strict=True)
    ]
    return np.asarray(run(tuple(counted), x))


def left(x, density, gamma):
    """The definition: without the outliers, then the largest of the rest."""
    order = np.argsort(-np.abs(x).ravel(), kind="stable")
    count = int(density * x.size)
    top = min(int(gamma * x.size), x.size - count)
    y = np.zeros(x.size, x.dtype)
    y[order[top : top + count]] = x.ravel()[order[top : top + count]]
    return y.reshape(x.shape)


@pytest.mark.parametrize(
    ("density", "gamma"),
    [
        (0.5, 0.1),
        (0.29, 0.29),  # floors: 58 of 200, though 0.29 * 200 is 57.999... in float32
        (0.9, 0.3),  # more outliers than there is room for: fewer are dropped
        (0.001, 0.1),  # nothing is left
        (0.5, 0.001),  # no outliers in so small a tensor
        (0.5, 0.0),
        (0.0, 0.5),
        (0.3, 1.0),
    ],
)
def test_breadcrumbs_equal_numpy(rng, density, gamma):
    x = np.round(rng.standard_normal(SHAPE), 1).astype(np.float32)  # many ties
    y = chain(jnp.asarray(x), density, gamma)
    np.testing.assert_array_equal(y, left(x, density, gamma))


def test_without_outliers_the_largest_stay_and_the_delta_is_not_lost(rng):
    # An old bug of mergekit's: a slice that ends at -0 is empty.
    x = jnp.asarray(rng.standard_normal(SHAPE), jnp.float32)
    expected = run((KeepLargest(0.4).bind(200),), x)
    for gamma in (0.0, 0.001):
        np.testing.assert_array_equal(chain(x, 0.4, gamma), expected)


def test_a_density_of_one_leaves_outliers_too(rng):
    x = jnp.asarray(rng.standard_normal(SHAPE), jnp.float32)
    np.testing.assert_array_equal(chain(x, 1.0, 0.2), x)
    np.testing.assert_array_equal(chain(x, 1.0, 0.2, "l1"), x)


def test_rescaling_restores_the_l1_norm(rng):
    x = jnp.asarray(rng.standard_normal(SHAPE), jnp.float32)
    y = chain(x, 0.5, 0.1, "l1")
    plain = left(np.asarray(x), 0.5, 0.1)
    expected = plain * np.abs(x).sum() / np.abs(plain).sum()
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    zero = jnp.zeros(SHAPE)
    np.testing.assert_array_equal(chain(zero, 0.5, 0.1, "l1"), zero)
    # Nothing is left, and nothing is divided by its norm.
    np.testing.assert_array_equal(chain(x, 0.001, 0.1, "l1"), zero)


def test_counts_beyond_31_bits_are_limbs():
    size = 5 * 2**31
    smallest, largest = breadcrumbs(0.5, 0.25)
    value = lambda limbs: int(limbs[0]) + (int(limbs[1]) << 32)
    assert value(largest.kept(size)) == size // 4
    assert value(smallest.kept(size)) == size // 2 + size // 4
    crowded = DropExtreme(0.9, 0.5, drops="largest")
    assert value(crowded.kept(size)) == size - int(0.9 * size)
    assert smallest.bind(size) is smallest


@pytest.mark.slow
def test_traced_shares_count_as_concrete_ones(rng):
    x = rng.standard_normal(64).astype(np.float32)

    @jax.jit
    def swept(density, gamma):
        merger = jaxmerge.breadcrumbs(density=density, gamma=gamma, scale=1.0)
        return merger(jnp.zeros(64), [jnp.asarray(x)])

    np.testing.assert_array_equal(swept(0.5, 0.125), left(x, 0.5, 0.125))
    np.testing.assert_array_equal(swept(0.75, 0.5), left(x, 0.75, 0.5))


def test_tensors_on_disk_are_cut_twice_in_pieces(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(_pieces, "PIECE", 256)
    shape = (30, 41)
    base = rng.standard_normal(shape).astype(np.float32)
    deltas = np.round(rng.standard_normal((2, *shape)), 1).astype(np.float32)
    models = [{"w": base + d} for d in deltas]
    checkpoint.save(tmp_path / "base.safetensors", {"w": base})
    for t, model in enumerate(models):
        checkpoint.save(tmp_path / f"{t}.safetensors", model)
    merger = jaxmerge.breadcrumbs(
        density=(0.3, 0.6), gamma=0.1, consensus="ties", scale=0.7
    )
    sources = {
        "base": tmp_path / "base.safetensors",
        "experts": [tmp_path / f"{t}.safetensors" for t in range(2)],
    }
    plan = checkpoint.make_plan(
        merger,
        checkpoint.open_source(sources["base"]),
        [checkpoint.open_source(x) for x in sources["experts"]],
    )
    assert plan.needs_cuts(plan.outputs[0])
    checkpoint.merge(merger, **sources, out=tmp_path / "out.safetensors")
    expected = jax.jit(lambda m, b, e: m(b, e))(merger, {"w": base}, models)
    got = checkpoint.load(tmp_path / "out.safetensors")
    np.testing.assert_array_equal(got["w"], expected["w"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": 0.0}, "density is 0.0; expected a number above 0"),
        ({"gamma": 1.0}, "gamma is 1.0; expected a number from 0 up to 1"),
        ({"gamma": [0.1, -0.1]}, r"gamma\[1\] is -0.1"),
        ({"consensus": "sum"}, "consensus is 'sum'"),
        ({"compat": "peft"}, "compat is 'peft'"),
    ],
)
def test_breadcrumbs_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        jaxmerge.breadcrumbs(**arguments)

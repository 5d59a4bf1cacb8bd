"""Sparsifiers against NumPy, at the ends of their ranges, and over a whole model."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmerge
from jaxmerge import by_layer, ranks
from jaxmerge._types import Leaf
from jaxmerge.transforms import DropRandom, KeepLargest, check_density

pytestmark = pytest.mark.usefixtures("quick_compilation")

RESCALES = ("none", "density", "l1", "l2")

EMPTY = Leaf()

run = jax.jit(lambda transform, x, leaf=EMPTY: transform(x, leaf))


def total(transform, x, leaf):
    return jnp.sum(run(transform, x, leaf) ** 2)


def largest(x: np.ndarray, density: float) -> np.ndarray:
    order = np.argsort(-np.abs(x).reshape(-1), kind="stable")[: int(density * x.size)]
    kept = np.zeros(x.size, bool)
    kept[order] = True
    return kept.reshape(x.shape)


def rescaled(x: np.ndarray, kept: np.ndarray, density: float, how: str) -> np.ndarray:
    y = x.astype(np.float64) * kept
    if how == "density":
        return y / density
    if how == "l1":
        return y * np.abs(x).sum() / np.abs(y).sum()
    return y * np.linalg.norm(x) / np.linalg.norm(y) if how == "l2" else y


@pytest.mark.parametrize("how", RESCALES)
def test_keep_largest_equals_numpy(rng, how):
    x = np.round(rng.standard_normal((10, 20)), 1).astype(np.float32)
    for density in (0.29, 0.57, 0.07):
        expected = rescaled(x, largest(x, density), density, how)
        bound = KeepLargest(density, rescale=how).bind(x.size)
        assert bound.count == int(density * 200)
        np.testing.assert_allclose(run(bound, x), expected, rtol=1e-6)
    eager = KeepLargest(0.29, rescale=how)(jnp.asarray(x), Leaf())
    expected = rescaled(x, largest(x, 0.29), 0.29, how)
    np.testing.assert_allclose(eager, expected, rtol=1e-6)


def test_rht_divides_by_the_density_or_its_own_divisor(rng):
    x = jnp.asarray(rng.standard_normal(37), jnp.float32)
    kept = np.where(largest(np.asarray(x), 0.7), x, 0)
    rht = KeepLargest(0.7, rescale="density").bind(37)
    np.testing.assert_allclose(run(rht, x), kept / np.float32(0.7), rtol=1e-6)
    decoupled = KeepLargest(0.7, divisor=0.2, rescale="density").bind(37)
    np.testing.assert_allclose(run(decoupled, x), kept / np.float32(0.2), rtol=1e-6)


@pytest.mark.parametrize("how", RESCALES)
def test_density_one_is_the_identity(rng, key, how):
    x = jnp.asarray(rng.standard_normal((5, 7)), jnp.float32)
    leaf = Leaf(key=key)
    for transform in (KeepLargest, DropRandom):
        for density in (1.0, 1.5):
            whole = transform(density, divisor=0.2, rescale=how)
            np.testing.assert_array_equal(run(whole, x, leaf), x)


@pytest.mark.parametrize("how", RESCALES)
def test_zeros_and_zero_density_stay_finite(key, how):
    leaf = Leaf(key=key)
    for transform in (KeepLargest(0.3, rescale=how), DropRandom(0.3, rescale=how)):
        for x in (jnp.zeros((3, 4)), jnp.zeros((0, 2))):
            np.testing.assert_array_equal(run(transform, x, leaf), x)
            gradient = jax.grad(total, argnums=1)(transform, x, leaf)
            np.testing.assert_array_equal(gradient, x)
    for nothing in (KeepLargest(0.0, rescale=how), DropRandom(0.0, rescale=how)):
        np.testing.assert_array_equal(run(nothing, jnp.ones(6), leaf), np.zeros(6))


def test_mergekit_leaves_tiny_deltas_as_they_are():
    tiny = jnp.array([3e-9, 1e-9])
    kept = run(KeepLargest(0.5, rescale="l1"), tiny)
    np.testing.assert_allclose(kept, [3e-9, 0.0], rtol=1e-6)
    matched = run(KeepLargest(0.5, rescale="l2"), tiny)
    np.testing.assert_allclose(matched, [np.sqrt(10) * 1e-9, 0], rtol=1e-6)


def test_ties_all_keeps_every_tie():
    x = jnp.array([1.0, -2.0, 2.0, 3.0])
    np.testing.assert_array_equal(run(KeepLargest(0.5), x), [0, -2, 0, 3])
    everything = run(KeepLargest(0.5, ties="all"), x)
    np.testing.assert_array_equal(everything, [0, -2, 2, 3])


@pytest.mark.slow
def test_a_sweep_of_densities_is_one_program(rng):
    x = jnp.asarray(rng.standard_normal(50), jnp.float32)
    traces = []

    @jax.jit
    def counted(transform):
        traces.append(transform)
        return transform(x, Leaf())

    densities = (0.1, 0.25, 0.5)
    rows = [counted(KeepLargest(d).bind(50)) for d in densities]
    assert len(traces) == 1
    stacked = jax.tree.map(lambda *v: jnp.stack(v), *map(KeepLargest, densities))
    swept = jax.vmap(lambda transform: transform(x, Leaf()))(stacked)
    np.testing.assert_array_equal(swept, jnp.stack(rows))


def test_gradients(rng, key):
    x = jnp.asarray(rng.standard_normal(40), jnp.float32)
    loss = lambda x, density: total(KeepLargest(density, rescale="density"), x, Leaf())
    by_x, by_density = jax.grad(loss, argnums=(0, 1))(x, 0.5)
    kept = np.where(largest(np.asarray(x), 0.5), x, 0)
    np.testing.assert_allclose(by_x, 2 * kept / 0.25, rtol=1e-6)
    np.testing.assert_allclose(by_density, -2 * np.sum(kept**2) / 0.125, rtol=1e-5)


def test_drop_random_is_bernoulli(rng, key):
    x = jnp.asarray(rng.standard_normal((30, 20)), jnp.float32)
    kept = np.asarray(jax.random.bernoulli(key, jnp.float32(0.3), x.shape))
    for how in RESCALES:
        dropped = run(DropRandom(0.3, rescale=how), x, Leaf(key=key))
        expected = rescaled(np.asarray(x), kept, 0.3, how)
        np.testing.assert_allclose(dropped, expected, rtol=1e-5)
    flat = DropRandom(0.3)(x.reshape(-1), Leaf(key=key))
    np.testing.assert_array_equal(flat, np.where(kept, x, 0).reshape(-1))
    with jax.enable_x64(True):
        double = DropRandom(0.3)(jnp.asarray(x, jnp.float64), Leaf(key=key))
        np.testing.assert_array_equal(double != 0, kept)


def test_drop_random_asks_for_a_key():
    with pytest.raises(ValueError, match="DropRandom"):
        DropRandom(0.3)(jnp.ones(3), Leaf())


def test_unknown_choices_are_refused():
    for wrong in (
        KeepLargest(0.5, rescale="l3"),
        KeepLargest(0.5, scope="layer"),
        KeepLargest(0.5, ties="random"),
    ):
        with pytest.raises(ValueError, match="expected"):
            wrong(jnp.ones(4), Leaf())


def test_bind_counts_one_density_for_each_expert():
    bound = KeepLargest(np.array([0.29, 0.57])).bind(100)
    np.testing.assert_array_equal(bound.count, [28, 56])
    assert KeepLargest(0.2).bind(2**32).count is None
    assert KeepLargest(0.2, scope="tree").bind(100).count is None


# --- the whole model ------------------------------------------------------------------


def run_survey(transform: KeepLargest, model: list) -> Any:
    found, size = None, sum(x.size for x in model)
    for _ in range(transform.survey_rounds):
        parts = [transform.measure(x, found) for x in model]
        found = transform.conclude(functools.reduce(transform.join, parts), size, found)
    return found


jitted_survey = jax.jit(run_survey)


@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 1.0])
def test_the_tree_scope_keeps_the_largest_of_all_leaves(rng, density):
    model = [
        jnp.asarray(s * np.round(rng.standard_normal(n), 2), jnp.float32)
        for s, n in ((1.0, 300), (0.1, 400), (5.0, 50))
    ]
    magnitudes = np.abs(np.concatenate(model))
    k = int(density * 750)
    threshold = np.sort(magnitudes)[-k] if k else np.inf
    for survey in (run_survey, jitted_survey):
        transform = KeepLargest(density, scope="tree")
        stats = survey(transform, model)
        for x in model:
            kept = run(transform, x, Leaf(stats=stats))
            np.testing.assert_array_equal(kept, np.where(abs(x) >= threshold, x, 0))


def test_the_tree_scope_of_float64_ranks_in_float32(rng):
    with jax.enable_x64(True):
        model = [jnp.asarray(rng.standard_normal(100)) for _ in range(2)]
        transform = KeepLargest(0.25, scope="tree")
        stats = jitted_survey(transform, model)
        kept = [run(transform, x, Leaf(stats=stats)) for x in model]
        assert sum(int(jnp.sum(x != 0)) for x in kept) == 50


def test_the_tree_scope_asks_for_its_survey():
    assert KeepLargest(0.5).survey_rounds == 0
    with pytest.raises(ValueError, match="whole model"):
        KeepLargest(0.5, scope="tree")(jnp.ones(3), Leaf())


# --- densities that recipes refuse ----------------------------------------------------


@pytest.mark.parametrize(
    "density",
    [
        0.2,
        1,
        np.float32(0.5),
        [0.1, 1.0],
        {"mlp": {"w": 0.2}, "norm": (0.5, 1.0)},
        by_layer([0.2, 0.4], num_layers=3),
        jnp.array([0.2, 0.4], jnp.bfloat16),
        None,
    ],
)
def test_valid_densities(density):
    check_density(density, "density")


@pytest.mark.parametrize(
    ("density", "name"),
    [
        (0.0, "density is"),
        (1.2, "density is"),
        (float("nan"), "density is"),
        ([0.1, -1.0], r"density\[1\]"),
        ({"mlp": {"w": 2.0}}, r"density\['mlp'\]\['w'\]"),
        (jnp.array([0.2, 1.4]), "density is"),
        ("high", "density is 'high'"),
    ],
)
def test_invalid_densities(density, name):
    with pytest.raises(ValueError, match=name + ".*expected a number above 0"):
        check_density(density, "density")


def test_traced_densities_pass():
    jax.jit(lambda d: (check_density(d, "density"), ranks.count(d, 10))[1])(3.0)


# --- mergekit keeps one entry of every tensor -----------------------------------------


@pytest.mark.parametrize("scope", ["leaf", "tree"])
def test_at_least_one_entry_is_kept(scope):
    x = jnp.array([0.5, -4.0, 3.0])
    kept = lambda at_least, density: jaxmerge.merge_leaves(
        jaxmerge.Merger((KeepLargest(density, scope=scope, at_least=at_least),)),
        None,
        [x],
    ).tolist()
    assert kept(0, 0.3) == [0, 0, 0]
    assert kept(1, 0.3) == [0, -4, 0]
    assert kept(1, 0.7) == [0, -4, 3]
    assert kept(9, 0.3) == x.tolist()


@pytest.mark.slow
def test_at_least_of_traced_densities_and_of_none():
    transform = lambda density, x: KeepLargest(density, at_least=1)(x, Leaf())
    masks = jax.vmap(transform, (0, None))(jnp.array([0.1, 0.9]), jnp.arange(1.0, 4.0))
    assert jnp.count_nonzero(masks, axis=1).tolist() == [1, 2]
    assert transform(0.1, jnp.zeros(0)).shape == (0,)


def test_ties_keeps_one_entry_only_as_mergekit():
    x = np.array([0.5, -4.0, 3.0], np.float32)
    counts = {
        compat: int(
            jnp.count_nonzero(jaxmerge.ties(density=0.3, compat=compat)(None, [x]))
        )
        for compat in ("paper", "peft", "mergekit")
    }
    assert counts == {"paper": 0, "peft": 0, "mergekit": 1}

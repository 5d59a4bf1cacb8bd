"""Widths of unions as their number grows, and the Gram matrix they come from."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmerge import geometry as geo

KEY = jax.random.key(5)


def pool(num: int, dimension: int = 12) -> np.ndarray:
    rng = np.random.default_rng(7)
    return rng.standard_normal((num, dimension)) * rng.uniform(0.5, 1.5, (num, 1))


def hull_samples(
    vectors: np.ndarray, num: int, *, symmetric: bool = False
) -> jax.Array:
    """The support functions of single vectors, in Gram space."""
    gram = jnp.asarray(vectors @ vectors.T, jnp.float32)
    return geo.gram_samples(gram, key=KEY, num_samples=num, symmetric=symmetric)


def test_gram_samples_are_those_of_single_vectors():
    gram = jnp.asarray(pool(3) @ pool(3).T, jnp.float32)
    sets = [geo.Hull(row[None]) for row in geo.gram_factor(gram)]
    h = geo.width_samples(sets, key=KEY, num_samples=9)
    about_mean = h - jnp.mean(h, axis=1, keepdims=True)
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(hull_samples(pool(3), 9), about_mean, **close)
    both = hull_samples(pool(3), 9, symmetric=True)
    np.testing.assert_allclose(both, jnp.abs(h), **close)


def test_subset_averages_equal_the_enumeration_of_subsets():
    h = np.random.default_rng(0).standard_normal((50, 6))
    with jax.enable_x64(True):
        curve = geo.subset_width(jnp.asarray(h)).mean
        gains = geo.marginal_gains(jnp.asarray(h)).mean
    for k in range(1, 7):
        subsets = itertools.combinations(range(6), k)
        expected = np.mean([h[:, list(s)].max(axis=1).mean() for s in subsets])
        assert float(curve[k - 1]) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(gains, np.diff(curve), rtol=1e-9)


def test_orthonormal_experts_have_the_expected_maxima():
    """w(T) of 16 orthonormal vectors is E max of T normals, at every T."""
    h = hull_samples(np.eye(16), 20000)
    curve = geo.subset_width(h)
    expected = np.array([geo.max_of_normals(t) for t in range(1, 17)])
    assert np.all(np.abs(curve.mean - expected) < 4 * np.asarray(curve.stderr) + 1e-5)
    gains = geo.marginal_gains(h)
    errors = 4 * np.asarray(gains.stderr) + 1e-5
    assert np.all(np.abs(gains.mean - np.diff(expected)) < errors)


def test_the_subset_average_is_concave_and_a_fixed_order_is_not():
    """Duplicates first: the claim of strictly concave gains fails for one order."""
    vectors = np.concatenate([np.repeat(pool(1), 3, axis=0), 3 * pool(6)[1:]])
    h = hull_samples(vectors, 2000)
    gains = np.asarray(geo.marginal_gains(h).mean)
    assert np.all(gains > 0)
    assert np.all(np.diff(gains) < 0)
    order = np.diff(np.asarray(geo.order_width(h).mean))
    np.testing.assert_allclose(order[:2], 0, atol=1e-4)
    assert order[2] > 0.5


def test_width_is_submodular_sample_by_sample():
    rng = np.random.default_rng(3)
    h = np.asarray(hull_samples(pool(10), 200))
    for _ in range(500):
        order = rng.permutation(10)
        small, large, x = order[:3], order[:7], order[9]
        gain = lambda s, x=x: np.maximum(h[:, x] - h[:, s].max(axis=1), 0)
        assert np.all(gain(small) >= gain(large))


def test_greedy_order_is_greedy_and_good():
    h = hull_samples(pool(8), 2000, symmetric=True)
    order, widths = geo.greedy_order(h)
    order, h = np.asarray(order), np.asarray(h)
    assert sorted(order) == list(range(8))
    assert order[0] == np.argmax(h.mean(axis=0))
    for k in (2, 3):
        best = max(
            h[:, list(s)].max(axis=1).mean()
            for s in itertools.combinations(range(8), k)
        )
        assert float(widths[k - 1]) >= (1 - 1 / math.e) * best
    assert np.all(np.diff(np.diff(np.asarray(widths))) < 1e-6)


def test_experts_in_few_dimensions_saturate():
    """Unit vectors, symmetric hulls: 40 experts fill 3 dimensions, not 50."""
    rng = np.random.default_rng(2)
    reached = {}
    for dimension in (3, 50):
        vectors = rng.standard_normal((40, dimension))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        curve = geo.subset_width(hull_samples(vectors, 2000, symmetric=True)).mean
        reached[dimension] = float(curve[-1])
        ranks = geo.effective_ranks(jnp.asarray(vectors @ vectors.T, jnp.float32))
        assert int(ranks.rank) == min(dimension, 40)
    assert reached[3] == pytest.approx(1.56, abs=0.1)
    assert reached[50] == pytest.approx(2.37, abs=0.1)


def test_one_expert_or_equal_experts_have_a_defined_curve():
    one = hull_samples(np.ones((1, 4)), 16)
    assert geo.subset_width(one).mean.shape == (1,)
    assert geo.marginal_gains(one).mean.shape == (0,)
    same = hull_samples(np.ones((5, 4)), 16)
    np.testing.assert_allclose(geo.marginal_gains(same).mean, 0, atol=1e-6)
    zero = hull_samples(np.zeros((3, 4)), 16)
    np.testing.assert_array_equal(geo.subset_width(zero).mean, 0)
    with pytest.raises(ValueError, match="for a sequence of sets"):
        geo.subset_width(jnp.ones((3, 0)))


def test_subset_weights_are_exact_for_large_pools():
    weights = geo.subset_weights(200)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
    assert weights[99, 150] == pytest.approx(
        math.comb(150, 99) / math.comb(200, 100), rel=1e-10
    )


# --- the Gram matrix


def test_gram_of_trees_is_that_of_their_concatenation():
    rng = np.random.default_rng(4)
    trees = [
        {"a": rng.normal(size=(3, 5)), "b": [rng.normal(size=7)]} for _ in range(4)
    ]
    base = {"a": rng.normal(size=(3, 5)), "b": [rng.normal(size=7)]}
    flat = lambda tree: np.concatenate([tree["a"].ravel(), tree["b"][0]])
    rows = np.stack([flat(tree) - flat(base) for tree in trees])
    as_float = lambda tree, dtype: jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)
    single = geo.gram(
        [as_float(t, jnp.float32) for t in trees], as_float(base, jnp.float32)
    )
    np.testing.assert_allclose(single, rows @ rows.T, rtol=1e-5, atol=1e-5)
    assert single.dtype == jnp.float32
    with jax.enable_x64(True):
        double = geo.gram([as_float(t, jnp.float64) for t in trees])
        assert double.dtype == jnp.float64
    half = geo.gram([as_float(t, jnp.bfloat16) for t in trees])
    assert half.dtype == jnp.float32


def test_a_gram_of_many_pieces_is_as_exact_as_one_product():
    """2,000 additions: a plain float32 sum of them would be off in the fifth digit."""
    rng = np.random.default_rng(6)
    rows = rng.standard_normal((3, 2000 * 64)).astype(np.float32) + np.float32(1)
    exact = rows.astype(np.float64) @ rows.T.astype(np.float64)
    add = jax.jit(lambda total, piece: total.add(piece))
    total = geo.GramSum.zero(3)
    for at in range(0, rows.shape[1], 64):
        total = add(total, jnp.asarray(rows[:, at : at + 64]))
    np.testing.assert_allclose(total.value, exact, rtol=3e-7)


def test_gram_refuses_what_is_not_comparable():
    with pytest.raises(ValueError, match="no vectors were given"):
        geo.gram([])
    with pytest.raises(ValueError, match=r"\['w'\] has shapes \[\(2,\), \(3,\)\]"):
        geo.gram([{"w": jnp.ones(2)}, {"w": jnp.ones(3)}])


def test_cosines_and_ranks_of_degenerate_grams():
    gram = jnp.array([[0.0, 0.0], [0.0, 4.0]])
    np.testing.assert_array_equal(geo.cosines(gram), np.eye(2))
    ranks = geo.effective_ranks(jnp.zeros((3, 3)))
    values = [ranks.rank, ranks.participation, ranks.entropy, ranks.stable]
    assert [float(v) for v in values] == [0, 0, 0, 0]
    same = geo.effective_ranks(jnp.ones((4, 4)))
    assert int(same.rank) == 1
    assert float(same.stable) == pytest.approx(1, abs=1e-5)
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(same))

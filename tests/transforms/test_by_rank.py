"""DELLA's drops by rank: ranks, probabilities, expectation, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmerge
from jaxmerge import by_pattern
from jaxmerge._search import magnitude_bits
from jaxmerge._types import Leaf
from jaxmerge.transforms import DropByRank
from jaxmerge.transforms.by_rank import _ranks_by_search, _ranks_by_sorts, row_ranks

pytestmark = pytest.mark.usefixtures("quick_compilation")

run = jax.jit(lambda transform, x, key: transform(x, Leaf(key=key)))


@pytest.mark.parametrize("shape", [(7,), (5, 16), (2, 3, 9), (4, 2)])
def test_ranks_are_within_rows_and_equal_ones_share_the_lowest(rng, shape):
    x = np.round(rng.standard_normal(shape), 1).astype(np.float32)
    sizes = np.abs(x)
    smaller = (sizes[..., None, :] < sizes[..., :, None]).sum(-1)
    expected = smaller / (shape[-1] - 1)
    np.testing.assert_allclose(jax.jit(row_ranks)(jnp.asarray(x)), expected, rtol=1e-6)


def test_both_ways_to_rank_agree(rng):
    x = np.round(rng.standard_normal((6, 40)), 1).astype(np.float32)
    bits = magnitude_bits(jnp.asarray(x))
    np.testing.assert_array_equal(
        jax.jit(_ranks_by_search)(bits), jax.jit(_ranks_by_sorts)(bits)
    )


def test_alone_in_its_row_an_entry_is_in_the_middle(rng):
    x = jnp.asarray(rng.standard_normal((200, 1)), jnp.float32)
    assert float(row_ranks(jnp.float32(3.0))) == 0.5
    y = run(DropByRank(0.5, 0.4, rescale="probability"), x, jax.random.key(0))
    assert np.isfinite(y).all()
    kept = np.asarray(y) != 0
    assert kept.mean() == pytest.approx(0.5, abs=0.15)
    np.testing.assert_allclose(np.asarray(y)[kept], 2 * np.asarray(x)[kept], rtol=1e-6)


def test_large_entries_are_kept_more_often_and_the_expectation_is_the_delta(rng):
    x = jnp.asarray(rng.permutation(np.arange(1.0, 9.0)), jnp.float32)
    keys = jax.random.split(jax.random.key(1), 4000)
    transform = DropByRank(0.5, 0.4)
    y = jax.jit(jax.vmap(lambda key: transform(x, Leaf(key=key))))(keys)
    p = 0.1 + 0.8 * (np.asarray(x) - 1) / 7
    error = np.sqrt(p * (1 - p) / 4000)
    np.testing.assert_array_less(np.abs(np.mean(y != 0, axis=0) - p), 4 * error)
    off = np.abs(np.mean(y, axis=0) - x)
    np.testing.assert_array_less(off, 4 * np.asarray(x) / p * error)


def test_rescaling_by_l1_and_not_at_all(rng):
    x, key = jnp.asarray(rng.standard_normal((4, 8)), jnp.float32), jax.random.key(0)
    plain = run(DropByRank(0.6, 0.2, rescale="none"), x, key)
    kept = np.asarray(plain) != 0
    np.testing.assert_array_equal(np.asarray(plain)[kept], np.asarray(x)[kept])
    scaled = run(DropByRank(0.6, 0.2, rescale="l1"), x, key)
    assert np.abs(scaled).sum() == pytest.approx(np.abs(x).sum(), rel=1e-6)
    np.testing.assert_array_equal(np.asarray(scaled) != 0, kept)


def test_a_density_of_one_keeps_all_whatever_epsilon(rng):
    x = jnp.asarray(rng.standard_normal(9), jnp.float32)
    transform = DropByRank(1.0, 0.15).bind(9)
    np.testing.assert_array_equal(run(transform, x, jax.random.key(0)), x)


def test_probabilities_outside_of_the_unit_interval_are_refused():
    with pytest.raises(ValueError, match="density is 0.9 and epsilon 0.15: entries"):
        jaxmerge.della(density=0.9, epsilon=0.15)
    with pytest.raises(ValueError, match=r"density is 0\.1 and epsilon 0\.1"):
        jaxmerge.della(density=0.1, epsilon=0.1)
    with pytest.raises(ValueError, match="epsilon is -0.1; expected from 0"):
        jaxmerge.della(epsilon=-0.1)
    # Where it depends on the leaf, before anything is drawn.
    density = by_pattern({"mlp": 0.95}, otherwise=0.5)
    base = {"mlp": jnp.zeros(4), "norm": jnp.zeros(4)}
    merger = jaxmerge.della(density=density, epsilon=0.07)
    with pytest.raises(ValueError, match="density is 0.95 and epsilon 0.07"):
        merger(base, [base], key=jax.random.key(0))
    with pytest.raises(ValueError, match="no key"):
        jax.eval_shape(jaxmerge.della(), base, [base])
    with pytest.raises(ValueError, match="rescale is 'l2'"):
        jax.eval_shape(run, DropByRank(0.5, 0.1, "l2"), jnp.ones(3), jax.random.key(0))

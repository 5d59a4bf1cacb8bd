"""RHT by hand: its identity with TIES, goldens, its shape and its scalar control."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import jaxmerge
from jaxmerge import LowRank, merge_leaves
from jaxmerge.transforms import ReparameterizedNoise

pytestmark = pytest.mark.usefixtures("quick_compilation")

A = np.array([3, -1, 2, -4, 0.5], np.float32)
B = np.array([-2, 1, 4, -1, 0.25], np.float32)


def normals(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def merged(merger: jaxmerge.Merger, *experts, key=None) -> np.ndarray:
    return np.asarray(merge_leaves(merger, None, list(experts), key=key))


# --- the identity with TIES ----------------------------------------------------------


@pytest.mark.parametrize("num_experts", [2, 3, 5])
def test_is_ties_over_the_density(num_experts):
    """The mask and the vote do not see the divisor. Halves divide exactly."""
    experts = normals(num_experts, num_experts, 37)
    # As published: weights that sum to 1, and still a division by the count.
    share = np.full(num_experts, 1 / num_experts, np.float32)
    for density in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
        ties = merged(jaxmerge.ties(density=density, weights=share), *experts)
        rht = merged(jaxmerge.rht(density=density), *experts)
        assert np.count_nonzero(rht) >= int(density * 37)
        np.testing.assert_allclose(rht, ties / density, rtol=1e-6)
        if num_experts == 2 and density in (0.5, 1.0):
            np.testing.assert_array_equal(rht, ties / np.float32(density))


def test_density_one_leaves_a_delta_as_it_is():
    np.testing.assert_array_equal(merged(jaxmerge.rht(density=1.0), A), A)
    divided = jaxmerge.rht(density=1.0, divisor=0.2)
    np.testing.assert_array_equal(merged(divided, A), A)


def test_a_divisor_of_its_own():
    default = merged(jaxmerge.rht(density=0.6), A, B)
    divided = merged(jaxmerge.rht(density=0.6, divisor=0.2), A, B)
    np.testing.assert_allclose(divided, 3 * default, rtol=1e-6)


# --- goldens -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (None, [2.5, 5 / 6, 2.5, -10 / 3, 0]),
        ([0.5, 0.5], [2.5, 5 / 6, 2.5, -10 / 3, 0]),
        ([3.0, 1.0], [3.75, 5 / 12, 25 / 12, -5, 0]),
    ],
)
def test_two_experts_by_hand(weights, expected):
    """Pruned to three entries and over 0.6:

    a = [5, 0, 10/3, -20/3, 0],  b = [-10/3, 5/3, 20/3, 0, 0]. Of b's entries of size 1
    the first is kept.
    """
    rht = jaxmerge.rht(density=0.6, weights=weights)
    np.testing.assert_allclose(merged(rht, A, B), expected, rtol=3e-7)


def test_pruned_as_by_hand():
    rht = jaxmerge.rht(density=0.6)
    np.testing.assert_allclose(merged(rht, A), [5, 0, 10 / 3, -20 / 3, 0], rtol=3e-7)
    np.testing.assert_allclose(
        merged(rht, B), [-10 / 3, 5 / 3, 20 / 3, 0, 0], rtol=3e-7
    )


def test_two_equal_experts_are_halved_unless_asked_otherwise():
    """Weights that sum to 1 and a division by the count: T equal experts give 1/T."""
    x = np.array([1, -2, 3, -4, 5, -6, 7, -8, 9, -10], np.float32)
    kept = np.where(np.abs(x) > 3, x, 0)
    np.testing.assert_allclose(merged(jaxmerge.rht(), x, x), kept / 1.4, rtol=5e-7)
    for options in ({"normalize_weights": False}, {"divide_by_count": False}):
        idempotent = merged(jaxmerge.rht(**options), x, x)
        np.testing.assert_allclose(idempotent, kept / 0.7, rtol=5e-7)


@pytest.mark.parametrize(
    ("density", "size", "count"),
    [(0.29, 100, 28), (0.57, 100, 56), (0.7, 5, 3), (0.7, 10, 7)],
)
def test_counts_are_truncated_products_in_float64(density, size, count):
    x = normals(0, size)
    assert np.count_nonzero(merged(jaxmerge.rht(density=density), x)) == count


# --- the election --------------------------------------------------------------------


def test_a_sum_of_zero_elects_plus():
    x, y = np.array([2, -3, 0], np.float32), np.array([-2, 3, 0], np.float32)
    result = merged(jaxmerge.rht(density=1.0), x, y)
    np.testing.assert_array_equal(result, [1.0, 1.5, 0.0])


def test_a_vote_by_frequency():
    experts = np.array([[5.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]], np.float32)
    total = merged(jaxmerge.rht(density=1.0), *experts)
    frequency = merged(jaxmerge.rht(density=1.0, sign="frequency"), *experts)
    np.testing.assert_allclose(total, [5 / 3, 1 / 3], rtol=3e-7)
    np.testing.assert_allclose(frequency, [-1 / 3, 1 / 3], rtol=3e-7)


def test_weights_do_not_vote():
    """A negative weight turns the contribution, and the expert still agrees."""
    x, y = np.array([2, 2], np.float32), np.array([1, -1], np.float32)
    rht = jaxmerge.rht(density=1.0, weights=[2.0, -1.0])
    np.testing.assert_array_equal(merged(rht, x, y), [(4 - 1) / 2, 4])


def test_entries_that_all_prune_are_zero():
    """int(0.15 * 5) is 0: nothing is kept, and nothing is divided by zero."""
    few = merged(jaxmerge.rht(density=0.15), A, B)
    np.testing.assert_array_equal(few, np.zeros(5))
    one = merged(jaxmerge.rht(density=0.2), A, B)
    np.testing.assert_allclose(one, [0, 0, 10, -10, 0], rtol=3e-7)


def test_refusals():
    for density in (0.0, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="density"):
            jaxmerge.rht(density=density)
    for wrong in ({"sign": "mean"}, {"space": "both"}, {"compat": "mergekit"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            jaxmerge.rht(**wrong)
    with pytest.raises(ValueError, match="weights"):
        merged(jaxmerge.rht(weights=[1.0, -1.0]), A, B)


# --- LoRA: factors or products -------------------------------------------------------


def adapters(num_experts: int) -> list[dict]:
    return [
        {"w": LowRank(normals(t, 2, 6), normals(10 + t, 5, 2), np.float32(0.5))}
        for t in range(num_experts)
    ]


def test_factors_scale_the_product_twice():
    """A and B are each divided by the density, so the product by its square."""
    density, share = 0.3, np.full(2, 0.5, np.float32)
    ties = dataclasses.replace(
        jaxmerge.ties(density=density, weights=share), space="factors"
    )
    by_ties = merge_leaves(ties, None, adapters(2))["w"]
    by_rht = merge_leaves(jaxmerge.rht(density=density), None, adapters(2))["w"]
    assert isinstance(by_rht, LowRank)
    for factor in ("a", "b"):
        mask = np.asarray(getattr(by_rht, factor)) == 0
        assert mask.any()
        np.testing.assert_array_equal(mask, np.asarray(getattr(by_ties, factor)) == 0)
    expected = by_ties.dense() / density**2
    np.testing.assert_allclose(by_rht.dense(), expected, rtol=2e-6, atol=1e-6)


def test_factors_are_merged_each_for_itself():
    merge = jaxmerge.rht(density=0.5)
    pair = merge_leaves(merge, None, adapters(2))["w"]
    for factor in ("a", "b"):
        alone = merged(merge, *(getattr(x["w"], factor) for x in adapters(2)))
        np.testing.assert_array_equal(getattr(pair, factor), alone)
    assert pair.scale == 0.5


def test_products_are_merged_as_matrices():
    rht = jaxmerge.rht(density=0.5, space="product")
    base = {"w": normals(5, 5, 6)}
    products = [{"w": base["w"] + np.asarray(x["w"].dense())} for x in adapters(2)]
    low = merge_leaves(rht, base, adapters(2))["w"]
    dense = merge_leaves(rht, base, products)["w"]
    np.testing.assert_allclose(low, dense, rtol=2e-6, atol=2e-6)
    factors = merge_leaves(jaxmerge.rht(density=0.5), None, adapters(2))["w"]
    assert not np.allclose(low - base["w"], factors.dense(), atol=0.1)


# --- its shape, and what it is compared with -----------------------------------------


def test_shape_of_a_pruned_normal_delta():
    """The closed forms of E y^2 and the measured tails, from 10^5 quantiles."""
    x = special.ndtri((np.arange(100_000) + 0.5) / 100_000).astype(np.float32)
    table = {  # density: (rms, kurtosis, P(|y| > 3))
        0.9: (1.1108, None, None),
        0.8: (1.2474, None, None),
        0.7: (1.4181, 3.088, 0.0359),
        0.5: (1.9274, None, None),
        0.2: (4.0306, 6.366, 0.200),
        0.1: (6.6279, 11.59, None),
    }
    for density, (rms, kurtosis, tail) in table.items():
        y = np.float64(merged(jaxmerge.rht(density=density), x))
        cut = stats.norm.ppf(1 - density / 2)
        second = 2 * (cut * stats.norm.pdf(cut) + stats.norm.sf(cut))
        assert np.sqrt(np.mean(y**2)) == pytest.approx(np.sqrt(second) / density, 1e-3)
        assert np.sqrt(np.mean(y**2)) == pytest.approx(rms, 1e-3)
        if kurtosis is not None:
            assert stats.kurtosis(y, fisher=False) == pytest.approx(kurtosis, 0.01)
        if tail is not None:
            assert np.mean(np.abs(y) > 3) == pytest.approx(tail, 0.01)


def test_size_of_a_merge_of_two_normal_deltas():
    """At density 0.7: sums 0.705, TIES 0.595, RHT 0.850 (within three standard errors).

    Most of what RHT adds to TIES here is the scalar 1 / 0.7.
    """
    experts = normals(1, 2, 100_000)
    rms = lambda merger: float(np.sqrt(np.mean(merged(merger, *experts) ** 2.0)))
    half = np.full(2, 0.5, np.float32)
    total = jaxmerge.task_arithmetic(scale=1.0, weights=half)
    assert rms(total) == pytest.approx(0.707, abs=0.006)
    assert rms(jaxmerge.ties(density=0.7, weights=half)) == pytest.approx(
        0.595, abs=0.006
    )
    assert rms(jaxmerge.rht()) == pytest.approx(0.850, abs=0.006)


def test_scalar_control_has_the_norm_and_not_the_shape():
    x = normals(3, 41)
    for density in (0.1, 0.5, 0.9):
        rht = jaxmerge.rht(density=density)
        y = np.float64(merged(rht, x))
        control = np.float64(merged(jaxmerge.scalar_control(rht), x))
        assert np.linalg.norm(control) == pytest.approx(np.linalg.norm(y), rel=1e-6)
        np.testing.assert_allclose(control / x, (control / x)[0], rtol=1e-6)
        assert np.count_nonzero(y) == int(density * 41)


def test_scalar_control_scales_each_expert_for_itself():
    """Then votes and averages as RHT does."""
    experts = normals(4, 2, 41) * np.array([[1.0], [3.0]], np.float32)
    rht = jaxmerge.rht(density=0.3)
    scaled = [merged(jaxmerge.scalar_control(rht), x) for x in experts]
    whole = merged(jaxmerge.rht(density=1.0), *scaled)
    control = merged(jaxmerge.scalar_control(rht), *experts)
    np.testing.assert_allclose(control, whole, rtol=2e-6, atol=1e-6)


def test_norm_matched_keeps_the_norm():
    """The effect of shape alone: each expert's delta has the norm that it came with."""
    x = normals(6, 41)
    for density in (0.1, 0.5, 0.9):
        y = merged(jaxmerge.rht(density=density, norm_matched=True), x)
        assert np.linalg.norm(y) == pytest.approx(np.linalg.norm(x), rel=1e-6)
        amplified = merged(jaxmerge.rht(density=density), x)
        kept = amplified != 0
        np.testing.assert_array_equal(y != 0, kept)
        ratio = y[kept] / amplified[kept]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)


# --- the noise hook ------------------------------------------------------------------


def test_noise_is_off_by_default_and_nothing_at_strength_zero(key):
    assert jaxmerge.rht().post == ()
    plain = merged(jaxmerge.rht(), A, B)
    silent = jaxmerge.rht(noise=ReparameterizedNoise(0.0))
    np.testing.assert_array_equal(merged(silent, A, B, key=key), plain)


def test_noise_needs_a_key_and_repeats_with_it(key):
    noisy = jaxmerge.rht(noise=ReparameterizedNoise(0.5))
    with pytest.raises(ValueError, match="key"):
        merged(noisy, A, B)
    once = merged(noisy, A, B, key=key)
    np.testing.assert_array_equal(merged(noisy, A, B, key=key), once)
    other = merged(noisy, A, B, key=jax.random.key(1))
    assert not np.array_equal(other, once)
    assert not np.array_equal(once, merged(jaxmerge.rht(), A, B))


def test_noise_is_in_proportion_to_the_merged_delta(key):
    """y - x is strength * rms(x) * e, with the same e for every strength and size."""
    noisy = lambda strength, factor: merged(
        jaxmerge.rht(scale=factor, noise=ReparameterizedNoise(strength, law="normal")),
        A,
        B,
        key=key,
    )
    plain = merged(jaxmerge.rht(), A, B)
    rms = np.sqrt(np.mean(plain**2.0))
    small, large = noisy(0.25, 1.0) - plain, noisy(0.5, 1.0) - plain
    np.testing.assert_allclose(large, 2 * small, rtol=1e-5, atol=1e-6)
    assert 0.05 < np.sqrt(np.mean(small**2)) / (0.25 * rms) < 3
    np.testing.assert_allclose(noisy(0.5, 4.0), 4 * (plain + large), rtol=1e-5)
    assert jnp.isfinite(small).all()

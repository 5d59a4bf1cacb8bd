"""Tail measures against closed forms and the laws they were drawn from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxmerge import geometry as geo
from jaxmerge._types import Leaf
from jaxmerge.transforms import DropRandom, KeepLargest, Scale, TrimRescale

KEY = jax.random.key(11)


def moments(tree) -> list[float]:
    functions = (geo.kurtosis, geo.participation_ratio, geo.sparsity_ratio)
    return [
        float(value) for value in jax.jit(lambda x: [f(x) for f in functions])(tree)
    ]


@pytest.mark.parametrize("size", [1, 7])
def test_moments_of_constants_and_spikes_are_exact(size: int):
    np.testing.assert_allclose(moments(-3 * jnp.ones(size)), 1, rtol=1e-6)
    spike = jnp.zeros(size).at[0].set(2.0)
    expected = [size, 1 / size, 1 / size]
    np.testing.assert_allclose(moments(spike), expected, rtol=1e-6)


def test_zeros_and_nothing_have_defined_moments():
    for x in (jnp.zeros(4), jnp.zeros(0), jnp.zeros(1)):
        assert moments(x) == [0, 0, 0]
        assert float(geo.tail_mass(x, 1.0)) == 0
        sums = geo.tail_sums(x)
        norms = (sums.l1_norm, sums.l2_norm, sums.root_mean_square)
        assert [float(norm) for norm in norms] == [0, 0, 0]


def test_moments_agree_with_numpy_over_trees_pieces_and_joins(rng):
    x = rng.standard_normal(3000).astype(np.float32) ** 3
    wide = x.astype(np.float64)
    expected = [
        *(3000, np.abs(wide).sum(), np.sqrt((wide**2).sum())),
        3000 * (wide**4).sum() / (wide**2).sum() ** 2,
    ]
    tree = {"a": jnp.asarray(x[:1000]).reshape(10, 100), "b": [jnp.asarray(x[1000:])]}
    pieces = [geo.tail_sums(jnp.asarray(part)) for part in np.split(x, 3)]
    joined = pieces[0].join(pieces[1]).join(pieces[2])
    with jax.enable_x64(True):
        double = geo.tail_sums(jnp.asarray(wide))
        assert double.total.dtype == jnp.float64
        values = [double.count, double.l1_norm, double.l2_norm, double.kurtosis]
        np.testing.assert_allclose(values, expected, rtol=1e-13)
    for sums in (geo.tail_sums(tree), jax.jit(geo.tail_sums)(tree), joined):
        values = [sums.count, sums.l1_norm, sums.l2_norm, sums.kurtosis]
        np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e30])
def test_no_power_over_or_underflows(scale: float):
    x = np.arange(1.0, 9.0, dtype=np.float32)
    sums = geo.TailSums.zero().add(jnp.asarray(x[:2] * scale, jnp.float32))
    sums = sums.add(jnp.asarray(x[2:] * scale, jnp.float32))
    np.testing.assert_allclose(sums.kurtosis, geo.kurtosis(jnp.asarray(x)), rtol=1e-5)
    np.testing.assert_allclose(sums.l2_norm / scale, np.linalg.norm(x), rtol=1e-5)


def test_many_pieces_are_as_exact_as_one():
    """2^24 + 64 ones, a count that no float32 holds, in 4096 additions and one join."""
    ones = jnp.ones(4096)
    add = lambda sums, _: (sums.add(ones), None)
    many, _ = jax.lax.scan(add, geo.TailSums.zero(), None, length=4096)
    sums = many.join(geo.tail_sums(jnp.ones(65)))
    total = np.asarray(sums.total, np.float64) + np.asarray(sums.lost, np.float64)
    assert total.tolist() == [2**24 + 65] * 4


def test_moments_are_vmapped(rng):
    rows = jnp.asarray(rng.standard_normal((3, 50)), jnp.float32)
    batched = jax.jit(jax.vmap(geo.tail_sums))(rows)
    expected = stats.moment(rows, 4, axis=1, center=0) / np.mean(rows**2, axis=1) ** 2
    np.testing.assert_allclose(batched.kurtosis, expected, rtol=1e-5)
    assert batched.root_mean_square.shape == (3,)


def test_integers_and_empty_trees_are_refused_by_name():
    with pytest.raises(TypeError, match=r"\['w'\] is int32; the tails of floats"):
        geo.kurtosis({"w": jnp.arange(3)})
    with pytest.raises(TypeError, match="not of int32"):
        geo.TailSums.zero().add(jnp.arange(3))
    with pytest.raises(ValueError, match="the tree has no leaves"):
        geo.hill({})


# --- what sparsify-and-amplify does to normal numbers


def normal_numbers(size: int) -> np.ndarray:
    """The quantiles of the normal law themselves, shuffled: no sampling error."""
    z = special.ndtri((np.arange(size) + 0.5) / size)
    return np.random.default_rng(0).permutation(z).astype(np.float32)


# A map; its root mean square, kurtosis, and mass beyond three standard deviations.
DENSITY = "density"
RHT_TABLE = {
    "identity": (Scale(1.0), 1.0, 3.0, 0.0027),
    "rht 0.9": (TrimRescale(0.9, match=DENSITY), 1.1108, None, None),
    "rht 0.7": (TrimRescale(0.7, match=DENSITY), 1.418, 3.088, 0.0359),
    "rht 0.2": (TrimRescale(0.2, match=DENSITY), 4.031, 6.366, 0.200),
    "rht 0.1": (TrimRescale(0.1, match=DENSITY), 6.628, 11.59, 0.100),
    "ties 0.7": (KeepLargest(0.7), 0.993, 3.088, 0.0027),
    "dare 0.7": (DropRandom(0.7, rescale=DENSITY), 1.195, 4.286, 0.0252),
}


@jax.jit
def transformed(transform, x):
    """Moments after a map, and masses in units of the vector before and after it."""
    y = transform(x, Leaf(key=KEY))
    own = geo.tail_mass(y, jnp.array([2.0, 3.0]))
    return geo.tail_sums(y), geo.tail_mass(y, 3.0, reference=x), own


@pytest.mark.parametrize("name", RHT_TABLE)
@pytest.mark.slow
def test_what_trimming_does_to_normal_numbers(name: str):
    transform, rms, kurtosis, beyond = RHT_TABLE[name]
    x = jnp.asarray(normal_numbers(400_000))
    sums, mass, own = transformed(transform, x)
    assert float(sums.root_mean_square) == pytest.approx(rms, rel=0.005)
    if kurtosis is not None:
        assert float(sums.kurtosis) == pytest.approx(kurtosis, rel=0.02)
        assert float(mass) == pytest.approx(beyond, rel=0.02, abs=5e-5)
    if name.startswith("rht"):
        # The amplification is a scalar: in units of itself the tail is that of TIES.
        kept = transformed(KeepLargest(transform.density), x)
        np.testing.assert_allclose(own, kept[2], atol=1e-5)


# --- Hill's estimator

LAWS = {
    "pareto": (lambda u: u**-0.5, (1.73, 1.91, 1.99, 2.00), True),
    "t3": (lambda u: stats.t.isf(u / 2, 3), (3.15, 3.01, 2.86, 2.45), True),
    "normal": (lambda u: -special.ndtri(u / 2), (17.7, 13.1, 9.1, 4.7), False),
    "laplace": (lambda u: -np.log(u), (10.8, 7.8, 5.5, 3.1), False),
}
KS = (100, 1000, 10_000, 100_000)


@pytest.fixture(scope="module")
def plots():
    draw = jax.jit(lambda x: (geo.hill(x), geo.hill(x, KS)))
    u = np.random.default_rng(3).uniform(size=1_000_000)
    return {
        name: draw(jnp.asarray(quantile(u), jnp.float32))
        for name, (quantile, _, _) in LAWS.items()
    }


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.slow
def test_hill_plots_of_a_million_numbers(plots, name: str):
    """The values were measured on another sample: both have an error."""
    _, known, heavy = LAWS[name]
    plot, at = plots[name]
    errors = np.asarray(at.upper - at.lower) / (2 * 1.96)
    assert np.all(np.abs(np.asarray(at.index) - known) < 4 * np.sqrt(2) * errors + 0.06)
    np.testing.assert_allclose(errors, at.index / np.sqrt(KS), rtol=1e-5)
    assert bool(plot.is_heavy) is heavy
    assert np.isfinite(plot.tail_index) == heavy
    if heavy:
        exponent = {"pareto": 2, "t3": 3}[name]
        assert float(plot.tail_index) == pytest.approx(exponent, rel=0.1)


@pytest.mark.parametrize("size", [2000, 70_000])
def test_hill_is_its_formula_sorted_or_counted(rng, size: int):
    x = rng.standard_t(3, size).astype(np.float32)
    x[5] = -x[:20].max()  # a tie
    ordered = np.sort(np.abs(x).astype(np.float64))[::-1]
    ks = (1, 40, 199)
    expected = [k / np.log(ordered[:k] / ordered[k]).sum() for k in ks]
    plot = geo.hill({"w": jnp.asarray(x[:100]), "v": jnp.asarray(x[100:])}, ks)
    np.testing.assert_allclose(plot.index, expected, rtol=2e-5)
    np.testing.assert_allclose(plot.threshold, ordered[list(ks)], rtol=1e-6)
    assert float(plot.lower[0]) == 0  # one number says nothing
    assert not bool(plot.is_heavy)  # without a decade of k whose estimates agree


def test_hill_is_vmapped_and_defined_for_degenerate_vectors():
    batch = jnp.stack([jnp.zeros(600), jnp.ones(600), jnp.zeros(600).at[0].set(3.0)])
    plot = jax.vmap(geo.hill)(batch)
    assert plot.index[:, 0].tolist() == [0, np.inf, 0]
    heavy = jax.vmap(lambda x: geo.hill(x, (2, 20)).is_heavy)(batch)
    assert heavy.tolist() == [False] * 3
    for leaf in jax.tree.leaves(plot):
        assert not np.any(np.isnan(leaf))


def test_hill_refuses_depths_beyond_the_vector():
    with pytest.raises(ValueError, match="below the number of elements, 5"):
        geo.hill(jnp.ones(5), (2, 5))
    with pytest.raises(ValueError, match="below the number of elements, 1"):
        geo.hill(jnp.ones(1))

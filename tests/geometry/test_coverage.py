"""Coverage of reparameterized task vectors: closed forms, published values, limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from jaxmerge import geometry as geo
from jaxmerge._types import Leaf
from jaxmerge.histograms import high_histogram
from jaxmerge.transforms import (
    CoverageOptimal,
    DropRandom,
    ParetoTail,
    Scale,
    SignedPower,
    StudentTail,
    TrimRescale,
    TukeyH,
)

KEY = jax.random.key(4)


@jax.jit
def changed(transform, rows):
    leaf = lambda t: Leaf(key=jax.random.fold_in(KEY, t), num_experts=rows.shape[0])
    one = lambda row, t: transform(row, leaf(t))
    return jax.lax.map(lambda x: one(*x), (rows, jnp.arange(rows.shape[0])))


@functools.partial(jax.jit, static_argnames="num_samples")
def compared(after, before, num_samples):
    maps = {"map": lambda delta, t: after[t]}
    return geo.compare(maps, before, key=KEY, num_samples=num_samples)["map"]


def measured(transform, rows, num_samples=20_000):
    """The map is applied outside, so that what measures it is compiled once."""
    return compared(changed(transform, rows), rows, num_samples)


def correlated(size: int, num: int = 16, correlation: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(0)
    shared, own = rng.standard_normal(size), rng.standard_normal((num, size))
    return np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own


@pytest.fixture(scope="module")
def experts():
    return jnp.asarray(correlated(200_000), jnp.float32)


# 16 experts of 200,000 normal entries with correlation 0.3, at unit norm: kurtosis,
# cosine, hull, box, union of boxes, cross-polytope, cosine with the original.
TABLE = {
    "identity": (Scale(1.0), (3.00, 0.300, 1.479, 0.637, 1.585, 11.4, 1.0)),
    "trim .5": (TrimRescale(0.5), (3.46, 0.279, 1.501, 0.526, 1.645, 11.8, 0.964)),
    "trim .2": (TrimRescale(0.2), (6.36, 0.199, 1.581, 0.347, 1.901, 14.1, 0.806)),
    "trim .1": (TrimRescale(0.1), (11.6, 0.141, 1.638, 0.248, 1.931, 17.2, 0.663)),
    "dare .2": (DropRandom(0.2), (15.0, 0.060, 1.713, 0.284, 2.227, 22.0, 0.447)),
    "t5": (StudentTail(5.0), (None, 0.292, 1.488, 0.587, 1.738, 26.3, 0.984)),
    "t3": (StudentTail(3.0), (None, 0.256, 1.525, 0.512, 1.782, None, 0.916)),
    "pareto 3": (
        ParetoTail(3.0, kind="pareto"),
        (None, 0.260, 1.521, 0.694, 1.494, None, 0.929),
    ),
    "power 1.5": (SignedPower(1.5), (5.9, 0.288, 1.492, 0.543, 1.811, 17, 0.976)),
    "power 2": (SignedPower(2.0), (11.6, 0.259, 1.521, 0.461, 1.937, 24, 0.921)),
    "power 3": (SignedPower(3.0), (44.8, 0.191, 1.589, 0.329, 1.950, 43, 0.774)),
    "tukey .2": (TukeyH(0.2), (None, 0.275, 1.505, 0.543, 1.802, None, 0.952)),
    "power .5": (SignedPower(0.5), (1.6, 0.279, 1.501, 0.734, 1.249, 7.2, 0.963)),
}


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.slow
def test_coverage_of_sixteen_correlated_experts(name: str, experts):
    """Where no number is given it is an extreme of the sample, and varies with it."""
    transform, (kurtosis, cosine, hull, box, union, polytope, fidelity) = TABLE[name]
    found = measured(transform, experts)
    at = found.coverage.normalized()
    if kurtosis is not None:
        assert float(found.kurtosis.mean()) == pytest.approx(kurtosis, rel=0.04)
        np.testing.assert_allclose(found.participation_ratio * found.kurtosis, 1, 1e-5)
    varies = 0.005 if kurtosis is None else 0.0
    assert float(at.cosine) == pytest.approx(cosine, abs=0.006 + varies)
    assert abs(float(at.hull.mean) - hull) < 4 * float(at.hull.stderr) + 0.006
    assert float(at.box) == pytest.approx(box, rel=0.015)
    assert float(at.union_box) == pytest.approx(union, rel=0.01)
    if polytope is not None:
        assert float(at.cross_polytope) == pytest.approx(polytope, rel=0.04)
    mean_fidelity = float(found.fidelity.mean())
    assert mean_fidelity == pytest.approx(fidelity, abs=0.003 + varies)
    # The control has the shape of the original and the norm of the map.
    np.testing.assert_allclose(found.control.norm, found.coverage.norm, rtol=1e-5)
    original = found.control.normalized()
    shape = [original.box, original.union_box, original.cross_polytope]
    np.testing.assert_allclose(shape, [0.637, 1.585, 11.4], rtol=0.02)


@pytest.mark.slow
def test_amplifying_looks_like_coverage_until_it_meets_its_control(experts):
    """At density 0.7, sparsify-and-amplify gains 42 %, nearly all of it a scalar."""
    before = measured(Scale(1.0), experts).coverage
    found = measured(TrimRescale(0.7, match="density"), experts)
    np.testing.assert_allclose(found.norm_ratio, 1.418, rtol=0.02)
    gain = float(found.coverage.union_box / before.union_box)
    control = float(found.control.union_box / before.union_box)
    assert gain == pytest.approx(1.43, abs=0.03)
    assert control == pytest.approx(1.418, rel=0.01)


# --- shared outliers: heavy tails collapse what they were to extend


@pytest.mark.slow
def test_with_shared_outlier_coordinates_heavy_tails_collapse_the_hull():
    rows = np.random.default_rng(1).standard_normal((16, 200_000))
    rows[:, :200] += 8  # a thousandth of the coordinates, in every expert
    rows = jnp.asarray(rows, jnp.float32)
    known = {
        Scale(1.0): (0.0595, 1.714),
        SignedPower(2.0): (0.561, 1.173),
        SignedPower(3.0): (0.842, 0.704),
        StudentTail(3.0, scale="rank"): (0.127, 1.651),
        TrimRescale(0.2): (0.089, 1.687),
    }
    for transform, (cosine, hull) in known.items():
        at = measured(transform, rows).coverage.normalized()
        assert float(at.cosine) == pytest.approx(cosine, rel=0.03)
        assert abs(float(at.hull.mean) - hull) < 4 * float(at.hull.stderr) + 0.015
    # By its robust scale, 8 standard deviations become 1e5: worse than by rank.
    at = measured(StudentTail(3.0), rows).coverage.normalized()
    assert float(at.cosine) == pytest.approx(0.69, abs=0.01)
    assert float(at.hull.mean) == pytest.approx(0.99, abs=0.02)


# --- the union of boxes of independent experts: E max_T |Y|


def expected_maximum(quantile, num: int) -> float:
    """The mean of the largest of T draws of a magnitude of unit mean square."""
    # In the exponential variable s = -log(1 - u), so that the end at u = 1 is resolved.
    density = lambda s: num * np.exp((num - 1) * np.log1p(-np.exp(-s)) - s)
    integrand = lambda s: float(quantile(s) * density(s))
    square = integrate.quad(lambda s: float(quantile(s) ** 2 * np.exp(-s)), 0, 200)[0]
    peaks = [0.1, 1, 3, 6, 10, 20, 50]
    mean = sum(
        integrate.quad(integrand, a, b, limit=200)[0]
        for a, b in zip([1e-12, *peaks], [*peaks, 200], strict=True)
    )
    return mean / np.sqrt(square)


def normal_quantile(s):
    return -special.ndtri_exp(-s - np.log(2))


def student_quantile(degrees):
    return lambda s: stats.t.isf(np.exp(-s) / 2, degrees)


def trimmed(density):
    return lambda s: normal_quantile(s) * (s > -np.log(density))


SIZES = (2, 4, 8, 16, 32, 64)
# A map, the quantile of the magnitude in s, and E max of T of them.
MAXIMA = {
    "optimum": (None, None, (1.155, 1.512, 2.066, 2.874, 4.032, 5.679)),
    "normal": (
        Scale(1.0),
        normal_quantile,
        (1.128, 1.465, 1.783, 2.077, 2.347, 2.596),
    ),
    "t5": (
        StudentTail(5.0),
        student_quantile(5),
        (1.072, 1.452, 1.867, 2.316, 2.808, 3.351),
    ),
    "t3": (
        StudentTail(3.0),
        student_quantile(3),
        (0.955, 1.345, 1.816, 2.388, 3.089, 3.957),
    ),
    "trim .2": (
        TrimRescale(0.2),
        trimmed(0.2),
        (0.795, 1.339, 1.989, 2.536, 2.910, 3.221),
    ),
    "trim .1": (
        TrimRescale(0.1),
        trimmed(0.1),
        (0.594, 1.086, 1.835, 2.729, 3.462, 3.914),
    ),
    "power 3": (
        SignedPower(3.0),
        lambda s: normal_quantile(s) ** 3,
        (0.728, 1.208, 1.869, 2.709, 3.718, 4.881),
    ),
}


@pytest.mark.parametrize("name", MAXIMA)
def test_maxima_of_independent_experts_agree_with_quadrature_and_the_bound(name: str):
    transform, quantile, known = MAXIMA[name]
    bounds = [num / np.sqrt(2 * num - 1) for num in SIZES]
    if quantile is None:
        np.testing.assert_allclose(bounds, known, atol=6e-4)
        return
    values = [expected_maximum(quantile, num) for num in SIZES]
    np.testing.assert_allclose(values, known, rtol=2e-3)
    assert np.all(np.array(values) < bounds)
    rows = np.random.default_rng(5).standard_normal((16, 200_000))
    found = measured(transform, jnp.asarray(rows, jnp.float32)).coverage
    tolerance = 0.03 if name == "t3" else 0.01  # its sample's norm has a heavy tail
    assert float(found.expected_maximum) == pytest.approx(known[3], rel=tolerance)


def test_the_optimal_map_attains_the_bound():
    rows = np.random.default_rng(5).standard_normal((16, 200_000))
    found = measured(CoverageOptimal(), jnp.asarray(rows, jnp.float32))
    expected = 16 / np.sqrt(31)
    assert float(found.coverage.expected_maximum) == pytest.approx(expected, rel=0.005)
    kurtosis = float(found.kurtosis.mean())
    assert kurtosis == pytest.approx(31**2 / 61, rel=0.02)


# --- the parts


def test_cross_polytopes_are_those_of_the_exact_quadrature(rng):
    vectors = {
        "normal": rng.standard_normal(3000),
        "constant": np.full(3000, 1e-3),
        "spike": np.eye(1, 3000)[0] * 1e4,
        "heavy": rng.standard_t(1.5, 3000),
        "tiny": rng.standard_normal(3000) * 1e-25,
        "one": np.array([0.0, -2.0]),
    }
    width = jax.jit(lambda x: geo.largest_product(high_histogram(x).astype(x.dtype)))
    for x in vectors.values():
        exact = geo.exact_width(geo.WeightedL1Ball(np.abs(x)))
        got = float(width(jnp.asarray(x, jnp.float32)))
        assert got == pytest.approx(exact, rel=4e-3)
    assert float(width(jnp.zeros(3000))) == 0


@jax.jit
def three_ways(rows):
    """As rows, as trees, in pieces."""
    trees = [{"a": r[:40].reshape(5, 8), "b": r[40:]} for r in rows]
    sums = geo.CoverageSums.zero(3).add(rows[:, :7]).add(rows[:, 7:])
    return (
        geo.coverage(rows, key=KEY, num_samples=50),
        geo.coverage(trees, key=KEY, num_samples=50),
        sums.coverage(key=KEY, num_samples=50),
    )


def test_coverage_of_trees_and_pieces_is_that_of_rows(rng):
    rows = jnp.asarray(rng.standard_normal((3, 60)), jnp.float32)
    whole, of_trees, in_pieces = three_ways(rows)
    for other in (of_trees, in_pieces):
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert float(whole.union_box) == pytest.approx(
        np.sqrt(2 / np.pi) * np.abs(rows).max(axis=0).sum(), rel=1e-5
    )
    assert float(whole.dimension) == 60


def test_zeros_and_a_single_expert_have_defined_coverage():
    for rows in (jnp.zeros((2, 5)), jnp.zeros((1, 5)), jnp.ones((1, 1))):
        found = measured(Scale(0.4), rows, num_samples=4)
        numbers = jax.tree.leaves((found, found.coverage.normalized()))
        assert all(np.all(np.isfinite(x)) for x in numbers)
        np.testing.assert_allclose(found.fidelity, float(rows[0, 0]), rtol=1e-6)


def test_experts_of_several_shapes_are_refused():
    with pytest.raises(ValueError, match="no experts were given"):
        geo.coverage([], key=KEY, num_samples=2)
    pair = [{"w": jnp.ones(2)}, {"w": jnp.ones(3)}]
    with pytest.raises(ValueError, match=r"\['w'\] has shapes \[\(2,\), \(3,\)\]"):
        geo.coverage(pair, key=KEY, num_samples=2)

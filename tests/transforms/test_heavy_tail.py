"""Reparameterizations: the invariants of the family, and the numbers of its members."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxmerge._types import Leaf
from jaxmerge.transforms import (
    AlphaStableTail,
    CoverageOptimal,
    LaplaceTail,
    ParetoTail,
    SignedPower,
    StudentTail,
    TrimRescale,
    TukeyH,
    TukeyHInverse,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

EMPTY = Leaf(num_experts=4)

run = jax.jit(lambda transform, x, leaf=EMPTY: transform(x, leaf))

# One of each, and the name and a range of its parameter.
FAMILY = {
    "student": (StudentTail(3.0), "degrees_of_freedom", (1.0, 2.5, 40.0)),
    "student rank": (StudentTail(3.0, scale="rank"), None, ()),
    "power": (SignedPower(1.7), "power", (0.5, 1.0, 3.0)),
    "tukey": (TukeyH(0.2, scale="rms"), "h", (0.0, 0.1, 0.5)),
    "tukey inverse": (TukeyHInverse(0.3), "h", (0.0, 0.1, 0.5)),
    "lomax": (ParetoTail(3.0), "alpha", (1.0, 3.0, 20.0)),
    "pareto": (ParetoTail(3.0, kind="pareto"), "alpha", (1.0, 3.0, 20.0)),
    "laplace": (LaplaceTail(), None, ()),
    "stable": (AlphaStableTail(1.5), None, ()),
    "coverage": (CoverageOptimal(), "num_experts", (1.5, 4.0, 32.0)),
}

each = pytest.mark.parametrize("name", FAMILY)


def normal_grid(n: int) -> np.ndarray:
    """A normal sample without noise: its own quantiles."""
    return special.ndtri((np.arange(n) + 0.5) / n)


@each
def test_odd_monotone_homogeneous_and_of_the_same_norm(rng, name):
    transform = FAMILY[name][0]
    x = rng.standard_normal((20, 10)).astype(np.float32)
    x[3, :4] = 0
    x[5, 5] = 60.0  # an outlier beyond the quantile functions
    y = np.asarray(run(transform, x))
    np.testing.assert_allclose(np.linalg.norm(y), np.linalg.norm(x), rtol=1e-6)
    np.testing.assert_array_equal(np.sign(y), np.sign(x))
    order = np.argsort(np.abs(x), axis=None)
    assert np.all(np.diff(np.abs(y).reshape(-1)[order]) >= 0)
    np.testing.assert_array_equal(run(transform, -x), -y)
    for factor in (1e-4, 3.0, 1e6):
        scaled = run(transform, np.float32(factor) * x)
        np.testing.assert_allclose(scaled, factor * y, rtol=2e-4, atol=1e-7 * factor)


@each
def test_the_other_norms(rng, name):
    transform = FAMILY[name][0]
    x = rng.standard_normal(100).astype(np.float32)
    l1 = np.asarray(run(dataclasses.replace(transform, match="l1"), x))
    np.testing.assert_allclose(np.abs(l1).sum(), np.abs(x).sum(), rtol=1e-6)
    raw = np.asarray(run(dataclasses.replace(transform, match="none"), x))
    np.testing.assert_allclose(l1 / raw, (l1 / raw)[0], rtol=1e-5)
    again = np.asarray(run(dataclasses.replace(transform, match="none"), 1000 * x))
    np.testing.assert_allclose(again, 1000 * raw, rtol=1e-4)


@each
def test_degenerate_tensors_are_finite_and_so_are_gradients(name):
    transform = FAMILY[name][0]
    cubes = lambda t, x: (jnp.sum(t(x, EMPTY) ** 3), t(x, EMPTY))
    slopes = jax.jit(jax.grad(cubes, argnums=(0, 1), has_aux=True))
    for x in ([0, 0, 0, 0], [2.5], [0, 0, 0, -3], [-1e-30] * 4):
        x = np.array(x, np.float32)
        gradients, y = slopes(transform, x)
        np.testing.assert_allclose(y, x, rtol=1e-6)  # no shape to change
        for leaf in jax.tree.leaves(gradients):
            assert np.isfinite(leaf).all()


def test_empty_tensors_stay_empty():
    for transform in (StudentTail(scale="rank"), TukeyHInverse(), SignedPower()):
        assert run(transform, np.zeros((0, 3), np.float32)).shape == (0, 3)


@each
def test_the_gradient_is_the_slope(rng, name):
    transform, field, values = FAMILY[name]
    with jax.enable_x64(True):
        x = jnp.asarray(rng.standard_normal(31))
        c = jnp.asarray(rng.standard_normal(31))
        direction = jnp.asarray(rng.standard_normal(31))
        loss = lambda t, x: jnp.vdot(c, t(x, EMPTY))
        slopes = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        loss = lambda t, x: slopes(t, x)[0]
        value = jnp.float64(values[1] + 0.01 if values else 0.0)
        if field is not None:
            transform = dataclasses.replace(transform, **{field: value})
        by_transform, by_x = slopes(transform, x)[1]
        step = 1e-6
        slope = (
            loss(transform, x + step * direction)
            - loss(transform, x - step * direction)
        ) / (2 * step)
        np.testing.assert_allclose(jnp.vdot(by_x, direction), slope, rtol=1e-5)
        if field is not None:
            at = lambda v: dataclasses.replace(transform, **{field: v})
            slope = (loss(at(value + step), x) - loss(at(value - step), x)) / (2 * step)
            np.testing.assert_allclose(getattr(by_transform, field), slope, rtol=1e-5)


@pytest.mark.parametrize("name", [n for n, (_, f, _) in FAMILY.items() if f])
def test_a_sweep_of_the_parameter_is_one_program(rng, name):
    transform, field, values = FAMILY[name]
    x = jnp.asarray(rng.standard_normal(30), jnp.float32)
    at = lambda v: dataclasses.replace(transform, **{field: v})
    swept = jax.jit(jax.vmap(lambda v: at(v)(x, EMPTY)))(jnp.array(values))
    traces = []
    counted = jax.jit(lambda t, x: (traces.append(t), t(x, EMPTY))[1])
    for value, row in zip(values, swept, strict=True):
        np.testing.assert_allclose(counted(at(value), x), row, rtol=2e-5, atol=1e-7)
    assert len(traces) == 1


@pytest.mark.parametrize(
    "transform",
    [
        StudentTail(0.9),
        SignedPower(0.0),
        TukeyH(-0.1),
        TukeyHInverse(1.1),
        ParetoTail(0.4),
        AlphaStableTail(2.1),
        AlphaStableTail(1.005),
        CoverageOptimal(0.5),
        StudentTail(float("nan")),
        StudentTail([3.0, 0.5]),
        ParetoTail(kind="burr"),
        LaplaceTail(scale="std"),
        LaplaceTail(match="linf"),
    ],
)
def test_bad_parameters_are_refused(transform):
    with pytest.raises(ValueError, match=r"expected|a norm is"):
        transform(jnp.ones(3), EMPTY)


# --- each member ----------------------------------------------------------------------


def test_identities(rng):
    x = rng.standard_normal(50).astype(np.float32)
    for identity in (
        StudentTail(np.inf),
        SignedPower(1.0),
        TukeyH(0.0),
        TukeyHInverse(0.0),
        AlphaStableTail(2.0),
        TrimRescale(1.0),
    ):
        np.testing.assert_allclose(run(identity, x), x, rtol=2e-6)
    np.testing.assert_allclose(run(StudentTail(1e5), x), x, rtol=1e-3)


def test_powers_compose(rng):
    x = rng.standard_normal(50).astype(np.float32)
    twice = run(SignedPower(1.5), run(SignedPower(2.0), x))
    np.testing.assert_allclose(twice, run(SignedPower(3.0), x), rtol=1e-5)
    largest = run(SignedPower(3.0, match="none"), x)
    assert np.argmax(np.abs(largest)) == np.argmax(np.abs(x))
    np.testing.assert_allclose(np.max(np.abs(largest)), np.max(np.abs(x)))


@pytest.mark.parametrize("h", [0.05, 0.2, 1.0])
def test_tukey_round_trip(rng, h):
    x = rng.standard_normal(200).astype(np.float32)
    x[7] = 70.0
    for match in ("none", "l2"):
        transform = TukeyH(h, match=match)
        back = run(transform.inverse(), run(transform, x))
        np.testing.assert_allclose(back, x, rtol=5e-6)
    with pytest.raises(ValueError, match="robust"):
        TukeyH(h, scale="rms").inverse()


def test_coverage_takes_the_number_of_experts_of_the_merge(rng):
    x = rng.standard_normal(50).astype(np.float32)
    of_leaf = run(CoverageOptimal(), x, Leaf(num_experts=7))
    np.testing.assert_allclose(of_leaf, run(CoverageOptimal(7), x), rtol=1e-6)


def test_the_rank_form_has_the_quantiles_whatever_the_input(rng):
    x = np.exp(rng.standard_normal(2001)).astype(np.float32)
    y = np.asarray(run(StudentTail(1.0, scale="rank", match="none"), x))
    u = (np.argsort(np.argsort(x)) + 0.5) / x.size
    unit = np.sqrt(np.mean(x.astype(np.float64) ** 2))
    np.testing.assert_allclose(y, unit * np.tan(np.pi / 2 * u), rtol=1e-4)


def test_the_parametric_form_is_the_rank_form_of_a_normal_tensor():
    x = normal_grid(10_000).astype(np.float32)
    for transform in (StudentTail(5.0), LaplaceTail(), TukeyH(0.1)):
        ranked = dataclasses.replace(transform, scale="rank")
        np.testing.assert_allclose(run(transform, x), run(ranked, x), rtol=1e-3)


# --- numbers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("density", "l2", "l1", "kurtosis"),
    [
        (0.7, 1.418, 1.326, 3.09),
        (0.5, 1.927, 1.593, 3.46),
        (0.2, 4.031, 2.200, 6.37),
        (0.1, 6.628, 2.585, 11.59),
        (0.05, 10.57, 2.930, 22.0),
        (0.01, 29.07, 3.62, 104.7),
    ],
)
@pytest.mark.slow
def test_trimmed_normal_numbers(density, l2, l1, kurtosis):
    # Population values of sparsify-and-amplify: factors of the two norms, and kurtosis.
    x = normal_grid(200_000)
    trim = TrimRescale(density, match="density").bind(x.size)
    y = np.asarray(run(trim, x.astype(np.float32)), np.float64)
    norms = np.linalg.norm(y) / np.linalg.norm(x), np.abs(y).sum() / np.abs(x).sum()
    np.testing.assert_allclose(norms, (l2, l1), rtol=2e-3)
    np.testing.assert_allclose(np.mean(y**4) / np.mean(y**2) ** 2, kurtosis, rtol=5e-3)
    for match, order in (("l2", 2), ("l1", 1)):
        matched = dataclasses.replace(trim, match=match)
        y = np.asarray(run(matched, x.astype(np.float32)), np.float64)
        np.testing.assert_allclose(
            np.linalg.norm(y, order), np.linalg.norm(x, order), rtol=1e-6
        )


def population(transform, z: np.ndarray) -> np.ndarray:
    """The map of a normal law's magnitudes, at unit mean square."""
    with jax.enable_x64(True):
        y = np.asarray(transform.shape(jnp.asarray(z)))
    return y / np.sqrt(expect(y**2, z))


def expect(values: np.ndarray, z: np.ndarray) -> float:
    """E of a function of |N(0, 1)|."""
    return float(np.trapezoid(values * np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2), z))


Z = np.linspace(0, 8, 40_001)

COVERAGE = {
    # E max of T magnitudes of unit mean square, T = 2, 4, ..., 64.
    "normal": (SignedPower(1.0), (1.128, 1.465, 1.783, 2.077, 2.347, 2.596)),
    "t5": (StudentTail(5.0), (1.072, 1.452, 1.867, 2.316, 2.808, 3.351)),
    "t3": (StudentTail(3.0), (0.955, 1.345, 1.816, 2.388, 3.089, 3.957)),
    "cube": (SignedPower(3.0), (0.728, 1.208, 1.869, 2.709, 3.718, 4.881)),
}


@pytest.mark.parametrize("name", COVERAGE)
def test_coverage_of_tails(name):
    transform, expected = COVERAGE[name]
    y = population(transform, Z)
    u = special.erf(Z / np.sqrt(2))
    covered = [expect(y * t * u ** (t - 1), Z) for t in (2, 4, 8, 16, 32, 64)]
    np.testing.assert_allclose(covered, expected, atol=2e-3)


def test_optimal_coverage_attains_the_bound():
    u = special.erf(Z / np.sqrt(2))
    for t in (2, 4, 8, 16, 32, 64):
        y = population(CoverageOptimal(t), Z)
        bound = t / np.sqrt(2 * t - 1)
        np.testing.assert_allclose(expect(y * t * u ** (t - 1), Z), bound, rtol=1e-6)
        kurtosis = (2 * t - 1) ** 2 / (4 * t - 3)
        np.testing.assert_allclose(expect(y**4, Z), kurtosis, rtol=1e-6)


@pytest.mark.parametrize(
    ("transform", "cosine"),
    [
        (StudentTail(5.0), 0.984),
        (SignedPower(1.5), 0.976),
        (SignedPower(2.0), 0.921),
        (SignedPower(3.0), 0.774),
        (TukeyH(0.2), 0.952),
        (SignedPower(0.5), 0.963),
        (ParetoTail(3.0, kind="pareto"), 0.929),
    ],
)
def test_fidelity(transform, cosine):
    # The cosine between a normal delta and its reparameterization.
    y = population(transform, Z)
    np.testing.assert_allclose(expect(y * Z, Z), cosine, atol=0.02)


def test_closed_kurtosis():
    for transform, expected in (
        (SignedPower(1.5), 15 / (8 / np.pi)),
        (SignedPower(2.0), 105 / 9),
        (TukeyH(0.1), 3 * 0.6**-2.5 / 0.8**-3),
        (LaplaceTail(), 6.0),
    ):
        y = population(transform, Z)
        np.testing.assert_allclose(expect(y**4, Z), expected, rtol=1e-5)


def test_optimal_coverage_of_a_random_sample(rng):
    # E max of T independent experts per coordinate, within four standard errors.
    t = 16
    x = rng.standard_normal((t, 50_000)).astype(np.float32)
    y = np.asarray(jax.vmap(lambda x: run(CoverageOptimal(t), x))(x))
    largest = np.abs(y).max(axis=0) / np.sqrt(np.mean(y**2))
    error = largest.std() / np.sqrt(largest.size)
    assert abs(largest.mean() - t / np.sqrt(2 * t - 1)) < 4 * error + 2e-3

"""Quantile functions against closed forms and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxmerge.transforms import quantiles

Z = np.linspace(1e-3, 8, 4001)
# P(|N(0, 1)| < z), and half of what is left.
INSIDE, TAIL = special.erf(Z / np.sqrt(2)), special.erfc(Z / np.sqrt(2)) / 2

student = jax.jit(quantiles.student_quantile)

CLOSED = {
    1: 1 / np.tan(np.pi * TAIL),
    2: INSIDE * np.sqrt(2 / (4 * TAIL * (1 - TAIL))),
    4: 2
    * np.sqrt(
        np.cos(np.arccos(np.sqrt(4 * TAIL * (1 - TAIL))) / 3)
        / np.sqrt(4 * TAIL * (1 - TAIL))
        - 1
    ),
}


@pytest.mark.parametrize("degrees", CLOSED)
def test_student_closed_forms(degrees):
    middle = slice(500, None) if degrees == 4 else slice(None)  # cancels near zero
    single = student(jnp.asarray(Z, jnp.float32), np.float32(degrees))
    np.testing.assert_allclose(single[middle], CLOSED[degrees][middle], rtol=6e-6)
    with jax.enable_x64(True):
        double = student(jnp.asarray(Z), np.float64(degrees))
    np.testing.assert_allclose(double[middle], CLOSED[degrees][middle], rtol=1e-7)


@pytest.mark.parametrize("degrees", [1.2, 1.5, 3.0, 5.0, 17.0, 300.0])
def test_student_quantiles_leave_the_same_tail(degrees):
    with jax.enable_x64(True):
        t = np.asarray(student(jnp.asarray(Z), np.float64(degrees)))
    beyond = special.betainc(degrees / 2, 0.5, degrees / (degrees + t**2)) / 2
    np.testing.assert_allclose(beyond, TAIL, rtol=1e-6)


def test_student_limits():
    z = jnp.asarray(Z, jnp.float32)
    np.testing.assert_array_equal(student(z, np.float32(np.inf)), z)
    np.testing.assert_array_equal(student(z, 0.3), student(z, 1.0))
    np.testing.assert_array_equal(student(jnp.zeros(1), 2.0), [0.0])


def stable(z, alpha):
    with jax.enable_x64(True):
        return np.asarray(quantiles.stable_quantile(jnp.asarray(z), alpha))


def test_stable_closed_forms():
    np.testing.assert_allclose(stable(Z, 1.0), 1 / np.tan(np.pi * TAIL), rtol=3e-6)
    np.testing.assert_allclose(stable(Z, 2.0), np.sqrt(2) * Z, rtol=1e-6)


@pytest.mark.parametrize("alpha", [1.05, 1.5, 1.9])
def test_stable_quantiles_leave_the_same_tail(alpha):
    z = np.array([0.1, 0.7, 1.3, 2.1])
    beyond = stats.levy_stable.sf(stable(z, alpha), alpha, 0)
    np.testing.assert_allclose(beyond, special.erfc(z / np.sqrt(2)) / 2, rtol=1e-4)
    # Far out, where SciPy's integral fails, the tail is a power law.
    power = np.sin(np.pi * alpha / 2) * special.gamma(alpha) / np.pi
    far = (power / TAIL[-1]) ** (1 / alpha)
    np.testing.assert_allclose(stable(Z[-1:], alpha), far, rtol=1e-6)
    assert np.all(np.diff(stable(Z, alpha)) > 0)


@pytest.mark.slow
def test_log_survival():
    expected = np.log(2) + special.log_ndtr(-Z)
    single = quantiles.log_survival(jnp.asarray(Z, jnp.float32))
    np.testing.assert_allclose(single, expected, rtol=2e-6)
    with jax.enable_x64(True):
        double = quantiles.log_survival(jnp.asarray(Z))
        slope = jax.vmap(jax.grad(quantiles.log_survival))(jnp.asarray(Z))
    np.testing.assert_allclose(double, expected, rtol=1e-11)
    hazard = np.exp(-(Z**2) / 2) * np.sqrt(2 / np.pi) / (2 * TAIL)
    np.testing.assert_allclose(slope, -hazard, rtol=1e-9)


def test_beyond_the_last_quantile_is_a_line():
    shape = lambda z: quantiles.student_quantile(z, 3.0)
    last, twice = quantiles.extended(shape, jnp.array([8.0, 16.0]))
    np.testing.assert_allclose(twice, 2 * last, rtol=1e-6)


@pytest.mark.slow
def test_median_magnitude(rng):
    with jax.enable_x64(True):
        x = rng.standard_normal(31)
        median = quantiles.median_magnitude(jnp.asarray(x))
        assert float(median) == np.median(np.abs(x))
        gradient = jax.grad(quantiles.median_magnitude)(jnp.asarray(x))
        at = np.argsort(np.abs(x))[15]
        np.testing.assert_array_equal(gradient, np.sign(x[at]) * (np.arange(31) == at))
    pair = jnp.array([1.0, -3.0])
    assert float(quantiles.median_magnitude(pair)) == 3.0  # the larger of the two


def test_units(rng):
    x = rng.standard_normal(1001).astype(np.float32)
    z, unit = quantiles.standardize(jnp.asarray(x), "robust")
    np.testing.assert_allclose(unit, np.median(np.abs(x)) / 0.67448975, rtol=1e-6)
    np.testing.assert_allclose(z, np.abs(x) / unit, rtol=1e-6)
    sparse = np.where(np.arange(1001) < 300, x, 0)
    rms = np.sqrt(np.mean(sparse.astype(np.float64) ** 2))
    for scale in ("robust", "rms", "rank"):  # more than half are zero
        unit = quantiles.standardize(jnp.asarray(sparse), scale)[1]
        np.testing.assert_allclose(unit, rms, rtol=1e-6)
        assert float(quantiles.standardize(jnp.zeros(5), scale)[1]) == 1.0


def test_normal_scores(rng):
    x = jnp.array([[3.0, -1.0], [0.5, 1.0]])
    u = np.array([[3.5, 2.0], [0.5, 2.0]]) / 4  # the tie shares its ranks
    expected = special.ndtri((1 + u) / 2)
    np.testing.assert_allclose(quantiles.normal_scores(x), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="robust"):
        jax.eval_shape(
            quantiles.normal_scores, jax.ShapeDtypeStruct((2**15, 2**15), jnp.float32)
        )

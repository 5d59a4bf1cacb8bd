"""From a tensor to normal scores, and from normal scores to other laws.

A heavy-tailed reparameterization reads a tensor's magnitudes as if they were those of
normal numbers, `z = |x| / unit`, and replaces each by the same quantile of another law.
Here are the two halves: `standardize` gives z, and a quantile function maps z to the
magnitude of a number under the other law with the same probability of being exceeded.

Quantile functions hold on `0 <= z <= LAST`, where the normal law leaves 1.2e-15 beyond,
and `extended` continues them along a straight line through the origin, so that they
stay increasing and finite for any tensor. Tables and series are built on the host in
float64, once, when a program that needs them is traced.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmerge import ranks
from jaxmerge._types import Coef
from jaxmerge.transforms.rescale import divide, norm

LAST = 8.0
_MEDIAN = 0.6744897501960817  # of the magnitude of a standard normal number
_SERIES = (40, 32)  # terms in 1 / degrees of freedom, and in z^2
_KNOTS = 2048


@jax.custom_jvp
def median_magnitude(x: Float[Array, "..."]) -> Float[Array, ""]:
    """The median of |x|, of the two in the middle the larger; differentiable."""
    return ranks.from_bits(ranks.kth_largest(x, (x.size + 1) // 2))


@median_magnitude.defjvp
def _median_magnitude_jvp(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    median = median_magnitude(x)
    at = jnp.abs(x) == median
    share = at.astype(x.dtype) / jnp.maximum(jnp.sum(at.astype(x.dtype)), 1.0)
    return median, jnp.sum(share * jnp.sign(x) * dx)


def root_mean_square(x: Float[Array, "..."]) -> Float[Array, ""]:
    """The root mean square of a tensor, differentiable at zero."""
    return norm(x, "l2") / np.sqrt(max(x.size, 1)).item()


def normal_scores(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The magnitude of a normal number of the same rank as |x|.

        z = Phi^-1((1 + u) / 2),    u = (rank of |x| + 1/2) / n

    Equal magnitudes get the mean of their ranks. It sorts the whole tensor: a hundred
    times slower than anything else here.
    """
    if x.size >= 2**30:
        raise ValueError(
            f'scale="rank" sorts the tensor and cannot rank {x.size} elements; '
            'use scale="robust"'
        )
    magnitudes = jnp.abs(x).reshape(-1)
    ordered = jnp.sort(magnitudes)
    first = jnp.searchsorted(ordered, magnitudes, side="left")
    last = jnp.searchsorted(ordered, magnitudes, side="right")
    beyond = (2 * x.size - first - last).astype(x.dtype)
    survival = beyond / (4.0 * max(x.size, 1))
    return -jax.scipy.special.ndtri(survival).reshape(x.shape)


def standardize(
    x: Float[Array, "..."], scale: str
) -> tuple[Float[Array, "..."], Float[Array, ""]]:
    """Magnitudes in units of the tensor's spread.

    Args:
      x: of any shape.
      scale: what the unit is: `"robust"`, median|x| / 0.6745, or the root mean square
        where the median is zero; `"rms"`, the root mean square; `"rank"`: z is the
        normal score of the rank, and the unit the root mean square.

    Returns:
      `(z, unit)`; unit is 1 for a tensor of zeros.
    """
    unit = root_mean_square(x)
    if scale == "robust":
        median = median_magnitude(x) if x.size else unit
        unit = jnp.where(median > 0, median / _MEDIAN, unit)
    elif scale not in ("rms", "rank"):
        raise ValueError(f'scale is {scale!r}; expected "robust", "rms" or "rank"')
    unit = jnp.where(unit > 0, unit, 1.0)
    return (normal_scores(x) if scale == "rank" else divide(jnp.abs(x), unit)), unit


def extended(shape: Callable[[Array], Array], z: Array) -> Array:
    """A quantile function up to `LAST`, and beyond it the line through the origin."""
    return shape(jnp.minimum(z, LAST)) * jnp.maximum(z / LAST, 1.0)


def log_survival(z: Float[Array, "..."]) -> Float[Array, "..."]:
    """The log of the probability that a normal number exceeds z in magnitude.

    Accurate relative to its size at both ends.
    """
    near = jnp.minimum(z, 1.0)
    far = jnp.maximum(z, 1.0)
    return jnp.where(
        z < 1.0,
        jnp.log1p(-jax.scipy.special.erf(near / np.sqrt(2.0).item())),
        jax.scipy.special.log_ndtr(-far) + np.log(2.0).item(),
    )


# --- Student's t: a series, so that the degrees of freedom may be traced -------------


def _nodes(n: int) -> np.ndarray:
    """Chebyshev's nodes moved to [0, 1]."""
    return 0.5 + 0.5 * np.cos(np.pi * (np.arange(n) + 0.5) / n)


def student_log_ratio(degrees: np.ndarray, z: np.ndarray) -> np.ndarray:
    """`log(t / z)` for the Student quantile t of normal scores z, in float64.

    Newton's method on the log of the survival function, or on the distribution function
    in the middle, from SciPy's quantile, which loses half its digits far out.
    """
    from scipy import special

    survival, inside = special.erfc(z / np.sqrt(2)), special.erf(z / np.sqrt(2))
    log_t = np.log(-special.stdtrit(degrees, survival / 2))
    constant = special.gammaln((degrees + 1) / 2) - special.gammaln(degrees / 2)
    for _ in range(6):
        t = np.exp(log_t)
        beyond = special.betainc(degrees / 2, 0.5, degrees / (degrees + t**2))
        within = special.betainc(0.5, degrees / 2, t**2 / (degrees + t**2))
        log_density = constant - 0.5 * np.log(degrees * np.pi)
        log_density = log_density - (degrees + 1) / 2 * np.log1p(t**2 / degrees)
        error = np.where(z > 1, np.log(beyond / survival) * beyond, inside - within)
        log_t = log_t + error / (2 * t * np.exp(log_density))
    return log_t - np.log(z)


@functools.lru_cache(maxsize=1)
def _student_series() -> np.ndarray:
    """Chebyshev coefficients of `degrees * log(t / z)` in `1 / degrees` and `z^2`."""
    inverse, squares = (_nodes(n) for n in _SERIES)
    values = (
        student_log_ratio(1 / inverse[:, None], LAST * np.sqrt(squares)[None, :])
        / (inverse[:, None])
    )
    for axis, n in enumerate(_SERIES):
        angles = np.pi * np.outer(np.arange(n), np.arange(n) + 0.5) / n
        transform = 2 / n * np.cos(angles)
        transform[0] /= 2
        values = np.moveaxis(np.tensordot(transform, values, (1, axis)), 0, axis)
    return values


def _chebyshev(coefficients: list[Array], x: Array) -> Array:
    """Clenshaw's sum of a Chebyshev series on [0, 1], written out so that it fuses."""
    doubled = 4.0 * x - 2.0
    ahead = after = jnp.zeros_like(doubled)
    for coefficient in reversed(coefficients[1:]):
        ahead, after = coefficient + doubled * ahead - after, ahead
    return coefficients[0] + 0.5 * doubled * ahead - after


def _chebyshev_rows(coefficients: Array, x: Array) -> Array:
    """The same for rows of coefficients at one point, as a loop."""
    doubled = 4.0 * x - 2.0

    def step(state: tuple[Array, Array], row: Array) -> tuple[Any, None]:
        ahead, after = state
        return (row + doubled * ahead - after, ahead), None

    zero = jnp.zeros_like(coefficients[0]) * x
    (ahead, after), _ = jax.lax.scan(step, (zero, zero), coefficients[:0:-1])
    return coefficients[0] + 0.5 * doubled * ahead - after


def student_quantile(
    z: Float[Array, "..."], degrees_of_freedom: Coef
) -> Float[Array, "..."]:
    """The magnitude of a Student number with the survival probability of a normal |z|.

        P(|t_nu| > t) = P(|N(0, 1)| > z)

    A Chebyshev series in 1 / nu and z^2 for log(t / z): relative error below 1e-7 in
    float64, 5e-6 in float32.

    Args:
      z: from 0 to `LAST`.
      degrees_of_freedom: nu, at least 1 (smaller is as 1); infinity is the identity. A
        number, differentiable.
    """
    nu = jnp.asarray(degrees_of_freedom).astype(z.dtype)
    inverse = 1.0 / jnp.maximum(nu, 1.0)
    series = _chebyshev_rows(jnp.asarray(_student_series(), z.dtype), inverse)
    terms = [series[i] for i in range(_SERIES[1])]
    return z * jnp.exp(inverse * _chebyshev(terms, jnp.square(z / LAST)))


# --- symmetric stable laws: a table for each exponent ---------------------------------


def _stable_survival(x: np.ndarray, alpha: float) -> np.ndarray:
    """P(X > x) for x > 0 of the symmetric stable law exp(-|t|^alpha), alpha > 1.

    Zolotarev's integral by the trapezoidal rule, in a variable that resolves both ends.
    """
    from scipy import special

    points = int(4000 * max(1.0, 0.1 / (alpha - 1)))
    y = np.linspace(-60, 60, points)
    theta, phi = np.pi / 2 * special.expit(y), np.pi / 2 * special.expit(-y)
    # cos(theta) = sin(phi); the angle alpha theta, mirrored where that is more exact.
    sine = np.where(
        alpha * theta < np.pi / 2,
        np.sin(alpha * theta),
        np.sin(np.pi * (1 - alpha / 2) + alpha * phi),
    )
    power = alpha / (alpha - 1)
    log_v = power * (np.log(np.sin(phi)) - np.log(sine))
    log_v += np.log(np.cos((alpha - 1) * theta)) - np.log(np.sin(phi))
    weights = 2 / np.pi**2 * theta * phi * (y[1] - y[0])
    exponent = np.minimum(power * np.log(x)[:, None] + log_v, 700.0)
    return np.exp(-np.exp(exponent)) @ weights


@functools.lru_cache(maxsize=16)
def stable_log_ratio(alpha: float) -> np.ndarray:
    """`log(y / z)` at equal steps of z from 0 to `LAST`, in float64.

    Args:
      alpha: the exponent, 1 (Cauchy), or from 1.01 to 2.
    """
    from scipy import interpolate, special

    knots = np.linspace(0, LAST, _KNOTS + 1)
    if alpha == 1:
        half = np.pi / 2 * special.erfc(knots[1:] / np.sqrt(2))
        ratio = -np.log(np.tan(half)) - np.log(knots[1:])
    else:
        tail = np.sin(np.pi * alpha / 2) * special.gamma(alpha) / np.pi
        farthest = max((max(tail, 0) / 1e-16) ** (1 / alpha), 14.0)
        x = np.concatenate(
            [np.geomspace(0.02, 14, 600), np.geomspace(14.05, max(farthest, 15), 400)]
        )
        survival = _stable_survival(x, alpha)
        keep = survival > 1e-18
        z = -special.ndtri(survival[keep])
        curve = interpolate.CubicSpline(
            np.concatenate([[0.0], z]),
            np.concatenate([[_stable_origin(alpha)], np.log(x[keep] / z)]),
            bc_type=((1, 0.0), (2, 0.0)),  # pyright: ignore[reportArgumentType]
        )
        ratio = curve(knots[1:])
    return np.concatenate([[_stable_origin(alpha)], ratio])


def _stable_origin(alpha: float) -> float:
    """The log ratio at z = 0, from the two densities there."""
    from scipy import special

    return float(np.log(np.sqrt(np.pi / 2)) - special.gammaln(1 + 1 / alpha))


def stable_quantile(z: Float[Array, "..."], alpha: float) -> Float[Array, "..."]:
    """The magnitude of a symmetric stable number with the survival of a normal |z|.

    A table of log(y / z), linear between 2049 knots.

    Args:
      z: from 0 to `LAST`.
      alpha: the exponent, 1 or from 1.01 to 2. Static: as alpha approaches 2 the far
        quantiles do not depend smoothly on it, so no one series serves all.
    """
    table = jnp.asarray(stable_log_ratio(alpha), z.dtype)
    position = z * (_KNOTS / LAST)
    low = jnp.clip(position.astype(jnp.int32), 0, _KNOTS - 1)
    fraction = position - low.astype(z.dtype)
    start, stop = table[low], table[low + 1]
    return z * jnp.exp(start + fraction * (stop - start))

"""Gaussian widths that are known: formulas and one-dimensional integrals.

These run on the host in float64, once, and are the truth that the Monte Carlo
estimators are tested against.
"""

import functools
import math
from typing import Any

import numpy as np
from jaxtyping import Array
from scipy import special

from jaxmerge.geometry.combinators import (
    Difference,
    MinkowskiSum,
    Product,
    Scale,
    Translate,
)
from jaxmerge.geometry.convex import ConvexSet
from jaxmerge.geometry.matrices import GroupL1Ball
from jaxmerge.geometry.sets import (
    Ball,
    Box,
    Ellipsoid,
    LpBall,
    Simplex,
    Subspace,
    WeightedL1Ball,
)
from jaxmerge.geometry.spans import Hull, SpanBall, SymmetricHull, Zonotope

_HALF_NORMAL = math.sqrt(2 / math.pi)


def _legendre(function: Any, low: float, high: float, pieces: int = 64) -> float:
    """Gauss-Legendre quadrature of 16 nodes on each of many equal pieces."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    edges = np.linspace(low, high, pieces + 1)
    half = (edges[1:] - edges[:-1])[:, None] / 2
    points = (edges[1:] + edges[:-1])[:, None] / 2 + half * nodes
    return float(np.sum(half * weights * function(points)))


def chi_mean(degrees: int) -> float:
    r"""The mean norm of a normal vector, `sqrt(2) Gamma((k + 1) / 2) / Gamma(k / 2)`.

    Args:
      degrees: its length k, at least 0.

    Example:
      >>> round(chi_mean(10), 6)
      3.084328
    """
    if degrees == 0:
        return 0.0
    if degrees > 10**6:  # where differences of log-gammas lose digits
        return math.sqrt(degrees) * (1 - 1 / (4 * degrees) + 1 / (32 * degrees**2))
    half = degrees / 2
    return math.sqrt(2) * math.exp(math.lgamma(half + 0.5) - math.lgamma(half))


def max_of_normals(num: int) -> float:
    r"""The mean of the largest of independent normal numbers: the simplex's width.

        E max = int_0^inf 1 - Phi(t)^T - Phi(-t)^T dt

    Args:
      num: T, at least 1.

    Example:
      >>> round(max_of_normals(3), 6)
      0.846284
    """
    if num == 1:
        return 0.0

    def outside(t: np.ndarray) -> np.ndarray:
        above = -np.expm1(num * special.log_ndtr(t))
        return above - np.exp(num * special.log_ndtr(-t))

    return _legendre(outside, 0.0, 12.0)


def max_of_magnitudes(num: int) -> float:
    r"""The mean of the largest magnitude of normal numbers: the l1 ball's width.

        E max |g_i| = int_0^inf 1 - (2 Phi(t) - 1)^d dt

    Args:
      num: d, at least 1; a billion is no problem.

    Example:
      >>> round(max_of_magnitudes(10**9), 4)
      6.1978
    """
    outside = lambda t: -np.expm1(num * np.log1p(-2 * special.ndtr(-t)))
    with np.errstate(divide="ignore"):
        return _legendre(outside, 0.0, 12.0)


def ellipsoid_width(
    semi_axes: np.ndarray | Array, multiplicity: np.ndarray | Array | None = None
) -> float:
    r"""The width of an ellipsoid, `E |r g|`, as one integral.

        w = 1/(2 sqrt(pi)) int_0^inf (1 - prod_i (1 + 2 s r_i^2)^(-m_i/2)) s^(-3/2) ds

    Args:
      semi_axes: r, at least 0.
      multiplicity: m, how many axes have each length; once each if None. So a spectral
        density serves as well as a spectrum.

    Example:
      >>> round(ellipsoid_width(1 / np.arange(1, 51)), 6)
      1.178207
    """
    squares = np.asarray(semi_axes, np.float64).ravel() ** 2
    times = np.ones_like(squares) if multiplicity is None else np.asarray(multiplicity)
    total = float(np.sum(times * squares))
    if total == 0:
        return 0.0
    # The trapezoidal rule in log s: an analytic integrand that decays at both ends.
    x = np.arange(-75.0, 75.0, 0.05)
    logs = np.zeros_like(x)
    for start in range(0, squares.size, 4096):
        some = squares[start : start + 4096] / total
        terms = np.log1p(2 * np.exp(x)[:, None] * some)
        logs += terms @ np.asarray(times[start : start + 4096], np.float64)
    integrand = -np.expm1(-0.5 * logs) * np.exp(-0.5 * x)
    return math.sqrt(total) * float(np.sum(integrand)) * 0.05 / (2 * math.sqrt(math.pi))


def _width_of_largest_group(groups: int, group_size: int) -> float:
    """The mean of the largest of independent chi variables."""
    inside = lambda t: special.gammainc(group_size / 2, t * t / 2)
    return _legendre(
        lambda t: 1 - inside(t) ** groups, 0.0, math.sqrt(group_size) + 12.0
    )


@functools.singledispatch
def exact_width(convex_set: ConvexSet) -> float:
    """The Gaussian width of a set whose width is known.

    Args:
      convex_set: of concrete numbers.

    Returns:
      The width, accurate to 10 digits or so.

    Raises:
      TypeError: where no formula is known; `gaussian_width` estimates it.

    Example:
      >>> from jaxmerge.geometry import LpBall
      >>> round(exact_width(LpBall(100, 1.0)), 6)
      2.746958
    """
    raise TypeError(
        f"no formula for the width of a {type(convex_set).__name__} is known here; "
        "estimate it with gaussian_width"
    )


@exact_width.register
def _(s: Ball) -> float:
    return float(s.radius) * chi_mean(s.dimension)


@exact_width.register
def _(s: Subspace) -> float:
    return float(s.bound) * chi_mean(s.basis.shape[0])


@exact_width.register
def _(s: Box) -> float:
    return _HALF_NORMAL * float(np.sum(np.asarray(s.half_widths, np.float64)))


@exact_width.register
def _(s: LpBall) -> float:
    known = {
        1.0: max_of_magnitudes,
        2.0: chi_mean,
        math.inf: lambda d: _HALF_NORMAL * d,
    }
    if s.p not in known:
        raise TypeError(
            f"no formula for the width of an l_p ball with p = {s.p} is known here; "
            "estimate it with gaussian_width"
        )
    return float(s.bound) * known[s.p](s.dimension)


@exact_width.register
def _(s: WeightedL1Ball) -> float:
    axes = np.asarray(s.semi_axes, np.float64).ravel()
    largest = axes.max(initial=0.0)
    if largest == 0:
        return 0.0
    axes = axes[axes > 0] / largest

    def outside(t: np.ndarray) -> np.ndarray:
        inside = np.log1p(-2 * special.ndtr(-t[..., None] / axes))
        return -np.expm1(inside.sum(axis=-1))

    with np.errstate(divide="ignore"):
        return largest * _legendre(outside, 0.0, 12.0)


@exact_width.register
def _(s: Simplex) -> float:
    return float(s.bound) * max_of_normals(s.dimension)


@exact_width.register
def _(s: Ellipsoid) -> float:
    return ellipsoid_width(s.semi_axes)


@exact_width.register
def _(s: GroupL1Ball) -> float:
    return float(s.bound) * _width_of_largest_group(s.groups, s.group_size)


@exact_width.register
def _(s: Zonotope) -> float:
    lengths = np.sum(np.asarray(s.norms(), np.float64))
    return _HALF_NORMAL * float(lengths) * (1.0 if s.symmetric else 0.5)


@exact_width.register
def _(s: SpanBall) -> float:
    values = np.linalg.eigvalsh(np.asarray(s.gram, np.float64))
    return ellipsoid_width(np.sqrt(np.maximum(values, 0.0)))


@exact_width.register(Hull)
@exact_width.register(SymmetricHull)
def _(s: Hull | SymmetricHull) -> float:
    gram = np.asarray(s.gram, np.float64)
    symmetric = isinstance(s, SymmetricHull)
    if len(gram) == 1:
        return _HALF_NORMAL * math.sqrt(gram[0, 0]) if symmetric else 0.0
    if len(gram) == 2:
        between = max(gram[0, 0] + gram[1, 1] - 2 * gram[0, 1], 0.0)
        across = max(gram[0, 0] + gram[1, 1] + 2 * gram[0, 1], 0.0)
        lengths = math.sqrt(between) + (math.sqrt(across) if symmetric else 0.0)
        return lengths / math.sqrt(2 * math.pi)
    raise TypeError(
        f"no formula for the width of a hull of {len(gram)} vectors is known here; "
        "estimate it with gaussian_width"
    )


@exact_width.register
def _(s: Scale) -> float:
    return abs(float(s.factor)) * exact_width(s.set)


@exact_width.register
def _(s: Translate) -> float:
    return exact_width(s.set)


@exact_width.register
def _(s: Difference) -> float:
    return 2 * exact_width(s.set)


@exact_width.register(MinkowskiSum)
@exact_width.register(Product)
def _(s: MinkowskiSum | Product) -> float:
    return sum(exact_width(part) for part in s.sets)

"""Conic intrinsic volumes: the law of a cone's random dimension, where it is known.

For a polyhedral cone, v_k is the probability that a normal point projects onto a face
of dimension k. The volumes of a product are a convolution, those of a polar are in
reverse, and exact kinematic formulas are sums of them. They run on the host in float64,
and arrays of them are indexed by k = 0, ..., d.
"""

import math
from typing import Any

import numpy as np
from scipy import special

from jaxmerge.geometry.cone import Polar, ProductCone
from jaxmerge.geometry.cones import (
    CircularCone,
    LinearSubspace,
    Orthant,
    SecondOrderCone,
)
from jaxmerge.geometry.descent import LInfDescentCone
from jaxmerge.geometry.monotone import MonotoneCone


def _binomial(num: int) -> np.ndarray:
    """The law of heads in fair tosses."""
    heads = np.arange(num + 1)
    log = special.gammaln(num + 1) - special.gammaln(heads + 1)
    return np.exp(log - special.gammaln(num - heads + 1) - num * math.log(2))


def _sum_of_bernoullis(probabilities: np.ndarray) -> np.ndarray:
    law = np.zeros(len(probabilities) + 1)
    law[0] = 1.0
    for count, p in enumerate(probabilities, start=1):
        law[1 : count + 1] = law[1 : count + 1] * (1 - p) + law[:count] * p
        law[0] *= 1 - p
    return law


def circular_intrinsic_volumes(dimension: int, angle: float) -> np.ndarray:
    r"""Intrinsic volumes of the circular cone.

        v_k = 1/2 binom((d - 2) / 2, (k - 1) / 2) sin^(k-1) angle cos^(d-k-1) angle

    for 1 <= k <= d - 1; v_d is the part of the sphere that the cone covers, v_0 that
    of its polar.

    Args:
      dimension: d, at least 1; in one dimension the cone is a ray.
      angle: between the axis and the boundary, in radians, in [0, pi / 2].

    Returns:
      v, `(dimension + 1,)`, float64.

    Raises:
      ValueError: if an argument is out of its range.

    Example:
      >>> circular_intrinsic_volumes(2, np.pi / 6).round(4)
      array([0.3333, 0.5   , 0.1667])

    References:
      Amelunxen, Lotz, McCoy, Tropp, Living on the edge, 2014, appendix D.
    """
    angle = float(angle)
    if dimension < 1:
        raise ValueError(f"the dimension is {dimension}; expected at least 1")
    if not 0 <= angle <= math.pi / 2 * (1 + 1e-6):
        raise ValueError(f"the angle is {angle}; expected radians in [0, pi / 2]")
    if dimension == 1:
        return np.array([0.5, 0.5])
    d, k = dimension, np.arange(1, dimension)
    sine, cosine = math.sin(angle), max(math.cos(angle), 0.0)
    gammas = special.gammaln(d / 2)
    gammas = gammas - special.gammaln((k + 1) / 2) - special.gammaln((d - k + 1) / 2)
    log = gammas + special.xlogy(k - 1, sine) + special.xlogy(d - k - 1, cosine)
    covered = special.betainc((d - 1) / 2, 0.5, [cosine**2, sine**2]) / 2
    return np.concatenate([covered[:1], np.exp(log) / 2, covered[1:]])


def rays_intrinsic_volumes(num_rays: int, dimension: int) -> np.ndarray:
    r"""Mean intrinsic volumes of the cone that random rays generate.

    For T independent standard normal generators the cone is the image of an orthant, so
    that v_k = binom(T, k) / 2^T for k < d, and what is left is v_d. Its statistical
    dimension is E min(Bin(T, 1/2), d), and it is the whole space with the probability
    P(Bin(T - 1, 1/2) >= d): half at T = 2 d (Wendel, Cover).

    Args:
      num_rays: T, at least 1.
      dimension: d, at least 1.

    Returns:
      v, `(dimension + 1,)`, float64.

    Example:
      >>> rays_intrinsic_volumes(3, 2)
      array([0.125, 0.375, 0.5  ])

    References:
      Amelunxen, Lotz, McCoy, Tropp, Living on the edge, 2014, section 5 (reconstruction
      of the image's volumes by the kinematic formula).
      Wendel, A problem in geometric probability, 1962.
    """
    if num_rays < 1 or dimension < 1:
        raise ValueError(
            f"{num_rays} rays in {dimension} dimensions; expected at least 1 of both"
        )
    law = _binomial(num_rays)
    volumes = np.zeros(dimension + 1)
    below = min(dimension, num_rays + 1)
    volumes[:below] = law[:below]
    volumes[dimension] += law[below:].sum()
    return volumes


def product_intrinsic_volumes(*factors: np.ndarray) -> np.ndarray:
    """Intrinsic volumes of a product of cones, from those of the factors.

    Args:
      *factors: arrays of volumes; none for the cone of a space of dimension 0.

    Example:
      >>> product_intrinsic_volumes(np.array([0.5, 0.5]), np.array([0.0, 1.0]))
      array([0. , 0.5, 0.5])
    """
    volumes = np.ones(1)
    for factor in factors:
        volumes = np.convolve(volumes, factor)
    return volumes


def intrinsic_volumes(cone: Any) -> np.ndarray:
    """The conic intrinsic volumes of a cone, where they are known.

    Args:
      cone: a subspace, orthant, circular, second-order, monotone or l_inf descent cone,
        or products and polars of these, with concrete numbers.

    Returns:
      v, `(dimension + 1,)`, float64: nonnegative numbers that sum to 1.

    Raises:
      ValueError: if no closed form is known here.

    Example:
      >>> from jaxmerge.geometry import MonotoneCone
      >>> intrinsic_volumes(MonotoneCone(3)).round(4)
      array([0.    , 0.3333, 0.5   , 0.1667])

    References:
      Amelunxen, Lotz, McCoy, Tropp, Living on the edge, 2014, section 5.1 and
      appendices C and D. The monotone cones are chambers of reflection groups, whose
      volumes are the coefficients of products of linear factors.
    """
    match cone:
        case LinearSubspace():
            return np.eye(cone.size + 1)[cone.basis.shape[0]]
        case Orthant():
            return _binomial(cone.dimension)
        case CircularCone():
            return circular_intrinsic_volumes(cone.dimension, float(cone.angle))
        case SecondOrderCone():
            return circular_intrinsic_volumes(cone.dimension, math.pi / 4)
        case MonotoneCone():
            p = 1 / np.arange(1.0, cone.dimension + 1)
            return _sum_of_bernoullis(p / 2 if cone.nonnegative else p)
        case LInfDescentCone():
            size = np.abs(np.asarray(cone.point))
            largest = int(np.sum(size == size.max())) if size.max() > 0 else 0
            free = cone.size - largest if largest else 0
            fixed = np.eye(cone.size - largest + 1)[free]
            return product_intrinsic_volumes(_binomial(largest), fixed)
        case Polar():
            return intrinsic_volumes(cone.cone)[::-1]
        case ProductCone():
            return product_intrinsic_volumes(*map(intrinsic_volumes, cone.cones))
    raise ValueError(
        f"the intrinsic volumes of a {type(cone).__name__} have no closed form here; "
        "projection_moments estimates their mean and variance"
    )


def volumes_mean(volumes: np.ndarray) -> float:
    """The mean of the random dimension, which is the statistical dimension.

    Args:
      volumes: conic intrinsic volumes, `(dimension + 1,)`.

    Example:
      >>> volumes_mean(np.array([0.25, 0.5, 0.25]))
      1.0
    """
    return float(np.arange(len(volumes)) @ volumes)


def volumes_variance(volumes: np.ndarray) -> float:
    """The variance of the random dimension.

    Args:
      volumes: conic intrinsic volumes, `(dimension + 1,)`.

    Example:
      >>> volumes_variance(np.array([0.25, 0.5, 0.25]))
      0.5
    """
    return float((np.arange(len(volumes)) - volumes_mean(volumes)) ** 2 @ volumes)


def volumes_tails(volumes: np.ndarray) -> np.ndarray:
    """The tails t_k = v_k + v_(k+1) + ..., the law of the random dimension.

    Args:
      volumes: conic intrinsic volumes, `(dimension + 1,)`.

    Returns:
      t, `(dimension + 2,)`, from t_0 = 1 to t_(d+1) = 0.

    Example:
      >>> volumes_tails(np.array([0.25, 0.5, 0.25]))
      array([1.  , 0.75, 0.25, 0.  ])
    """
    return np.append(np.cumsum(volumes[::-1])[::-1], 0.0)


def volumes_half_tails(volumes: np.ndarray) -> np.ndarray:
    """The half-tails h_k = v_k + v_(k+2) + v_(k+4) + ...

    They are what kinematic formulas are made of: a subspace of codimension m in general
    position meets a cone that is no subspace with probability 2 h_(m+1); for cones, the
    volumes are those of their product. Interlacing: t_(k+1) <= 2 h_(k+1) <= t_k.

    Args:
      volumes: conic intrinsic volumes, `(dimension + 1,)`.

    Returns:
      h, `(dimension + 2,)`, to h_(d+1) = 0.

    Example:
      >>> volumes_half_tails(np.array([0.25, 0.5, 0.25]))
      array([0.5 , 0.5 , 0.25, 0.  ])

    References:
      Amelunxen, Lotz, McCoy, Tropp, Living on the edge, 2014, section 5.4.
    """
    sums = np.append(np.asarray(volumes, np.float64), 0.0)
    for k in range(len(volumes) - 3, -1, -1):
        sums[k] += sums[k + 2]
    return sums

"""The exact probability that randomly rotated cones share a ray.

An expert's acceptable directions are a cone; a merge that satisfies all experts is a
ray in all of their cones. If the cones are turned independently and uniformly, the
chance that such a ray exists depends on each cone only through its intrinsic volumes
v_0, ..., v_d: the law of a random "dimension" V. Dimensions of a product add, so
sequences convolve, and the kinematic formula reads the answer off the convolution.

Everything is written in codimensions d - V, which add up from nothing: the sequence of
T cones is cut off at d, so a whole curve over T costs one convolution of length d + 1
an expert.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.scipy.special import gammaln
from jaxtyping import Array

from jaxmerge._checks import check_values
from jaxmerge.kinematics._inputs import (
    Numbers,
    as_floats,
    check_dimension,
)
from jaxmerge.kinematics._moments import bennett


def _check_volumes(volumes: Any, shape: str) -> None:
    if np.ndim(volumes) != (1 if shape.endswith(",)") else 2):
        raise ValueError(f"volumes has shape {np.shape(volumes)}; expected {shape}")
    if isinstance(volumes, Tracer):
        return
    values = np.asarray(volumes).astype(np.float64)
    even, odd = values[..., ::2].sum(-1), values[..., 1::2].sum(-1)
    # Gauss and Bonnet: both are 1/2; for a subspace, one is 1.
    gap = np.abs(even - odd)
    right = (np.abs(even + odd - 1) < 1e-3) & ((gap < 1e-3) | (gap > 1 - 1e-3))
    if not (np.all(values > -1e-5) and np.all(right)):
        raise ValueError(
            "volumes are no intrinsic volumes of convex cones: each row is nonnegative "
            "and sums to 1, its even entries to 1/2 (to 0 or 1 for a subspace); "
            f"the even entries sum to {even} and the odd ones to {odd}"
        )


def _is_subspace(volumes: Array) -> Array:
    return jnp.abs(volumes[..., ::2].sum(-1) - volumes[..., 1::2].sum(-1)) > 0.5


def _codimension_laws(volumes: Array) -> Array:
    """The law of the first T codimensions' sum, up to d; what is missing is beyond."""
    size = volumes.shape[-1]
    nothing = jnp.zeros_like(volumes[0]).at[0].set(1.0)

    def add(law: Array, codimensions: Array) -> tuple[Array, Array]:
        law = jnp.convolve(law, codimensions, precision="highest")[:size]
        return law, law

    return lax.scan(add, nothing, volumes[:, ::-1])[1]


def _share_a_ray(laws: Array, subspaces: Array) -> Array:
    """2 h_(d + 1 - codimension), or the step for subspaces only."""
    dimension = laws.shape[-1] - 1
    halves = 2 * laws[..., :dimension][..., ::-1][..., ::2].sum(-1)
    step = laws[..., :dimension].sum(-1)
    return jnp.clip(jnp.where(subspaces, step, halves), 0.0, 1.0)


def intersection_probabilities(volumes: Numbers) -> Array:
    """Probability that the first T of several randomly rotated cones share a ray.

        P{ C_1 ∩ Q_2 C_2 ∩ ... ∩ Q_T C_T ≠ {0} } = 2 h_((T-1)d+1)(C_1 x ... x C_T),
        h_k = v_k + v_(k+2) + ...

    Subspaces only, the probability is 0 or 1: whether their dimensions exceed (T-1)d.

    Args:
      volumes: intrinsic volumes, `(task, dim + 1)`; row t has v_0, ..., v_d of cone t.

    Returns:
      Probabilities for T = 1, ..., task, of shape `(task,)`. They never increase with
      T. The cost is `task * dim**2`.

    Raises:
      ValueError: if concrete rows are no intrinsic volumes.

    Example:
      >>> import jax.numpy as jnp
      >>> half_plane = jnp.array([0.0, 0.5, 0.5])
      >>> intersection_probabilities(jnp.stack([half_plane] * 4))
      Array([1.  , 1.  , 0.75, 0.5 ], dtype=float32)

    References:
      Amelunxen, Lotz, McCoy, Tropp, Living on the edge, 2014 (the conic
      kinematic formula); for T cones
      McCoy, Tropp, The achievable performance of convex demixing, 2013, Section 3.
    """
    _check_volumes(volumes, "(task, dim + 1)")
    (volumes,) = as_floats(volumes)
    subspaces = jnp.cumprod(_is_subspace(volumes).astype(jnp.int32)) == 1
    return _share_a_ray(_codimension_laws(volumes), subspaces)


def crofton_probability(volumes: Numbers, subspace_dimension: Numbers) -> Array:
    """Probability that a random subspace meets a cone in more than the origin.

        P{ C ∩ Q L_n ≠ {0} } = 2 h_(d-n+1)(C)

    Here a larger family of directions helps: n is the dimension of the search.

    Args:
      volumes: intrinsic volumes of the cone, `(dim + 1,)`.
      subspace_dimension: n, whole numbers in [0, dim], of any shape.

    Returns:
      Probabilities of the shape of `subspace_dimension`.

    Raises:
      ValueError: if a concrete input is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> quadrant = jnp.array([0.25, 0.5, 0.25])
      >>> crofton_probability(quadrant, jnp.array([0, 1, 2]))
      Array([0. , 0.5, 1. ], dtype=float32)

    References:
      Amelunxen, Lotz, McCoy, Tropp, Living on the edge, 2014 (the Crofton
      formula).
    """
    _check_volumes(volumes, "(dim + 1,)")
    (volumes,) = as_floats(volumes)
    dimension = volumes.shape[-1] - 1
    check_values(
        "subspace_dimension",
        subspace_dimension,
        lambda x: (x >= 0) & (x <= dimension) & (x == np.floor(x)),
        f"whole numbers from 0 to {dimension}",
    )
    first = dimension + 1 - jnp.asarray(subspace_dimension).astype(jnp.int32)[..., None]
    index = jnp.arange(dimension + 1, dtype=jnp.int32)
    beyond = index >= first
    halves = jnp.where(beyond & ((index - first) % 2 == 0), 2 * volumes, 0.0).sum(-1)
    step = jnp.where(beyond, volumes, 0.0).sum(-1)
    return jnp.clip(jnp.where(_is_subspace(volumes), step, halves), 0.0, 1.0)


def subspace_intersection(dimension: Numbers, subspace_dimensions: Numbers) -> Array:
    """Whether random subspaces share a line, almost surely: a step, not a transition.

        1{ sum of the codimensions d - n_i < d }

    Args:
      dimension: the ambient dimension d.
      subspace_dimensions: n_1, ..., n_T, `(task,)`.

    Returns:
      1.0 or 0.0 for the first T of them, T = 1, ..., task.

    Example:
      >>> import jax.numpy as jnp
      >>> subspace_intersection(10, jnp.array([8.0, 7.0, 6.0, 9.0]))
      Array([1., 1., 1., 0.], dtype=float32)
    """
    check_dimension("dimension", dimension)
    dimension, subspaces = as_floats(dimension, subspace_dimensions)
    used = jnp.cumsum(dimension - subspaces, axis=-1)
    return (used < dimension).astype(used.dtype)


def expected_sum_dimensions(volumes: Numbers) -> Array:
    """Expected statistical dimension of the sum of randomly rotated cones.

        E delta(Q_1 C_1 + ... + Q_T C_T) = E min(V_1 + ... + V_T, d)

    Almost linear in T up to a sharp knee where the statistical dimensions fill the
    space; its increments never increase.

    Args:
      volumes: intrinsic volumes, `(task, dim + 1)`.

    Returns:
      Dimensions for T = 1, ..., task, `(task,)`.

    Raises:
      ValueError: if concrete rows are no intrinsic volumes.

    Example:
      >>> import jax.numpy as jnp
      >>> ray = jnp.array([0.5, 0.5, 0.0])
      >>> expected_sum_dimensions(jnp.stack([ray] * 3))
      Array([0.5  , 1.   , 1.375], dtype=float32)

    References:
      Amelunxen, Lotz, Intrinsic volumes of polyhedral cones, 2017: from
      E v_k(C ∩ Q K) = v_(d+k)(C x K) for k >= 1, and polarity.
    """
    _check_volumes(volumes, "(task, dim + 1)")
    (volumes,) = as_floats(volumes)
    dimension = volumes.shape[-1] - 1
    laws = _codimension_laws(volumes[:, ::-1])
    missing = dimension - jnp.arange(dimension).astype(laws.dtype)
    return dimension - jnp.sum(laws[:, :dimension] * missing, axis=-1)


def expected_intersection_dimensions(volumes: Numbers) -> Array:
    """Expected statistical dimension of what randomly rotated cones have in common.

        E delta(Q_1 C_1 ∩ ... ∩ Q_T C_T) = E (V_1 + ... + V_T - (T - 1) d)_+

    Args:
      volumes: intrinsic volumes, `(task, dim + 1)`.

    Returns:
      Dimensions for T = 1, ..., task, `(task,)`.

    Raises:
      ValueError: if concrete rows are no intrinsic volumes.

    Example:
      >>> import jax.numpy as jnp
      >>> quadrant = jnp.array([0.25, 0.5, 0.25])
      >>> expected_intersection_dimensions(jnp.stack([quadrant] * 2))
      Array([1.   , 0.375], dtype=float32)

    References:
      Amelunxen, Lotz, Intrinsic volumes of polyhedral cones, 2017.
    """
    (volumes,) = as_floats(volumes)
    dimension = volumes.shape[-1] - 1
    return dimension - expected_sum_dimensions(volumes[..., ::-1])


def _stirling_error(n: Array) -> Array:
    """Log Gamma(n + 1) less Stirling's formula, which has no large terms to cancel."""
    small, large = jnp.clip(n, 1e-3, 16.0), jnp.maximum(n, 16.0)
    stirling = (small + 0.5) * jnp.log(small) - small + 0.5 * np.log(2 * np.pi)
    inverse = 1 / (large * large)
    terms = 1 / 12 - inverse * (1 / 360 - inverse * (1 / 1260 - inverse / 1680))
    return jnp.where(n < 16, gammaln(small + 1) - stirling, terms / large)


def wendel_probability(num_vectors: Numbers, dimension: int) -> Array:
    """Probability that random half-spaces share a ray: N of them in R^d.

        P = 2^(1-N) sum over k < d of C(N - 1, k)

    Equally: that N random vectors lie in one half-space. It is exactly 1/2 at N = 2d.

    Args:
      num_vectors: N, numbers of at least 1, of any shape; real numbers interpolate by
        the Gamma function.
      dimension: d, a whole number of at least 1.

    Returns:
      Probabilities of the shape of `num_vectors`; 1 for N <= d.

    Example:
      >>> import jax.numpy as jnp
      >>> [f"{p:.4f}" for p in wendel_probability(jnp.array([6, 9, 12, 15]), 6)]
      ['1.0000', '0.8555', '0.5000', '0.2120']

    References:
      Wendel, A problem in geometric probability, 1962; the terms are computed as in
      Loader, Fast and accurate computation of binomial probabilities, 2000.
    """
    check_values("num_vectors", num_vectors, lambda x: x >= 1, "numbers of at least 1")
    check_values(
        "dimension", dimension, lambda x: x >= 1, "a whole number of at least 1"
    )
    (num,) = as_floats(num_vectors)
    whole = jnp.arange(dimension).astype(num.dtype)
    n = jnp.maximum(num[..., None] - 1, dimension - 1 + 1e-3)
    half = n / 2
    # Stirling's formula has no value at 0, where the term is 2^-n: any k stands in.
    k = jnp.where(whole == 0, half, whole)
    skew = (k - half) / half
    log_term = -half * (bennett(skew) + bennett(-skew))
    log_term += _stirling_error(n) - _stirling_error(k) - _stirling_error(n - k)
    log_term += 0.5 * jnp.log(n / (2 * np.pi * k * (n - k)))
    log_term = jnp.where(whole == 0, -n * np.log(2.0), log_term)
    return jnp.where(num <= dimension, 1.0, jnp.exp(log_term).sum(-1))


def cover_capacity(dimension: Numbers) -> Array:
    """How many random half-spaces fill a space: 2d, where Wendel's probability is 1/2.

    Args:
      dimension: d, a number or an array.

    Returns:
      2d, of the same shape.

    Example:
      >>> float(cover_capacity(10))
      20.0

    References:
      Cover, Geometrical and statistical properties of systems of linear inequalities
      with applications in pattern recognition, 1965, Section IV.
    """
    check_dimension("dimension", dimension)
    (dimension,) = as_floats(dimension)
    return 2 * dimension

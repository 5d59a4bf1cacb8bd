"""Statistical dimension: how large a cone is, as a number of dimensions.

    delta(C) = E |project(g)|^2,    g ~ N(0, I)

Beside it, the variance of the cone's random dimension V, whose probabilities are the
conic intrinsic volumes: E V = delta and Var V = Var |project(g)|^2 - 2 delta.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jaxmerge._checks import check_key
from jaxmerge._types import PRNGKey, pytree
from jaxmerge.geometry import _samples
from jaxmerge.geometry.cone import Cone, Polar, ProductCone
from jaxmerge.geometry.cones import (
    CircularCone,
    LinearSubspace,
    Orthant,
    SecondOrderCone,
)
from jaxmerge.geometry.descent import LInfDescentCone
from jaxmerge.geometry.estimate import Estimate
from jaxmerge.geometry.monotone import MonotoneCone
from jaxmerge.geometry.semidefinite import PSDCone
from jaxmerge.geometry.volumes import intrinsic_volumes, volumes_mean


@pytree
class ProjectionMoments:
    """The first two moments of a cone's random dimension V.

    Attributes:
      dimension: E V, the statistical dimension.
      variance: Var V, between 0 and twice the lesser of E V and d - E V; its estimate
        may lie outside.

    Example:
      >>> ProjectionMoments(Estimate.exact(10.0), Estimate.exact(5.0)).variance.mean
      Array(5., dtype=float32, weak_type=True)
    """

    dimension: Estimate
    variance: Estimate


def _dtype(cone: Cone) -> jnp.dtype:
    """A cone without numbers is sampled in JAX's default float dtype."""
    if jax.tree.leaves(cone):
        return _samples.float_dtype(cone)
    return jnp.asarray(0.0).dtype


def _squared_norms(
    cone: Cone,
    key: PRNGKey,
    num_samples: int,
    method: str,
    batch_bytes: int,
    mesh: Mesh | None,
) -> Float[Array, " samples"]:
    """|project(g)|^2 of every sample; of g / |g| where the method is radial."""
    if method not in ("radial", "plain"):
        raise ValueError(f'method is {method!r}; expected "radial" or "plain"')
    check_key(key)
    shape, dtype = cone.shape, _dtype(cone)
    # While sampling the cone's numbers are traced: whatever there is to refuse about
    # them is refused here.
    jax.eval_shape(cone.project, jax.ShapeDtypeStruct(shape, dtype))

    def one(cone: Cone, key: PRNGKey) -> Array:
        g = jax.random.normal(key, shape, dtype)
        square = cone.squared_norm(g)
        return square / jnp.sum(g * g) if method == "radial" else square

    floats = 8 * cone.size + cone.workspace
    batch = _samples.batch_size(num_samples, floats, dtype, batch_bytes)
    return _samples.sample(one, cone, key, num_samples, batch=batch, mesh=mesh)


def statistical_dimension(
    cone: Cone,
    *,
    key: PRNGKey,
    num_samples: int,
    method: str = "radial",
    batch_bytes: int = _samples.BATCH_BYTES,
    mesh: Mesh | None = None,
) -> Estimate:
    r"""Estimates the statistical dimension of a closed convex cone.

        delta(C) = E |project(g)|^2 = d E |project(theta)|^2

    with g standard normal and theta uniform on the sphere. It is the dimension of a
    subspace; it is invariant under rotations and grows with the cone; those of a cone
    and its polar sum to d, those of factors to that of their product. `exact_dimension`
    has what is known without sampling.

    Args:
      cone: of this package, or any object with its methods.
      key: a typed key. Sample i draws from `fold_in(key, i)`: the samples do not depend
        on the mesh, on `batch_bytes` or on how many there are.
      num_samples: how many, at least two.
      method: `"radial"` uses that the length of g is known in law: the same mean with
        less variance, most of all in few dimensions. `"plain"` does not.
      batch_bytes: memory for the points that are computed at a time.
      mesh: whose devices share the samples.

    Returns:
      The dimension with its standard error, differentiable in the cone's numbers. It is
      sampled in float64 if one of them is, else in float32; a cone without numbers in
      JAX's default.

    Raises:
      ValueError: if the cone's numbers or the method are not what they have to be.

    Example:
      >>> import jax
      >>> from jaxmerge.geometry import Orthant
      >>> delta = statistical_dimension(
      ...     Orthant(20), key=jax.random.key(0), num_samples=4096
      ... )
      >>> bool(abs(delta.mean - 10) < 4 * delta.stderr)
      True

    References:
      Amelunxen, Lotz, McCoy, Tropp, Living on the edge: phase transitions in convex
      programs with random data, 2014, proposition 3.1.
    """
    squares = _squared_norms(cone, key, num_samples, method, batch_bytes, mesh)
    scale = cone.size if method == "radial" else 1
    return Estimate.from_samples(scale * squares, method=method)


def projection_moments(
    cone: Cone,
    *,
    key: PRNGKey,
    num_samples: int,
    method: str = "radial",
    batch_bytes: int = _samples.BATCH_BYTES,
    mesh: Mesh | None = None,
) -> ProjectionMoments:
    r"""Estimates the statistical dimension and the variance of the random dimension.

        Var V = Var |project(g)|^2 - 2 delta

    The variance sets how wide a phase transition is. It needs more samples than the
    dimension: of n, its standard error is about (2 delta + Var V) sqrt(2 / n), or less.

    Args:
      cone: of this package, or any object with its methods.
      key: a typed key; the samples are those of `statistical_dimension`.
      num_samples: how many, at least two.
      method: `"radial"` or `"plain"`.
      batch_bytes: memory for the points that are computed at a time.
      mesh: whose devices share the samples.

    Returns:
      Both with their standard errors, that of the variance by the delta method.

    Example:
      >>> import jax
      >>> from jaxmerge.geometry import Orthant
      >>> moments = projection_moments(
      ...     Orthant(20), key=jax.random.key(0), num_samples=4096
      ... )
      >>> bool(abs(moments.variance.mean - 5) < 4 * moments.variance.stderr)
      True

    References:
      McCoy and Tropp, From Steiner formulas for cones to concentration of intrinsic
      volumes, 2014, proposition 4.4.
    """
    x = _squared_norms(cone, key, num_samples, method, batch_bytes, mesh)
    # With R^2 ~ chi^2_d independent of u = |project(theta)|^2:
    # Var(R^2 u) = d (d + 2) E u^2 - d^2 (E u)^2.
    d = float(cone.size)
    scale, fourth = (d, (d + 2) / d) if method == "radial" else (1.0, 1.0)
    x = scale * x
    dimension = Estimate.from_samples(x, method=method)
    mean = dimension.mean
    # E (mean of x)^2 is stderr^2 too large; centred sums keep float32 exact.
    deviation = x - mean
    spread = jnp.sum(deviation**2) / (num_samples - 1)
    square = mean**2 - dimension.stderr**2
    variance = fourth * spread + (fourth - 1) * square - 2 * mean
    influence = fourth * deviation**2 + 2 * ((fourth - 1) * mean - 1) * deviation
    stderr = jnp.std(influence, ddof=1) / num_samples**0.5
    return ProjectionMoments(dimension, Estimate(variance, stderr, num_samples, method))


def _harmonic(n: int) -> float:
    return math.fsum(1 / k for k in range(1, n + 1))


def exact_dimension(cone: Any) -> float | None:
    """The statistical dimension of a cone where it is known.

    Args:
      cone: with concrete numbers.

    Returns:
      It, in float64 precision; None where no closed form is known here.

    Example:
      >>> from jaxmerge.geometry import MonotoneCone, Orthant, Polar
      >>> exact_dimension(Orthant(7)), exact_dimension(Polar(MonotoneCone(2)))
      (3.5, 0.5)

    References:
      Amelunxen, Lotz, McCoy, Tropp, Living on the edge, 2014, table 3.1.
    """
    match cone:
        case LinearSubspace():
            return float(cone.basis.shape[0])
        case Orthant() | SecondOrderCone():
            return cone.dimension / 2
        case CircularCone() | LInfDescentCone():
            return volumes_mean(intrinsic_volumes(cone))
        case MonotoneCone():
            return _harmonic(cone.dimension) / (2 if cone.nonnegative else 1)
        case PSDCone():
            return cone.order * (cone.order + 1) / 4
        case Polar():
            inner = exact_dimension(cone.cone)
            return None if inner is None else cone.size - inner
        case ProductCone():
            parts = [exact_dimension(factor) for factor in cone.cones]
            known = [part for part in parts if part is not None]
            return math.fsum(known) if len(known) == len(parts) else None
    return None

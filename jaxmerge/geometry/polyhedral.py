"""Cones of nonnegative combinations of vectors.

    C = pos{v_1, ..., v_T} = {sum_i a_i v_i : a >= 0}

A projection is a nonnegative least squares problem in T variables, which only knows the
vectors' Gram matrix. So in law, only that matters: T task vectors of a billion numbers
are replaced by the T rows of a factor of their Gram matrix.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from jaxmerge._checks import is_concrete
from jaxmerge._types import PRNGKey, pytree
from jaxmerge.geometry import _samples
from jaxmerge.geometry._nnls import NonnegativeSolution, nonnegative_least_squares
from jaxmerge.geometry.cone import Cone, Data
from jaxmerge.geometry.estimate import Estimate
from jaxmerge.geometry.spans import gram_factor


@pytree
class PolyhedralCone(Cone):
    r"""All nonnegative combinations of some vectors.

    A projection costs a few hundred products with the T x T Gram matrix. In float32 a
    Gram matrix has errors of 3e-7 relative to its largest entry: if its condition
    number is above 1e6, use float64.

    Attributes:
      generators: the vectors, `(T, dimension)`, at least one. They may be dependent,
        equal or zero.

    Example:
      >>> import jax.numpy as jnp
      >>> wedge = PolyhedralCone(jnp.array([[1.0, 0.0], [1.0, 1.0]]))
      >>> wedge.project(jnp.array([0.0, 2.0])).round(5)
      Array([1., 1.], dtype=float32)
    """

    generators: Data

    @classmethod
    def from_gram(cls, gram: Float[Array, "T T"]) -> "PolyhedralCone":
        """A cone whose generators have these angles, in T dimensions.

        Statistical dimensions and intrinsic volumes are those of every cone whose
        generators have this Gram matrix, in any space. Generators get length 1, which
        changes no cone; ones of length 0 stay.

        Args:
          gram: symmetric and positive semidefinite up to rounding, `(T, T)`.

        Raises:
          ValueError: if it is no Gram matrix.

        Example:
          >>> import jax.numpy as jnp
          >>> PolyhedralCone.from_gram(4 * jnp.eye(3)).shape
          (3,)
        """
        if is_concrete(gram):
            values = np.asarray(gram, np.float64)
            largest = np.max(np.abs(values), initial=0.0)
            if not np.all(np.isfinite(values)):
                raise ValueError("the Gram matrix holds numbers that are not finite")
            if np.max(np.abs(values - values.T), initial=0.0) > 1e-4 * largest:
                raise ValueError("the Gram matrix is not symmetric")
            lowest = np.linalg.eigvalsh(values)[0]
            if lowest < -1e-4 * len(values) * largest:
                raise ValueError(
                    f"the Gram matrix has an eigenvalue {lowest:.2e}: it is not that "
                    "of any vectors. Sum it in float32 or wider"
                )
        gram = jnp.asarray(gram)
        diagonal = jnp.diag(gram)
        some = diagonal > 0
        scale = jnp.where(some, lax.rsqrt(jnp.where(some, diagonal, 1.0)), 0.0)
        rows = gram_factor(gram * scale[:, None] * scale[None, :])
        return cls(jnp.where(some[:, None], rows, 0.0))

    @property
    def shape(self) -> tuple[int, ...]:
        shape = jnp.shape(self.generators)
        if len(shape) != 2 or 0 in shape:
            raise ValueError(
                f"the generators have shape {shape}; expected (T, dimension), a vector "
                "in each of at least one row. Flatten trees of parameters first"
            )
        return shape[1:]

    @property
    def workspace(self) -> int:
        return 4 * jnp.shape(self.generators)[0] ** 2

    @property
    def gram(self) -> Float[Array, "T T"]:
        """The generators' inner products."""
        highest = lax.Precision.HIGHEST
        return jnp.matmul(self.generators, self.generators.T, precision=highest)

    def compress(self) -> "PolyhedralCone":
        """The same cone in the least space that surely holds it, up to rotation.

        Returns:
          A cone with T generators in min(T, dimension) dimensions.

        Example:
          >>> import jax.numpy as jnp
          >>> PolyhedralCone(jnp.ones((3, 1000))).compress().shape
          (3,)
        """
        num, dimension = jnp.shape(self.generators)
        return self if num >= dimension else PolyhedralCone.from_gram(self.gram)

    def coefficients(self, g: Float[Array, " dimension"]) -> NonnegativeSolution:
        """The combination that is nearest to g, and whether that is certain.

        Args:
          g: one point, `(dimension,)`.

        Returns:
          `coefficients`, `(T,)`, one of the best if there are several; `certified`,
          whether the optimality conditions hold up to rounding.
        """
        check_finite(self.generators)
        generators = jnp.asarray(self.generators, g.dtype)
        highest = lax.Precision.HIGHEST
        products = jnp.matmul(generators, g, precision=highest)
        gram = jnp.matmul(generators, generators.T, precision=highest)
        return nonnegative_least_squares(gram, products)

    def _project(self, g: Array) -> Array:
        generators = jnp.asarray(self.generators, g.dtype)
        weights = self.coefficients(g).coefficients
        return jnp.matmul(weights, generators, precision=lax.Precision.HIGHEST)


def check_finite(generators: Array) -> None:
    """Refuses concrete generators with infinities or NaN."""
    if is_concrete(generators) and not np.all(np.isfinite(np.asarray(generators))):
        raise ValueError("the generators hold numbers that are not finite")


def uncertified_fraction(
    cone: PolyhedralCone,
    *,
    key: PRNGKey,
    num_samples: int,
    batch_bytes: int = _samples.BATCH_BYTES,
    mesh: Mesh | None = None,
) -> Estimate:
    """How often the projection of a normal point is not certified to be exact.

    `statistical_dimension` with the same key and number projects the same points. An
    uncertified projection still is a point of the cone, a little too short.

    Args:
      cone: the cone.
      key: a typed key.
      num_samples: how many points.
      batch_bytes: memory for the points that are computed at a time.
      mesh: whose devices share the points.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> cone = PolyhedralCone(jnp.eye(3))
      >>> uncertified_fraction(cone, key=jax.random.key(0), num_samples=20).mean
      Array(0., dtype=float32)
    """
    shape, dtype = cone.shape, _samples.float_dtype(cone)
    check_finite(cone.generators)

    def one(cone: PolyhedralCone, key: PRNGKey) -> Bool[Array, ""]:
        return cone.coefficients(jax.random.normal(key, shape, dtype)).certified

    floats = 8 * cone.size + cone.workspace
    batch = _samples.batch_size(num_samples, floats, dtype, batch_bytes)
    certified = _samples.sample(one, cone, key, num_samples, batch=batch, mesh=mesh)
    failed = (~certified).astype(dtype)
    return Estimate.from_samples(failed, method="certificate")

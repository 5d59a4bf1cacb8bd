"""Gaussian width: how large a set looks from a random direction.

w(S) = E sup_{x in S} <g, x>,    g ~ N(0, I)
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jaxmerge._types import PRNGKey, pytree
from jaxmerge.geometry import _samples
from jaxmerge.geometry._normals import normal
from jaxmerge.geometry.closed_forms import chi_mean
from jaxmerge.geometry.convex import ConvexSet, Data, norm
from jaxmerge.geometry.estimate import Estimate
from jaxmerge.geometry.spans import gram_factor


def gram_samples(
    gram: Array,
    *,
    key: PRNGKey,
    num_samples: int,
    symmetric: bool = False,
    method: str = "radial",
    batch_bytes: int = _samples.BATCH_BYTES,
    mesh: Mesh | None = None,
) -> Float[Array, "samples T"]:
    """Support functions of T vectors in the same random directions, from their Gram.

    These are what `subset_width`, `marginal_gains` and `greedy_order` make curves of.
    They cost T^2 operations a sample, whatever the dimension of the vectors. Vectors
    are taken about their mean, unless with their negatives: no width of a hull depends
    on where it lies, and what all vectors share would only be noise in it.

    Args:
      gram: `(T, T)`.
      key: a typed key.
      num_samples: how many directions.
      symmetric: for vectors together with their negatives.
      method: as for `width_samples`.
      batch_bytes: as for `width_samples`.
      mesh: as for `width_samples`.

    Returns:
      `<g, v_t - mean>`, or `|<g, v_t>|` if symmetric.

    Raises:
      ValueError: if the matrix is not square, or the method is unknown.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> gram_samples(jnp.eye(3), key=jax.random.key(0), num_samples=5).shape
      (5, 3)
    """
    _check_method(method)
    rows = gram_factor(gram)
    members = (_Vectors(rows if symmetric else rows - jnp.mean(rows, axis=0)),)
    samples = _heights(
        members, key, num=num_samples, method=method, batch_bytes=batch_bytes, mesh=mesh
    )[:, 0]
    return jnp.abs(samples) if symmetric else samples


@pytree
class _Vectors:
    """Vectors, each a set of its own: `support` gives one number for each."""

    vectors: Data
    extreme = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.vectors.shape[1:]

    @property
    def size(self) -> int:
        return self.vectors.shape[1]

    def support(self, g: Array) -> Array:
        return self.vectors @ g


# Compiled here, because nobody wants to run it otherwise: eagerly, a random number is
# a hundred small programs. Under the user's jit it is part of that.
@functools.partial(jax.jit, static_argnames=("num", "method", "batch_bytes", "mesh"))
def _heights(
    members: tuple[Any, ...],
    key: PRNGKey,
    *,
    num: int,
    method: str,
    batch_bytes: int,
    mesh: Mesh | None,
) -> Array:
    shape, size = members[0].shape, members[0].size
    dtype = _samples.float_dtype(members)
    extreme = any(s.extreme for s in members)

    def one(members: tuple[Any, ...], key: PRNGKey) -> Array:
        g = normal(key, shape, dtype, extreme=extreme)
        if method == "radial":
            g = g * (chi_mean(size) / norm(g))
        return jnp.stack([s.support(g) for s in members])

    batch = _samples.batch_size(num, 4 * size, dtype, batch_bytes)
    return _samples.sample(one, members, key, num, batch=batch, mesh=mesh)


def _check_method(method: str) -> None:
    if method not in ("radial", "plain"):
        raise ValueError(f'method is {method!r}; expected "radial" or "plain"')


def width_samples(
    sets: ConvexSet | Sequence[ConvexSet],
    *,
    key: PRNGKey,
    num_samples: int,
    method: str = "radial",
    batch_bytes: int = _samples.BATCH_BYTES,
    mesh: Mesh | None = None,
) -> Float[Array, "samples *sets"]:
    """Support functions in the same random directions, whose means are the widths.

    Sets that are given together see the same directions, so that their differences are
    known far better than each of them. Sample i draws from `fold_in(key, i)`: the
    samples do not depend on the mesh, on `batch_bytes` or on how many there are.

    Args:
      sets: one, or several in one space.
      key: a typed key.
      num_samples: how many directions.
      method: `"radial"` replaces the length of g by its mean, since h(g) is |g| times
        h of the direction: the same mean, never a larger variance, and much less of it
        in few dimensions. `"plain"` does not.
      batch_bytes: memory for the directions that are computed at a time.
      mesh: whose devices share the samples.

    Returns:
      `(num_samples,)`, or `(num_samples, len(sets))` for a sequence.

    Raises:
      ValueError: if the sets are not in one space, or the method is unknown.

    Example:
      >>> import jax
      >>> from jaxmerge.geometry import Ball, LpBall
      >>> pair = [Ball(8), LpBall(8, 1.0)]
      >>> width_samples(pair, key=jax.random.key(0), num_samples=4).shape
      (4, 2)
    """
    several = not isinstance(sets, ConvexSet)
    members: tuple[Any, ...] = tuple(sets) if several else (sets,)
    shapes = {s.shape for s in members}
    if len(shapes) != 1:
        raise ValueError(
            "widths with common directions are of sets in one space; these have points "
            f"of shapes {sorted(shapes)}"
        )
    _check_method(method)
    samples = _heights(
        members, key, num=num_samples, method=method, batch_bytes=batch_bytes, mesh=mesh
    )
    return samples if several else samples[:, 0]


def gaussian_width(
    convex_set: ConvexSet,
    *,
    key: PRNGKey,
    num_samples: int,
    method: str = "radial",
    batch_bytes: int = _samples.BATCH_BYTES,
    mesh: Mesh | None = None,
) -> Estimate:
    r"""Estimates the Gaussian width of a convex set, `E sup_{x in S} <g, x>`.

    It is the same for a set and its convex hull, for any translation and rotation;
    it is additive for Minkowski sums. `exact_width` has what is known without sampling.

    Args:
      convex_set: of this package, or any object with its methods.
      key: a typed key.
      num_samples: how many directions, at least two.
      method: `"radial"` or `"plain"`; see `width_samples`.
      batch_bytes: memory for the directions that are computed at a time.
      mesh: whose devices share the samples.

    Returns:
      The width with its standard error. It is differentiable in the set's numbers.

    Example:
      >>> import jax
      >>> from jaxmerge.geometry import Ball
      >>> width = gaussian_width(Ball(10), key=jax.random.key(0), num_samples=2)
      >>> round(float(width.mean), 4)
      3.0843

    References:
      Vershynin, High-Dimensional Probability, 2018, section 7.5.
    """
    samples = width_samples(
        convex_set,
        key=key,
        num_samples=num_samples,
        method=method,
        batch_bytes=batch_bytes,
        mesh=mesh,
    )
    return Estimate.from_samples(samples, method=method)


def width_error_bound(convex_set: ConvexSet, num_samples: int, alpha: Any) -> Any:
    r"""How far a plain mean of samples may be from the width, without asymptotics.

        P(|mean - w| > R sqrt(2 log(2 / alpha) / n)) <= alpha

    The support function is R-Lipschitz in g, with R the set's radius.

    Args:
      convex_set: the set.
      num_samples: n.
      alpha: the probability of being wrong, in (0, 1).

    Example:
      >>> from jaxmerge.geometry import Ball
      >>> round(float(width_error_bound(Ball(3), 1000, 0.05)), 4)
      0.0859

    References:
      Vershynin, High-Dimensional Probability, 2018, theorem 5.2.2.
    """
    return convex_set.radius * jnp.sqrt(2 * jnp.log(2 / alpha) / num_samples)

"""How smooth losses are: the constant L, measured at points and between them.

The bound wants a Lipschitz constant of each sample's gradient everywhere between the
models. What can be measured are curvatures at points, which are below it: take the
largest over the base, the experts, the merge and points between them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from jaxmerge._checks import check_key
from jaxmerge._types import PRNGKey, pytree
from jaxmerge.curvature import (
    Hessian,
    _vectors,
    hessian_vector_product,
    top_eigenpairs,
)
from jaxmerge.curvature.operators import _num_samples


@pytree
class Smoothness:
    """Curvatures of largest magnitude.

    Attributes:
      value: the largest of `values`.
      values: |lambda| of largest magnitude, at each point or of each sample.
      residuals: within so much of `values` there is an eigenvalue.
    """

    value: Any
    values: Any
    residuals: Any

    def quantile(self, q: Any) -> Array:
        """A quantile of `values`, for samples of which the worst is no guide."""
        return jnp.quantile(self.values, q)


def _check_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; expected at least 1")


def _largest(hessian: Hessian, key: Array, num_steps: int) -> tuple[Array, Array]:
    pairs = top_eigenpairs(hessian, key, 1, which="magnitude", num_steps=num_steps)
    return jnp.abs(pairs.values[0]), pairs.residuals[0]


def measure_smoothness(
    loss: Callable[..., Any],
    points: Sequence[PyTree],
    *data: Any,
    key: PRNGKey,
    num_steps: int = 20,
    batch_size: int | None = None,
) -> Smoothness:
    """The largest curvature of a loss at some points, in size.

        max over points of |lambda|_max(Hessian of f), by Lanczos

    A lower bound of L: the curvature may be larger elsewhere, and is larger for single
    samples (`measure_sample_smoothness`).

    Args:
      loss: `loss(params, *data)`, a mean over samples.
      points: models; see `between` for those on the segments between them.
      *data: pytrees of arrays.
      key: a typed key, for the start vector.
      num_steps: products with the Hessian at each point.
      batch_size: how many samples at a time; None for all at once.

    Returns:
      The curvatures, `(point,)`, and the largest of them.

    Raises:
      TypeError: if the key is no typed key, or params are no floats.
      ValueError: if there are no points, or a number is too small.

    Example:
      >>> loss = lambda x: jnp.sum(x**4) / 12
      >>> points = [jnp.array([1.0, 0.0]), jnp.array([3.0, 1.0])]
      >>> found = measure_smoothness(loss, points, key=jax.random.key(0))
      >>> [f"{value:.2f}" for value in found.values], f"{found.value:.2f}"
      (['1.00', '9.00'], '9.00')
    """
    check_key(key)
    _check_steps(num_steps)
    if not points:
        raise ValueError(
            "no points were given; a curvature is measured at one at least"
        )
    hessians = [
        hessian_vector_product(loss, point, *data, batch_size=batch_size)
        for point in points
    ]
    rows = jax.tree.map(lambda *x: jnp.stack(x), *(h.params for h in hessians))

    def one(params: PyTree) -> tuple[Array, Array]:
        return _largest(Hessian(loss, params, data, batch_size), key, num_steps)

    values, residuals = lax.map(one, rows)
    return Smoothness(jnp.max(values), values, residuals)


def between(a: PyTree, b: PyTree, num: int) -> list[PyTree]:
    """Points on the segment from a to b, evenly spaced, ends left out.

    Example:
      >>> [x.tolist() for x in between(jnp.zeros(1), jnp.ones(1), 3)]
      [[0.25], [0.5], [0.75]]
    """
    shares = [(at + 1) / (num + 1) for at in range(num)]
    return [jax.tree.map(lambda x, y, t=t: x + t * (y - x), a, b) for t in shares]


def measure_sample_smoothness(
    loss: Callable[..., Any],
    params: PyTree,
    *data: Any,
    key: PRNGKey,
    num_steps: int = 20,
    parallel_samples: int = 1,
) -> Smoothness:
    """The largest curvature of each sample's loss at one point.

    It is what the stability recursion asks for, and many times that of the mean loss.
    Give it a random part of the data; the largest of few samples is below the largest
    of all.

    Args:
      loss: `loss(params, *data)`, a mean over samples.
      params: where.
      *data: pytrees of arrays with one leading axis, of samples.
      key: a typed key, for the start vectors.
      num_steps: products with the Hessian for each sample.
      parallel_samples: how many samples at a time.

    Returns:
      The curvatures, `(sample,)`, their largest, and with `quantile` any quantile.

    Raises:
      TypeError: if the key is no typed key, or params are no floats.
      ValueError: if leading axes differ, or a number is too small.

    Example:
      >>> loss = lambda x, scale: jnp.mean(scale) * x @ x / 2
      >>> scales = jnp.array([1.0, 2.0, 6.0])
      >>> found = measure_sample_smoothness(
      ...     loss, jnp.ones(2), scales, key=jax.random.key(0)
      ... )
      >>> f"{found.value:.1f}, {found.quantile(0.5):.1f}"
      '6.0, 2.0'
    """
    check_key(key)
    _check_steps(num_steps)
    params = _vectors.as_parameters(params)
    num = _num_samples(data, "data")

    def one(index: Array) -> tuple[Array, Array]:
        sample = jax.tree.map(lambda x: jnp.asarray(x)[index][None], data)
        hessian = Hessian(loss, params, sample)
        return _largest(hessian, jax.random.fold_in(key, index), num_steps)

    values, residuals = lax.map(one, jnp.arange(num), batch_size=parallel_samples)
    return Smoothness(jnp.max(values), values, residuals)


def secant_smoothness(
    gradient_at_a: PyTree, gradient_at_b: PyTree, a: PyTree, b: PyTree
) -> Array:
    """How much the gradient changes between two models, for each unit of distance.

        |grad f(b) - grad f(a)| / |b - a| <= L

    Args:
      gradient_at_a: of one loss at a.
      gradient_at_b: of that loss at b.
      a: a model, say the base.
      b: another, say an expert.

    Returns:
      A scalar; 0 where both models are one.

    Raises:
      ValueError: if trees differ.

    Example:
      >>> a, b = jnp.zeros(2), jnp.array([1.0, 0.0])
      >>> float(secant_smoothness(2 * a, 2 * b, a, b))
      2.0
    """
    for tree in (gradient_at_a, gradient_at_b, b):
        _vectors.check_vector(tree, _vectors.as_parameters(a))
    subtract = lambda x, y: jax.tree.map(jnp.subtract, x, y)
    change = _vectors.norm(subtract(gradient_at_b, gradient_at_a))
    length = _vectors.norm(subtract(b, a))
    return jnp.where(length > 0, change / jnp.where(length > 0, length, 1.0), 0.0)

r"""The loss of every merge from the experts alone: no merge is made or evaluated.

A merge theta_0 + (c/k) sum of k task vectors is a mean, with weights w that sum to one,
of known points x_i: the base (weight 1 - c) and its members (c/k each). Around y, the
first-order terms of a mean of expansions from the x_i cancel, so that

    L(y) = sum_i w_i (L_i - a g_i^T (x_i - y) + b (x_i - y)^T H_i (x_i - y))

is exact for quadratics with (a, b) = (1/2, 0), and for cubics with (2/3, 1/6): the only
pair that removes the second and the third order. Inner products of task vectors with
gradients and Hessian-vector products at the M + 1 points tell the loss of all 2^M
merges, for every c; their mean over subsets of k has a closed form.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxmerge._types import pytree
from jaxmerge.curvature import _vectors, hessian_vector_product
from jaxmerge.laws.theory import task_vectors

_RULES = {2: (0.5, 0.0), 3: (2 / 3, 1 / 6)}


@pytree
class Expansion:
    """Values, slopes and curvatures at the experts and the base.

    Attributes:
      losses: `(task + 1,)`; the base's last, as in the others.
      slopes: `(task + 1, task)`: gradients times task vectors.
      curvatures: `(task + 1, task, task)`: task vectors, Hessian, task vectors.
    """

    losses: Any
    slopes: Any
    curvatures: Any

    @property
    def pool(self) -> int:
        """M."""
        return self.slopes.shape[-1]

    def predict(
        self, members: Any, *, scale: Any = 1.0, order: int = 3
    ) -> Float[Array, "*subset"]:
        """The loss of the merges of some subsets.

        Args:
          members: which experts take part, booleans `(*subset, task)`, at least one in
            each subset.
          scale: c, what the coefficients sum to.
          order: 2 (values and gradients) or 3 (curvatures too): up to which the
            prediction is exact.
        """
        first, second = _rule(order)
        weights = jnp.asarray(members, self.losses.dtype)
        inside = weights.sum(axis=-1, keepdims=True)
        scale = jnp.asarray(scale, weights.dtype)
        parts = scale * weights / jnp.maximum(inside, 1)
        # x_i - y in coordinates of the task vectors, (..., node, task).
        nodes = jnp.concatenate([jnp.eye(self.pool), jnp.zeros((1, self.pool))])
        offsets = nodes.astype(weights.dtype) - parts[..., None, :]
        values = (
            self.losses
            - first * jnp.sum(self.slopes * offsets, axis=-1)
            + second
            * jnp.einsum("...ij,ijl,...il->...i", offsets, self.curvatures, offsets)
        )
        rest = jnp.broadcast_to(1 - scale, (*parts.shape[:-1], 1))
        return jnp.sum(jnp.concatenate([parts, rest], axis=-1) * values, axis=-1)

    def mean(
        self, k: Any, *, scale: Any = 1.0, order: int = 3
    ) -> Float[Array, " count"]:
        """The mean prediction over all subsets of each size, in closed form.

        Args:
          k: `(count,)` numbers of experts, from 1 to M.
          scale: c.
          order: 2 or 3.
        """
        first, second = _rule(order)
        scale = jnp.asarray(scale, self.losses.dtype)
        return jax.vmap(lambda n: self._mean(n, scale, first, second))(
            jnp.asarray(k, self.losses.dtype)
        )

    def _mean(self, k: Array, scale: Array, first: float, second: float) -> Array:
        """E over subsets that have expert i: of x_i - y, and of its outer product."""
        pool, others = self.pool, max(self.pool - 1, 1)
        part = scale / k
        one = (k - 1) / others  # that another expert is in the subset
        two = one * (k - 2) / max(self.pool - 2, 1)  # that two others are
        same = jnp.eye(pool, dtype=self.losses.dtype)
        own = 1 - part
        mean = own * same - part * one * (1 - same)
        experts = self.losses[:-1] - first * jnp.sum(self.slopes[:-1] * mean, axis=-1)
        if second:
            # Outer products: [i, i], [i, j], [j, j] and [j, l] with i, j, l different.
            a = same[:, :, None] * same[:, None, :]
            b = same[:, :, None] * (1 - same)[:, None, :]
            c = (1 - same)[:, :, None] * same[None]
            d = (1 - same)[:, :, None] * (1 - same)[:, None, :] * (1 - same)[None]
            outer = own**2 * a + part**2 * (one * c + two * d)
            outer = outer - own * part * one * (b + jnp.swapaxes(b, -1, -2))
            experts += second * jnp.sum(self.curvatures[:-1] * outer, axis=(-2, -1))
        return scale * jnp.mean(experts) + (1 - scale) * self._base(
            k, scale, first, second
        )

    def _base(self, k: Array, scale: Array, first: float, second: float) -> Array:
        pool = self.pool
        part = scale / k
        slope = -scale * jnp.mean(self.slopes[-1])
        curve = self.curvatures[-1]
        diagonal = jnp.trace(curve)
        rest = jnp.sum(curve) - diagonal
        pair = (k / pool) * (k - 1) / max(pool - 1, 1)
        bend = part**2 * (k / pool * diagonal + pair * rest)
        return self.losses[-1] - first * slope + second * bend

    def variance(self, k: Any, *, scale: Any = 1.0) -> Float[Array, " count"]:
        """The variance over subsets, to first order around the merge of all experts.

            c^2 a^T S a (1/k - 1/M)

        The gradient a is predicted by the mean of the experts' and the base's, with
        weights c/M and 1 - c: exact for quadratics.

        Args:
          k: `(count,)`.
          scale: c.
        """
        pool = self.pool
        scale = jnp.asarray(scale, self.losses.dtype)
        slopes = scale * jnp.mean(self.slopes[:-1], axis=0)
        slopes = slopes + (1 - scale) * self.slopes[-1]
        spread = jnp.sum((slopes - jnp.mean(slopes)) ** 2) / max(pool - 1, 1)
        k = jnp.asarray(k, self.losses.dtype)
        return scale**2 * spread * (1 / k - 1 / pool)


def _rule(order: int) -> tuple[float, float]:
    if order not in _RULES:
        raise ValueError(f"order is {order}; expected 2 or 3")
    return _RULES[order]


def expand(
    loss: Callable[[PyTree], Array], base: PyTree, experts: Sequence[PyTree]
) -> Expansion:
    """Measures a loss at the experts and the base: M + 1 gradients, (M + 1) M products.

    Args:
      loss: of parameters; smooth. Often the mean of the losses on all tasks.
      base: float32 or float64.
      experts: M trees like the base. All task vectors are held, and the products of one
        point with all of them.

    Returns:
      The expansion; jit this function, for it does nothing twice only then.

    Raises:
      TypeError: if a leaf is not of float32 or float64.
      ValueError: if there are no experts, or trees do not fit.

    Example:
      >>> cubic = lambda x: jnp.sum(x**3 + x**2)
      >>> experts = [jnp.array([1.0, 2.0]), jnp.array([-1.0, 4.0])]
      >>> found = expand(cubic, jnp.zeros(2), experts)
      >>> predicted = found.predict(jnp.array([True, True]))
      >>> round(float(predicted), 4), float(cubic(jnp.array([0.0, 3.0])))
      (36.0, 36.0)

    References:
      A reconstruction: Taylor's theorem around each expert; quadrature rules with
      derivatives at the nodes (Davis, Rabinowitz, Methods of Numerical Integration,
      1984, section 2.8) are its nearest relatives.
    """
    base, rows = task_vectors(base, experts)

    def at(delta: PyTree) -> tuple[Array, Array, Array]:
        point = jax.tree.map(jnp.add, base, delta)
        value, gradient = jax.value_and_grad(loss)(point)
        hessian = hessian_vector_product(loss, point)
        bends = jax.lax.map(
            lambda v: _vectors.inner_rows(rows, hessian.matvec(v)), rows
        )
        return value, _vectors.inner_rows(rows, gradient), bends

    nodes = jax.tree.map(lambda x: jnp.concatenate([x, jnp.zeros_like(x[:1])]), rows)
    return Expansion(*jax.lax.map(at, nodes))

r"""The law from a loss and its curvature: the floor and the tail that theory predicts.

For a loss that is quadratic where merges of all k-subsets of a pool of M lie,

    E[L | k] = L(theta_0 + c v) + A (1/k - 1/M),    A = c^2 tr(H S) / 2

exactly, with v the mean and S the covariance (divisor M - 1) of the task vectors and H
the Hessian. The offset is 0, and the floor L(theta_0 + c v) - A / M is that of an
unlimited population. The variance over subsets is c^2 a^T S a (1/k - 1/M) to first
order, a the gradient at theta_0 + c v.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxmerge._types import pytree, static
from jaxmerge.curvature import _vectors, hessian_vector_product
from jaxmerge.laws.curves import Curve, FinitePool

AT = ("mean", "base")


def task_vectors(base: PyTree, experts: Sequence[PyTree]) -> tuple[PyTree, PyTree]:
    """The base as float arrays, and expert - base as rows: leaves `(task, ...)`.

    Raises:
      TypeError: if a leaf is not of float32 or float64.
      ValueError: if there are no experts, or a tree does not fit the base's.
    """
    base = _vectors.as_parameters(base)
    if not len(experts):
        raise ValueError("no experts were given; a law of merging takes at least one")
    for expert in experts:
        _vectors.check_vector(expert, base)
    rows = jax.tree.map(lambda b, *xs: jnp.stack([x - b for x in xs]), base, *experts)
    return base, rows


@pytree
class Tail:
    """What theory predicts of a pool of experts.

    Attributes:
      loss_of_all: L(theta_0 + c v) by second order around where the curvature was
        taken: the loss of the merge of all M; exact if that is the mean.
      amplitude: A = c^2 tr(H S) / 2.
      variance_amplitude: c^2 a^T S a.
      contributions: `(task,)`: expert i's share of the amplitude,
        c^2 u_i^T H u_i / (2 (M - 1)), with u_i its deviation from the mean.
      pool: M.
    """

    loss_of_all: Any
    amplitude: Any
    variance_amplitude: Any
    contributions: Any
    pool: int = static()

    @property
    def curve(self) -> Curve:
        """The law, with offset 0 and the floor of an unlimited population."""
        return Curve(self.loss_of_all - self.amplitude / self.pool, self.amplitude, 0.0)

    @property
    def variance(self) -> FinitePool:
        """Of the loss over subsets, to first order."""
        return FinitePool(self.variance_amplitude, self.pool)


def predict_tail(
    loss: Callable[[PyTree], Array],
    base: PyTree,
    experts: Sequence[PyTree],
    *,
    scale: Any = 1.0,
    at: str = "mean",
) -> Tail:
    r"""Floor and tail of the law, from M + 1 Hessian-vector products.

        tr(H S) = sum_i u_i^T H u_i / (M - 1),    u_i = tau_i - mean(tau)

    Args:
      loss: of parameters; smooth.
      base: theta_0, float32 or float64.
      experts: M >= 2 trees like the base.
      scale: c, what the merge's coefficients sum to: 1 for an average.
      at: where gradient and curvature are taken: `"mean"`, at the merge of all
        experts, or `"base"`, which needs no merge and pays with an error of third
        order.

    Returns:
      The tail; jit it, for it is a program of M + 1 products.

    Raises:
      TypeError: if a leaf is not of float32 or float64.
      ValueError: if there are fewer than two experts, or trees do not fit.

    Example:
      >>> square = lambda x: jnp.sum(x**2)
      >>> tail = predict_tail(square, jnp.zeros(2), list(2 * jnp.eye(2)))
      >>> float(tail.curve(1)), float(tail.curve(2))
      (4.0, 2.0)

    References:
      Model Merging Scaling Laws in Large Language Models, 2025, Thm. 3.1 and Cor. 3.2.
      That 1/k becomes 1/k - 1/M in a pool is a reconstruction, from sampling without
      replacement (Cochran, Sampling Techniques, 1977, Thm. 2.2).
    """
    if at not in AT:
        raise ValueError(f"at is {at!r}; expected one of {', '.join(AT)}")
    base, rows = task_vectors(base, experts)
    pool = len(experts)
    if pool < 2:
        raise ValueError("one expert has no spread; the tail takes two or more")
    mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), rows)
    deviations = jax.tree.map(lambda x, m: x - m, rows, mean)
    factor = jnp.asarray(scale, _vectors.scalar_dtype(base))
    shift = _vectors.scaled(mean, factor)
    point = jax.tree.map(jnp.add, base, shift) if at == "mean" else base
    value, gradient = jax.value_and_grad(loss)(point)
    hessian = hessian_vector_product(loss, point)
    if at == "base":
        curved = hessian.matvec(shift)
        value += _vectors.inner(gradient, shift) + _vectors.inner(shift, curved) / 2
        gradient = jax.tree.map(jnp.add, gradient, curved)
    bends = jax.lax.map(lambda u: _vectors.inner(u, hessian.matvec(u)), deviations)
    slopes = _vectors.inner_rows(deviations, gradient)
    contributions = factor**2 * bends / (2 * (pool - 1))
    return Tail(
        loss_of_all=value,
        amplitude=jnp.sum(contributions),
        variance_amplitude=factor**2 * jnp.sum(slopes**2) / (pool - 1),
        contributions=contributions,
        pool=pool,
    )

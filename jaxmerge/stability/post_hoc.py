"""What a merge costs its experts, from the models alone: any merge rule, no settings.

For experts that have converged the bound is curvature times `dispersion`, the mean
squared distance from the merge to the experts, which their Gram matrix gives. It grows
with the square of the training length: over-trained experts are far from any average.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxmerge._checks import check_values
from jaxmerge._types import pytree
from jaxmerge.curvature import _vectors
from jaxmerge.kinematics._inputs import Numbers, as_floats
from jaxmerge.stability.spec import num_experts, weights_of


@pytree
class PostHoc:
    """What `post_hoc_bound` finds; sums are weighted by the target weights.

    Attributes:
      first_order: <grad f_i(x_i), x_m - x_i>, `(task,)`.
      second_order: L_i |x_m - x_i|^2 / 2, `(task,)`.
      bound: the weighted sum of both.
      rise: sum p_i (f_i(x_m) - f_i(x_i)), as it is.
      dispersion: V = sum p_i |x_m - x_i|^2.
    """

    first_order: Any
    second_order: Any
    bound: Any
    rise: Any
    dispersion: Any


def _difference(a: PyTree, b: PyTree, name: str) -> PyTree:
    try:
        _vectors.check_vector(b, a)
    except ValueError as error:
        raise ValueError(f"{name} is no model like the merged one: {error}") from error
    return jax.tree.map(jnp.subtract, a, b)


def _models(experts: Sequence[PyTree], merged: PyTree) -> tuple[list[PyTree], PyTree]:
    if not experts:
        raise ValueError("no experts were given; a merge has at least one")
    return [_vectors.as_parameters(x) for x in experts], _vectors.as_parameters(merged)


def dispersion(
    experts: Sequence[PyTree], merged: PyTree, *, target_weights: Numbers = None
) -> Array:
    """How far experts are from their merge, V = sum p_i |x_m - x_i|^2.

    Smallest for the average with weights p.

    Args:
      experts: N models.
      merged: a model like them, by any rule.
      target_weights: p_i, of sum 1; by default 1 / N.

    Returns:
      A scalar.

    Raises:
      ValueError: if models are not alike, or weights do not sum to 1.

    Example:
      >>> float(dispersion([jnp.zeros(2), jnp.ones(2)], jnp.full(2, 0.5)))
      0.5
    """
    experts, merged = _models(experts, merged)
    apart = [
        _difference(merged, expert, f"expert {t}") for t, expert in enumerate(experts)
    ]
    squares = jnp.stack([_vectors.inner(x, x) for x in apart])
    weights = weights_of(target_weights, len(experts))
    return jnp.sum(jnp.asarray(weights).astype(squares.dtype) * squares)


def gram_dispersion(
    gram: Numbers, *, coefficients: Numbers = None, target_weights: Numbers = None
) -> Array:
    """The dispersion of a linear merge, from inner products of task vectors alone.

        V = sum p_i (alpha - e_i)^T K (alpha - e_i)

    Args:
      gram: K, of the task vectors, `(task, task)`.
      coefficients: alpha_i; by default the target weights.
      target_weights: p_i, of sum 1; by default 1 / N.

    Returns:
      A scalar.

    Raises:
      ValueError: if shapes do not fit.

    Example:
      >>> float(gram_dispersion(jnp.eye(2)))
      0.5
    """
    shape = jnp.shape(gram)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"gram has shape {shape}; expected `(task, task)`")
    num_experts(
        gram=jnp.diagonal(jnp.asarray(gram)),
        coefficients=coefficients,
        target_weights=target_weights,
    )
    weights = weights_of(target_weights, shape[0])
    chosen = weights if coefficients is None else coefficients
    kernel, alphas, weights = as_floats(gram, chosen, weights)
    alphas = jnp.broadcast_to(alphas, shape[:1])
    apart = alphas[None, :] - jnp.eye(shape[0], dtype=kernel.dtype)
    squares = jnp.einsum("is,st,it->i", apart, kernel, apart, precision="highest")
    return jnp.sum(weights * jnp.maximum(squares, 0.0))


def post_hoc_bound(
    experts: Sequence[PyTree],
    merged: PyTree,
    losses: Sequence[Callable[[PyTree], Any]],
    smoothness: Numbers,
    *,
    target_weights: Numbers = None,
) -> PostHoc:
    """A bound of what experts lose by a merge, whatever its rule.

        sum p_i (f_i(x_m) - f_i(x_i))
            <= sum p_i <grad f_i(x_i), x_m - x_i> + sum p_i L_i |x_m - x_i|^2 / 2

    A reconstruction (R3); it is the descent lemma at each expert. It holds if L_i
    bounds the curvature of f_i between x_i and x_m.

    Args:
      experts: N models x_i.
      merged: x_m, a model like them.
      losses: f_i of parameters, one for each expert, scalars.
      smoothness: L_i, `(task,)` or one number.
      target_weights: p_i, of sum 1; by default 1 / N.

    Returns:
      Both terms for each expert, their sum, and the rise that it bounds.

    Raises:
      TypeError: if parameters are no floats of at least 32 bits.
      ValueError: if models are not alike, numbers differ, or L_i is negative.

    Example:
      >>> losses = [lambda x: x @ x, lambda x: 2 * (x - 1) @ (x - 1)]
      >>> experts, merged = [jnp.zeros(2), jnp.ones(2)], jnp.full(2, 0.5)
      >>> found = post_hoc_bound(experts, merged, losses, jnp.array([2.0, 4.0]))
      >>> float(found.rise), float(found.bound)
      (0.75, 0.75)

    References:
      Nesterov, Introductory Lectures on Convex Optimization, 2004, Lemma 1.2.3.
    """
    experts, merged = _models(experts, merged)
    if len(losses) != len(experts):
        raise ValueError(
            f"{len(losses)} losses were given for {len(experts)} experts; expected one "
            "loss for each"
        )
    num_experts(
        experts=jnp.zeros(len(experts)),
        smoothness=smoothness,
        target_weights=target_weights,
    )
    check_values("smoothness", smoothness, lambda x: x >= 0, "numbers of at least 0")
    slopes, squares, rises = [], [], []
    for t, (expert, loss) in enumerate(zip(experts, losses, strict=True)):
        apart = _difference(merged, expert, f"expert {t}")
        value, gradient = jax.value_and_grad(loss)(expert)
        slopes.append(_vectors.inner(gradient, apart))
        squares.append(_vectors.inner(apart, apart))
        rises.append((loss(merged) - value).astype(slopes[-1].dtype))
    first, distances, rise = (jnp.stack(x) for x in (slopes, squares, rises))
    cast = functools.partial(jnp.asarray, dtype=first.dtype)
    weights = cast(weights_of(target_weights, len(experts)))
    second = cast(smoothness) * distances / 2
    return PostHoc(
        first_order=first,
        second_order=second,
        bound=jnp.sum(weights * (first + second)),
        rise=jnp.sum(weights * rise),
        dispersion=jnp.sum(weights * distances),
    )

"""Gradients of several losses at one point: their norms and heterogeneity zeta^2.

From gradients, from batches of them without their noise, or without any data from task
vectors alone: -tau_i divided by how far its expert was trained is the mean gradient
along its path, a pseudo-gradient.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxmerge._checks import check_values
from jaxmerge._types import pytree
from jaxmerge.curvature import _vectors
from jaxmerge.kinematics._inputs import Numbers, as_floats
from jaxmerge.stability.spec import ExpertSpec, check_spec, num_experts, weights_of


@pytree
class GradientStats:
    """Gradients of several losses at one point, as `ProblemStats` asks for them.

    Attributes:
      gradient_norms: |grad f_i|^2, `(task,)`.
      gradient: |grad f|^2.
      heterogeneity: zeta^2 = sum p_i |grad f_i - grad f|^2.
    """

    gradient_norms: Any
    gradient: Any
    heterogeneity: Any


def gradient_statistics(
    gradients: PyTree, mask: PyTree = None, *, target_weights: Numbers = None
) -> GradientStats:
    """Norms and heterogeneity of gradients, in the coordinates that a mask keeps.

    One mask of zeros and ones can only lower the heterogeneity: that is how a
    sparsifier that does not look at the data acts on the bound (R4, a reconstruction).
    With a mask for each expert it may rise.

    Args:
      gradients: of f_i, one tree whose leaves have a leading axis `task`.
      mask: a tree of zeros and ones like the gradients of one expert, or like
        `gradients` for a mask each; None keeps all.
      target_weights: p_i, of sum 1; by default 1 / N.

    Returns:
      The statistics. In the bound of masked training, put its `gradient` and
      `heterogeneity`, and leave the norms as they are without a mask.

    Raises:
      ValueError: if the mask does not fit, or weights do not sum to 1.

    Example:
      >>> gradients = jnp.array([[1.0, 3.0], [1.0, -3.0]])
      >>> found = gradient_statistics(gradients)
      >>> float(found.gradient), float(found.heterogeneity)
      (1.0, 9.0)
      >>> float(gradient_statistics(gradients, jnp.array([1.0, 0.0])).heterogeneity)
      0.0
    """
    gradients = _vectors.as_parameters(gradients)
    num = num_experts(
        gradients=jnp.zeros(jax.tree.leaves(gradients)[0].shape[:1]),
        target_weights=target_weights,
    )
    if mask is not None:
        structures = jax.tree.structure(mask), jax.tree.structure(gradients)
        if structures[0] != structures[1]:
            raise ValueError(
                f"mask has structure {structures[0]}; expected that of the gradients, "
                f"{structures[1]}"
            )
        gradients = jax.tree.map(_masked, gradients, mask)
    dtype = _vectors.scalar_dtype(gradients)
    weights = jnp.asarray(weights_of(target_weights, num)).astype(dtype)
    weights = jnp.broadcast_to(weights, (num,))
    mean = _vectors.combine_rows(weights, gradients)
    apart = jax.tree.map(lambda x, y: x - y, gradients, mean)
    square = jax.vmap(lambda row: _vectors.inner(row, row))
    return GradientStats(
        square(gradients), _vectors.inner(mean, mean), jnp.sum(weights * square(apart))
    )


def _masked(gradients: Array, mask: Any) -> Array:
    if jnp.shape(mask) not in (gradients.shape, gradients.shape[1:]):
        raise ValueError(
            f"a mask has shape {jnp.shape(mask)}; expected {gradients.shape[1:]}, or "
            f"{gradients.shape} for one mask an expert"
        )
    return gradients * jnp.asarray(mask).astype(gradients.dtype)


def debiased_heterogeneity(
    gradients: PyTree,
    noise: Numbers,
    batch_sizes: Numbers,
    *,
    target_weights: Numbers = None,
) -> Float[Array, ""]:
    """The heterogeneity of losses from gradients on batches, without their noise.

        zeta^2 = sum p_i |g_i - g|^2 - sum p_i (1 - p_i) sigma_i^2 / B_i

    Unbiased, so that it may be negative where heterogeneity is small.

    Args:
      gradients: g_i, each on a batch of its own data; one tree whose leaves have a
        leading axis `task`.
      noise: sigma_i^2, `(task,)` or one number.
      batch_sizes: B_i, likewise.
      target_weights: p_i, of sum 1; by default 1 / N.

    Returns:
      A scalar.

    Raises:
      ValueError: if numbers of experts differ, or a concrete number is out of range.

    Example:
      >>> gradients = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
      >>> float(debiased_heterogeneity(gradients, 2.0, 4.0))
      0.75
    """
    found = gradient_statistics(gradients, target_weights=target_weights)
    num = num_experts(
        gradients=found.gradient_norms,
        noise=noise,
        batch_sizes=batch_sizes,
        target_weights=target_weights,
    )
    check_values("noise", noise, lambda x: x >= 0, "numbers of at least 0")
    check_values("batch_sizes", batch_sizes, lambda x: x >= 1, "numbers of at least 1")
    p, noise, sizes, _ = as_floats(
        weights_of(target_weights, num), noise, batch_sizes, found.heterogeneity
    )
    bias = jnp.broadcast_to(p * (1 - p) * noise / sizes, (num,))
    return found.heterogeneity - jnp.sum(bias)


def gram_statistics(gram: Numbers, *, target_weights: Numbers = None) -> GradientStats:
    """Norms and heterogeneity of gradients from their inner products.

    Args:
      gram: `(task, task)`.
      target_weights: p_i, of sum 1; by default 1 / N.

    Returns:
      The statistics; the first two of them sum to the mean of the norms.

    Raises:
      ValueError: if shapes do not fit, or weights do not sum to 1.

    Example:
      >>> found = gram_statistics(jnp.array([[2.0, 0.0], [0.0, 2.0]]))
      >>> float(found.gradient), float(found.heterogeneity)
      (1.0, 1.0)
    """
    shape = jnp.shape(gram)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"gram has shape {shape}; expected `(task, task)`")
    norms = jnp.diagonal(jnp.asarray(gram))
    num_experts(gram=norms, target_weights=target_weights)
    kernel, weights = as_floats(gram, weights_of(target_weights, shape[0]))
    weights = jnp.broadcast_to(weights, shape[:1])
    mean = jnp.einsum("s,st,t->", weights, kernel, weights, precision="highest")
    apart = jnp.eye(shape[0], dtype=kernel.dtype) - weights[None, :]
    spread = jnp.einsum("is,st,it->i", apart, kernel, apart, precision="highest")
    return GradientStats(
        jnp.diagonal(kernel),
        jnp.maximum(mean, 0.0),
        jnp.sum(weights * jnp.maximum(spread, 0.0)),
    )


def training_lengths(spec: ExpertSpec, *, momentum: Numbers = 0.0) -> Array:
    """By what a constant gradient would have been multiplied in training.

        a_i = eta_i sum_{k<K_i} (1 - mu^(K_i - k)) / (1 - mu);    eta_i K_i if mu = 0

    Args:
      spec: `learning_rate` and `steps` count.
      momentum: mu, in [0, 1), of heavy-ball SGD without dampening.

    Returns:
      `(task,)`, or a scalar for settings that all experts share.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> spec = ExpertSpec(0.1, 8, jnp.array([1.0, 2.0]), 64)
      >>> [round(float(a), 3) for a in training_lengths(spec, momentum=0.5)]
      [0.1, 0.25]
    """
    check_spec(spec)
    check_values(
        "momentum", momentum, lambda x: (x >= 0) & (x < 1), "a number in [0, 1)"
    )
    rate, steps, mu = as_floats(spec.learning_rate, spec.steps, momentum)
    # sum of mu^j for j from 1 to K is mu (1 - mu^K) / (1 - mu).
    some = mu > 0
    power = jnp.where(some, jnp.exp(steps * jnp.log(jnp.where(some, mu, 1.0))), 0.0)
    return rate * (steps - mu * (1 - power) / (1 - mu)) / (1 - mu)


def pseudo_gradient_statistics(
    gram: Numbers,
    spec: ExpertSpec,
    *,
    momentum: Numbers = 0.0,
    target_weights: Numbers = None,
) -> GradientStats:
    """Gradients at the base guessed from task vectors: -tau_i / a_i; no data needed.

    The mean gradient along an expert's path shrinks as the expert converges, so that
    all three numbers come out too low where eta L K is not small. A reconstruction.

    Args:
      gram: of the task vectors, `(task, task)`.
      spec: how experts were trained, for `training_lengths`.
      momentum: mu, in [0, 1).
      target_weights: p_i, of sum 1; by default 1 / N.

    Returns:
      The statistics.

    Raises:
      ValueError: if shapes do not fit, or a concrete number is out of range.

    Example:
      >>> spec = ExpertSpec(0.1, 8, jnp.array([5.0, 10.0]), 64)
      >>> gram = jnp.array([[0.25, 0.0], [0.0, 1.0]])
      >>> found = pseudo_gradient_statistics(gram, spec)
      >>> [round(float(x), 3) for x in (found.gradient, found.heterogeneity)]
      [0.5, 0.5]
    """
    lengths = training_lengths(spec, momentum=momentum)
    num_experts(gram=np.zeros(jnp.shape(gram)[:1]), spec=lengths)
    kernel, lengths = as_floats(gram, lengths)
    lengths = jnp.broadcast_to(lengths, kernel.shape[:1])
    return gram_statistics(
        kernel / lengths[:, None] / lengths[None, :], target_weights=target_weights
    )

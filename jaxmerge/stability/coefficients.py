"""Coefficients that make up for unequal training."""

import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge.kinematics._inputs import Numbers, as_floats
from jaxmerge.stability.gradients import training_lengths
from jaxmerge.stability.spec import ExpertSpec, num_experts, weights_of


def normalised_coefficients(
    spec: ExpertSpec,
    *,
    target_weights: Numbers = None,
    momentum: Numbers = 0.0,
    total: Numbers = 1.0,
) -> Array:
    """Coefficients by which unequal training does not change what is minimised.

        alpha_i proportional to p_i / (eta_i K_i),    so that chi^2 = 0

    Args:
      spec: `learning_rate` and `steps` count.
      target_weights: p_i, of sum 1; by default 1 / N.
      momentum: mu, in [0, 1); with it the length is that of `training_lengths`.
      total: what they sum to.

    Returns:
      `(task,)`.

    Raises:
      ValueError: if a concrete number is out of range, or numbers of experts differ.

    Example:
      >>> spec = ExpertSpec(0.1, 8, jnp.array([10.0, 30.0]), 64)
      >>> [f"{alpha:.2f}" for alpha in normalised_coefficients(spec)]
      ['0.75', '0.25']

    References:
      Wang et al., Tackling the objective inconsistency problem in heterogeneous
      federated optimization, 2020 (FedNova).
    """
    lengths = training_lengths(spec, momentum=momentum)
    num = num_experts(training=lengths, target_weights=target_weights)
    lengths, weights, total = as_floats(lengths, weights_of(target_weights, num), total)
    ratios = jnp.broadcast_to(weights / lengths, (num,))
    return total * ratios / jnp.sum(ratios)

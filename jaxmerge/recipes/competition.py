"""Parameter competition balancing."""

from jaxmerge._types import Coef
from jaxmerge.combine.competition import ParameterCompetition
from jaxmerge.merger import Merger
from jaxmerge.transforms import check_density


def pcb(*, ratio: Coef = 0.1, scale: Coef = 1.2, weights: Coef = None) -> Merger:
    r"""PCB-Merging: means of entries that are large and agree with the other tasks.

        merged = theta_0 + scale * sum_t w_t score_t d_t / sum_t score_t

    The scores (see `combine.ParameterCompetition`) rank the entries of a tensor. The
    paper ranks those of the whole model as one vector; so does

        vector, restore = jax.flatten_util.ravel_pytree(base)
        experts = [jax.flatten_util.ravel_pytree(x)[0] for x in experts]
        merged = restore(pcb()(vector, experts))

    Args:
      ratio: the share of each expert's entries that count, in (0, 1]; 0.05 to 0.1 in
        the paper.
      scale: lambda, 1.2 in the authors' code.
      weights: w, 1 each if None; the authors search them from 0.8 to 1.3, in place of
        the scale.

    Raises:
      ValueError: if a ratio is outside (0, 1].

    >>> import jax.numpy as jnp
    >>> experts = [jnp.array([4.0, 3.0, 1.0, 0.5]), jnp.array([2.0, -5.0, 4.0, 1.0])]
    >>> merged = pcb(ratio=0.6, scale=1.0)(jnp.zeros(4), experts)
    >>> [round(x, 2) for x in merged.tolist()]
    [3.0, -4.0, 3.81, 0.0]

    References:
      Du et al., Parameter Competition Balancing for Model Merging, 2024, section 3.
    """
    check_density(ratio, "ratio")
    return Merger(combine=ParameterCompetition(ratio), weights=weights, scale=scale)

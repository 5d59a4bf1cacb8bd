"""Coefficients that the deltas' own norms give."""

from jaxmerge._types import Coef
from jaxmerge.combine import NormSharedSum
from jaxmerge.merger import Merger
from jaxmerge.recipes.choices import check_choice
from jaxmerge.transforms import ScaleByNormShare


def metagpt(*, scale: Coef = 1.0, scope: str = "tree") -> Merger:
    r"""MetaGPT: task arithmetic with coefficients in closed form, from norms alone.

        merged = theta_0 + scale * sum_t lambda_t d_t,
        lambda_t = |d_t|^2 / sum_k |d_k|^2

    The coefficients minimize a bound of the average loss, under a linearized model and
    orthogonal task vectors. Where all deltas are 0 the base stays.

    Args:
      scale: multiplies the sum; 1 in the paper.
      scope: `"tree"` takes the norms of whole models, as the paper does, in one more
        pass over the experts; `"leaf"` those of each tensor.

    Raises:
      ValueError: if the scope is unknown.

    >>> import jax.numpy as jnp
    >>> experts = [{"w": jnp.array([2.0, 0.0])}, {"w": jnp.array([0.0, 1.0])}]
    >>> merged = metagpt()({"w": jnp.zeros(2)}, experts)["w"]
    >>> [round(x, 4) for x in merged.tolist()]
    [1.6, 0.2]

    References:
      Zhou et al., MetaGPT: Merging Large Language Models Using Model Exclusive Task
      Arithmetic, 2024.
    """
    check_choice(scope, ("leaf", "tree"), "scope")
    if scope == "leaf":
        return Merger(combine=NormSharedSum(), scale=scale)
    return Merger(transforms=(ScaleByNormShare(),), scale=scale)

"""Sums of task vectors, whole or sparsified: from a plain average to DARE."""

from jaxmerge._types import Coef
from jaxmerge.combine import WeightedSum
from jaxmerge.merger import Merger
from jaxmerge.recipes.choices import check_choice, elected_mean, tie_rule
from jaxmerge.transforms import DropRandom, KeepLargest
from jaxmerge.transforms.sparsify import check_density


def average(*, weights: Coef = None, normalize: bool = True) -> Merger:
    r"""The weighted mean of the models: a uniform soup.

        merged = sum_t w_t theta_t / sum_t w_t

    Args:
      weights: w, 1 each if None.
      normalize: whether to divide by the sum of the weights.

    Returns:
      A merger of the weights themselves; the base gives only structure and dtypes.

    >>> import jax.numpy as jnp
    >>> average()(None, [{"w": jnp.zeros(2)}, {"w": jnp.ones(2)}])["w"].tolist()
    [0.5, 0.5]

    References:
      Wortsman et al., Model soups: averaging weights of multiple fine-tuned models
      improves accuracy without increasing inference time, 2022.
    """
    return Merger(
        combine=WeightedSum(normalize=normalize, frame="absolute"), weights=weights
    )


def task_arithmetic(
    *, scale: Coef = 0.3, weights: Coef = None, normalize: bool = False
) -> Merger:
    r"""Adds scaled task vectors to the base.

        merged = theta_0 + scale * sum_t w_t (theta_t - theta_0)

    Args:
      scale: lambda. The paper tunes it; 0.3 is its recommendation for many tasks.
      weights: w, 1 each if None; negative to unlearn.
      normalize: whether to divide the sum by the sum of the weights.

    >>> import jax.numpy as jnp
    >>> experts = [{"w": jnp.ones(2)}, {"w": 2 * jnp.ones(2)}]
    >>> task_arithmetic(scale=0.5)({"w": jnp.zeros(2)}, experts)["w"].tolist()
    [1.5, 1.5]

    References:
      Ilharco et al., Editing Models with Task Arithmetic, 2022, section 2.
    """
    return Merger(
        combine=WeightedSum(normalize=normalize), weights=weights, scale=scale
    )


def magnitude_prune(
    *, density: Coef = 0.2, scale: Coef = 1.0, weights: Coef = None, scope: str = "leaf"
) -> Merger:
    r"""Adds the largest entries of each task vector: TIES without the election.

    Args:
      density: the share kept, in (0, 1]; `int(density * n)` entries.
      scale: lambda.
      weights: w, 1 each if None.
      scope: `"leaf"` or `"tree"`, as in `ties`.

    References:
      PEFT's `magnitude_prune`; FusionBench's magnitude difference pruning.
    """
    check_choice(scope, ("leaf", "tree"), "scope")
    check_density(density, "density")
    return Merger(
        transforms=(KeepLargest(density, scope=scope, ties=tie_rule(scope)),),
        combine=WeightedSum(),
        weights=weights,
        scale=scale,
    )


def dare(
    *,
    density: Coef = 0.1,
    consensus: str = "linear",
    scale: Coef = 1.0,
    weights: Coef = None,
    normalize: bool = False,
    compat: str = "paper",
) -> Merger:
    r"""DARE: drop entries of each task vector at random, rescale the rest, combine.

        d_t = mask_t * (theta_t - theta_0) / density,    mask_t ~ Bernoulli(density)

    Args:
      density: the share kept, in (0, 1]; the paper's drop rate p is `1 - density`.
      consensus: `"linear"` adds as task arithmetic does; `"ties"` elects signs.
      scale: lambda.
      weights: w, 1 each if None.
      normalize: whether to divide by the weights (or, with `"ties"`, by the agreeing).
      compat: `"paper"` divides by the density; `"mergekit"` restores each tensor's l1
        norm instead, and lets weights enter before the vote; `"peft"` is the paper's in
        the dtype that deltas are stored in, to which it rounds the rescaled ones.

    Returns:
      A merger that needs a key.

    References:
      Yu et al., Language Models are Super Mario: Absorbing Abilities from Homologous
      Models as a Free Lunch, 2023, eq. 2.
    """
    check_choice(consensus, ("linear", "ties"), "consensus")
    check_choice(compat, ("paper", "mergekit", "peft"), "compat")
    check_density(density, "density")
    rescale = "l1" if compat == "mergekit" else "density"
    return Merger(
        transforms=(DropRandom(density, rescale=rescale),),
        combine=WeightedSum(normalize=normalize)
        if consensus == "linear"
        else elected_mean(compat, normalize),
        weights=weights,
        scale=scale,
        rounding="storage" if compat == "peft" else "none",
    )

"""Agreement between experts: TIES, Consensus, EMR and MagMax."""

from jaxmerge._types import Coef
from jaxmerge.combine import (
    ConsensusMask,
    LargestMagnitude,
    SignMasks,
    UnifiedTaskVector,
    WeightedSum,
)
from jaxmerge.combine.consensus import TallMasks
from jaxmerge.merger import Merger
from jaxmerge.recipes.choices import check_choice, elected_mean, tie_rule
from jaxmerge.transforms import KeepLargest
from jaxmerge.transforms.sparsify import check_density


def ties(
    *,
    density: Coef = 0.2,
    scale: Coef = 1.0,
    weights: Coef = None,
    scope: str = "leaf",
    normalize: bool = True,
    compat: str = "paper",
) -> Merger:
    r"""TIES: trim each task vector, elect a sign per entry, average those that agree.

        d_t   = the `density * n` entries of largest magnitude of theta_t - theta_0
        e     = sign(sum_t d_t), with sign(0) = +1
        delta = mean of w_t d_t over the t with sign(d_t) = e

    Args:
      density: the share of entries kept, in (0, 1]. The number kept is
        `int(density * n)`.
      scale: lambda, about 0.8 to 1.8 in the paper.
      weights: w, 1 each if None.
      scope: `"leaf"` trims each tensor (ties by lowest index), as most
        implementations do; `"tree"` the whole model, as the paper's code does (all
        entries that equal the threshold are kept).
      normalize: False sums the agreeing entries instead of averaging them.
      compat: `"paper"` (unweighted vote, mean over the count, as PEFT) or
        `"mergekit"` (weights enter before the vote, mean over the weights; at least one
        entry of each tensor is kept).

    Raises:
      ValueError: if a density is outside (0, 1], or a choice unknown.

    >>> import jax.numpy as jnp
    >>> base = {"w": jnp.zeros(3)}
    >>> models = [jnp.array([3.0, -1.0, 0.1]), jnp.array([1.0, 2.0, 0.1])]
    >>> ties(density=0.7)(base, [{"w": x} for x in models])["w"].tolist()
    [2.0, 2.0, 0.0]

    References:
      Yadav et al., TIES-Merging: Resolving Interference When Merging Models, 2023,
      algorithm 1.
    """
    check_choice(scope, ("leaf", "tree"), "scope")
    check_choice(compat, ("paper", "mergekit", "peft"), "compat")
    check_density(density, "density")
    trim = KeepLargest(
        density,
        scope=scope,
        ties=tie_rule(scope),
        at_least=1 if compat == "mergekit" else 0,
    )
    return Merger(
        transforms=(trim,),
        combine=elected_mean(compat, normalize),
        weights=weights,
        scale=scale,
    )


def consensus(
    *,
    threshold: Coef = 0.4,
    min_tasks: Coef = 2,
    scale: Coef = 0.3,
    weights: Coef = None,
) -> Merger:
    r"""Consensus merging: the summed task vector where enough tasks need it.

    Two passes: the sum `m = sum_t w_t d_t`; then for each entry the number of tasks
    with `|d_t| >= threshold * |m - d_t|`. Entries that fewer than `min_tasks` need
    (selfish and catastrophic weights) are dropped.

    Args:
      threshold: lambda, at least 0; the paper tunes it over 0.2, ..., 0.6 per task (a
        sequence gives one per expert).
      min_tasks: k.
      scale: alpha, as in task arithmetic.
      weights: w, 1 each if None.

    References:
      Wang et al., Localizing Task Information for Improved Model Merging and
      Compression, 2024, eq. 4 and 6.
    """
    return Merger(
        combine=(WeightedSum(), ConsensusMask(threshold, min_tasks)),
        weights=weights,
        scale=scale,
    )


def tall_masks(
    *, threshold: Coef = 0.4, scale: Coef = 1.0, weights: Coef = None
) -> Merger:
    r"""TALL masks: the summed task vector, and for each task a mask of what it needs.

        m = sum_t w_t d_t,    theta_t = theta_0 + scale * mask_t * m,
        mask_t = |d_t| >= threshold * |m - d_t|

    Args:
      threshold: lambda, at least 0; the paper tunes it over 0.2, ..., 0.6 per task (a
        sequence gives one per expert).
      scale: multiplies every task's delta; one number.
      weights: w, 1 each if None.

    Returns:
      A merger that returns `TaskModels`; `.params(t)` are the parameters of task t.

    >>> import jax.numpy as jnp
    >>> experts = [{"w": jnp.array([4.0, 1.0])}, {"w": jnp.array([1.0, 1.0])}]
    >>> models = tall_masks()({"w": jnp.zeros(2)}, experts)
    >>> [models.params(t)["w"].tolist() for t in range(2)]
    [[5.0, 2.0], [0.0, 2.0]]

    References:
      Wang et al., Localizing Task Information for Improved Model Merging and
      Compression, 2024, eq. 4.
    """
    return Merger(
        combine=WeightedSum(),
        per_task=TallMasks(threshold),
        weights=weights,
        scale=scale,
    )


def emr(*, compat: str = "paper") -> Merger:
    r"""EMR: one unified task vector, and for each task a mask and a rescaler.

        tau = elected largest entries,   theta_t = theta_0 + r_t * mask_t * tau

    Args:
      compat: the rescaler r_t: `"paper"`, a ratio of sums over the model, or
        `"reference"`, of sums of each tensor's means (see `SignMasks`).

    Returns:
      A merger that returns `TaskModels`; `.params(t)` are the parameters of task t.

    >>> import jax.numpy as jnp
    >>> experts = [{"w": jnp.array([1.0, -2.0])}, {"w": jnp.array([2.0, 1.0])}]
    >>> models = emr()({"w": jnp.zeros(2)}, experts)
    >>> models.params(0)["w"].tolist()
    [1.5, -1.5]

    References:
      Huang et al., EMR-Merging: Tuning-Free High-Performance Model Merging, 2024,
      section 3.2.
    """
    check_choice(compat, ("paper", "reference"), "compat")
    return Merger(combine=UnifiedTaskVector(), per_task=SignMasks(compat))


def magmax(*, scale: Coef = 0.5, weights: Coef = None) -> Merger:
    r"""MagMax: of each entry the task vector's that is largest in magnitude.

        merged = theta_0 + scale * d_{t*},    t* = argmax_t |d_t|, the first on a tie

    Args:
      scale: lambda, 0.5 in the paper.
      weights: w, 1 each if None; they scale the deltas.

    >>> import jax.numpy as jnp
    >>> models = [{"w": jnp.array([1.0, -4.0])}, {"w": jnp.array([-2.0, 3.0])}]
    >>> magmax(scale=1.0)({"w": jnp.zeros(2)}, models)["w"].tolist()
    [-2.0, -4.0]

    References:
      Marczak et al., MagMax: Leveraging Model Merging for Seamless Continual Learning,
      2024, eq. 3.
    """
    return Merger(combine=LargestMagnitude(), weights=weights, scale=scale)

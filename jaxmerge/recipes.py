"""Methods by their published names: each returns a `Merger` with the paper's defaults.

Numbers are coefficients (a number, one per expert, or a tree prefix; see
`jaxmerge.by_layer` and `jaxmerge.by_pattern`) and may be traced. Choices are strings and
booleans. Where a paper and a popular code differ, `compat` says whose behaviour; the
default is the paper's.
"""

from typing import Any

from jaxmerge._types import Coef
from jaxmerge.combine import (
    ConsensusMask,
    Isotropic,
    ModelStock,
    SignElectedMean,
    SignMasks,
    SphericalInterpolation,
    UnifiedTaskVector,
    WeightedSum,
)
from jaxmerge.merger import Merger
from jaxmerge.transforms import DropRandom, KeepLargest, ReparameterizedNoise
from jaxmerge.transforms.sparsify import check_density


def check_choice(value: str, choices: tuple[str, ...], name: str) -> None:
    """Refuses a choice that does not exist.

    Raises:
      ValueError: naming the choices.
    """
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}")


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


def _elect(compat: str, normalize: bool) -> SignElectedMean:
    """The sign election as the paper, mergekit or PEFT does it."""
    if compat == "mergekit":
        return SignElectedMean("weighted", "weight" if normalize else "none")
    return SignElectedMean("total", "count" if normalize else "none")


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
        `"mergekit"` (weights enter before the vote, mean over the weights).

    Raises:
      ValueError: if a density is outside (0, 1], or a choice unknown.

    >>> import jax.numpy as jnp
    >>> base = {"w": jnp.zeros(3)}
    >>> experts = [{"w": jnp.array([3.0, -1.0, 0.1])}, {"w": jnp.array([1.0, 2.0, 0.1])}]
    >>> ties(density=0.7)(base, experts)["w"].tolist()
    [2.0, 2.0, 0.0]

    References:
      Yadav et al., TIES-Merging: Resolving Interference When Merging Models, 2023,
      algorithm 1.
    """
    check_choice(scope, ("leaf", "tree"), "scope")
    check_choice(compat, ("paper", "mergekit", "peft"), "compat")
    check_density(density, "density")
    tie_rule = "all" if scope == "tree" else "first"
    return Merger(
        transforms=(KeepLargest(density, scope=scope, ties=tie_rule),),
        combine=_elect(compat, normalize),
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
        norm instead, and lets weights enter before the vote; `"peft"` is the paper's.

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
        else _elect(compat, normalize),
        weights=weights,
        scale=scale,
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
    tie_rule = "all" if scope == "tree" else "first"
    return Merger(
        transforms=(KeepLargest(density, scope=scope, ties=tie_rule),),
        combine=WeightedSum(),
        weights=weights,
        scale=scale,
    )


def slerp(*, t: Coef = 0.5) -> Merger:
    r"""Spherical interpolation between two models, tensor by tensor.

    Args:
      t: from 0 (the first model) to 1 (the second).

    Returns:
      A merger of exactly two models; the base gives only structure and dtypes.

    >>> import jax.numpy as jnp
    >>> models = [{"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 1.0])}]
    >>> slerp(t=0.5)(None, models)["w"].round(3).tolist()
    [0.707, 0.707]

    References:
      Shoemake, Animating rotation with quaternion curves, 1985, section 3.
    """
    return Merger(combine=SphericalInterpolation(t))


def model_stock(*, filter_wise: bool = False, compat: str = "paper") -> Merger:
    r"""Model Stock: the mean of the experts, drawn towards the base.

        merged = r * mean_t theta_t + (1 - r) * theta_0,    r = T c / (1 + (T - 1) c)

    Args:
      filter_wise: one ratio per row (last axis) instead of one per tensor.
      compat: `"paper"`, or `"mergekit"` (see `ModelStock`).

    References:
      Jang et al., Model Stock: All we need is just a few fine-tuned models, 2024, eq. 5.
    """
    check_choice(compat, ("paper", "mergekit"), "compat")
    return Merger(combine=ModelStock(filter_wise=filter_wise, compat=compat))


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


def emr() -> Merger:
    r"""EMR: one unified task vector, and for each task a mask and a rescaler.

        tau = elected largest entries,   theta_t = theta_0 + r_t * mask_t * tau

    Returns:
      A merger that returns `TaskModels`; `.params(t)` are the parameters of task t.

    >>> import jax.numpy as jnp
    >>> experts = [{"w": jnp.array([1.0, -2.0])}, {"w": jnp.array([2.0, 1.0])}]
    >>> models = emr()({"w": jnp.zeros(2)}, experts)
    >>> models.params(0)["w"].tolist()
    [0.75, -0.75]

    References:
      Huang et al., EMR-Merging: Tuning-Free High-Performance Model Merging, 2024,
      section 3.2.
    """
    return Merger(combine=UnifiedTaskVector(), per_task=SignMasks())


def isotropic(*, scale: Coef = 1.0, weights: Coef = None) -> Merger:
    r"""Iso-C: the summed task matrix with all its singular values made equal.

        merged = theta_0 + scale * mean(s) * U V^T,    U diag(s) V^T = sum_t d_t

    Args:
      scale: alpha, 1 to 1.5.
      weights: w, 1 each if None.

    References:
      Marczak et al., No Task Left Behind: Isotropic Model Merging with Common and
      Task-Specific Subspaces, 2025, algorithm 1.
    """
    return Merger(combine=Isotropic(), weights=weights, scale=scale)


def rht(
    *,
    density: Coef = 0.7,
    divisor: Coef = None,
    weights: Coef = None,
    scale: Coef = None,
    sign: str = "total",
    normalize_weights: bool = True,
    divide_by_count: bool = True,
    space: str = "factors",
    norm_matched: bool = False,
    noise: Any = None,
    compat: str = "paper",
) -> Merger:
    r"""RHT, reparameterized heavy-tailed merging: keep the largest entries, amplify them.

        d_t   = the `int(density * n)` largest entries of theta_t - theta_0, over divisor
        e     = sign(sum_t d_t), with sign(0) = +1      (an unweighted vote)
        delta = sum over agreeing t of w_t d_t / max(number agreeing, 1)

    with weights that sum to 1. With the defaults this is `ties(...) / density`, so it
    enlarges the merged delta (1.42 times for Gaussian entries at 0.7). Compare it with
    `scalar_control(rht(...))`, which has the same size and an unchanged shape, before
    crediting the shape.

    Args:
      density: rho, in (0, 1]; 1 leaves tensors as they are, not rescaled.
      divisor: what kept entries are divided by; the density if None.
      weights: w, 1 each if None; may be negative.
      scale: a further factor on the merged delta.
      sign: the election: `"total"` (the sum) or `"frequency"` (the sum of signs).
      normalize_weights: whether weights are divided by their sum. With it and
        `divide_by_count` merging T equal experts gives 1/T of their delta, as the
        paper's code does; switch it off for an idempotent merge.
      divide_by_count: whether to divide by the number of agreeing experts.
      space: for `LowRank` experts: `"factors"` prunes and merges A and B each for
        itself, as the paper's code does; `"product"` the products.
      norm_matched: restore each delta's l2 norm instead of dividing: the effect of
        shape alone.
      noise: a `ReparameterizedNoise`, added to the merged delta. The paper's code
        refers to such a switch and its definition was not published: a reconstruction,
        off by default. Needs a key.
      compat: `"paper"`, or `"reference"`: pruned deltas are rounded to the dtype that
        they are stored in, as the paper's code computes.

    Raises:
      ValueError: if a density is outside (0, 1], or a choice unknown.

    >>> import jax.numpy as jnp
    >>> experts = [jnp.array([3.0, -1, 2, -4, 0.5]), jnp.array([-2.0, 1, 4, -1, 0.25])]
    >>> rht(density=0.6)(None, experts).round(3).tolist()
    [2.5, 0.833, 2.5, -3.333, 0.0]

    References:
      Wang et al., Why Do More Experts Fail? A Theoretical Analysis of Model Merging,
      2025; the operator is known from the paper's code.
    """
    check_choice(sign, ("total", "frequency"), "sign")
    check_choice(space, ("factors", "product"), "space")
    check_choice(compat, ("paper", "reference"), "compat")
    check_density(density, "density")
    return Merger(
        transforms=(
            KeepLargest(
                density, divisor=divisor, rescale="l2" if norm_matched else "density"
            ),
        ),
        combine=SignElectedMean(
            vote=sign,
            divisor="count" if divide_by_count else "none",
            normalize_weights=normalize_weights,
        ),
        weights=weights,
        scale=scale,
        post=() if noise is None else (noise,),
        space=space,
        rounding="storage" if compat == "reference" else "none",
    )

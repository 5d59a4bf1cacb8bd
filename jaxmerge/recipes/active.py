"""Who changed what: RAM, SCE, and Arcee Fusion."""

from jaxmerge._types import Coef
from jaxmerge.combine import (
    ActiveMean,
    AmplifiedActiveMean,
    EnergyWeightedElection,
    ImportantEntries,
    VaryingEntries,
)
from jaxmerge.merger import Merger
from jaxmerge.recipes.choices import check_choice
from jaxmerge.transforms._domains import check_each


def ram(
    *,
    plus: bool = False,
    threshold: Coef = 1e-5,
    r: Coef = 0.1,
    alpha: Coef = 0.2,
    scale: Coef = 1.0,
    weights: Coef = None,
) -> Merger:
    r"""RAM, Reinforced Agent Merging: means over the experts that changed an entry.

        merged = theta_0 + scale * sum_{t in A} w_t d_t / |A|,
        A      = {t : |d_t| > threshold},  entry by entry

    Experts trained by reinforcement change few entries, and a mean over all of them
    dilutes what only one has changed.

    Args:
      plus: RAM+: what expert t alone changed is multiplied by
        `1 + r * min(shared_t / unique_t, alpha)`, with the numbers of entries that it
        changed with others and alone; tensor by tensor, as mergekit's `ramplus_tl`.
      threshold: epsilon, the smallest change, in the unit of the weights.
      r: of RAM+, at least 0.
      alpha: of RAM+, at least 0.
      scale: what multiplies the merged delta.
      weights: w, 1 each if None; they scale the deltas.

    Raises:
      ValueError: if a number is negative.

    >>> import jax.numpy as jnp
    >>> models = [{"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([0.0, 4.0])}]
    >>> ram()({"w": jnp.zeros(2)}, models)["w"].tolist()
    [1.0, 3.0]

    References:
      Yuan et al., Behavior Knowledge Merge in Reinforced Agentic Models, 2026.
    """
    for value, name in ((threshold, "threshold"), (r, "r"), (alpha, "alpha")):
        check_each(value, name, lambda v: v >= 0, "a number of at least 0")
    combine = (
        AmplifiedActiveMean(threshold, r=r, limit=alpha)
        if plus
        else ActiveMean(threshold)
    )
    return Merger(combine=combine, weights=weights, scale=scale)


def sce(*, select_topk: Coef = 1.0, scale: Coef = 1.0, compat: str = "paper") -> Merger:
    r"""SCE: select the entries that vary, calculate weights, erase minorities.

        x_t    = d_t where its variance over the experts is among the largest, else 0
        q_t    = mean(x_t^2), for each tensor
        merged = theta_0 + scale * sum_{t in A} q_t x_t / sum_{t in A} q_t

    with A the experts that agree with the sign of `sum_t x_t`. Two passes over the
    experts, one if all entries are selected.

    Args:
      select_topk: the share of the varying entries that is selected, in [0, 1]; the
        paper tunes it, mergekit's default is 1.
      scale: what multiplies the merged delta.
      compat: `"paper"`, or `"mergekit"`, which weights all experts alike where the
        mean squares add up to less than 1e-6: for usual fine-tunings, always.

    Returns:
      A merger without weights: they are calculated.

    Raises:
      ValueError: if the share is out of range.

    References:
      Wan et al., FuseChat: Knowledge Fusion of Chat Models, 2024.
    """
    check_choice(compat, ("paper", "mergekit"), "compat")
    check_each(select_topk, "select_topk", lambda v: (v >= 0) & (v <= 1), "from 0 to 1")
    last = EnergyWeightedElection(compat)
    every = isinstance(select_topk, (int, float)) and select_topk == 1
    passes = last if every else (VaryingEntries(select_topk, compat), last)
    return Merger(combine=passes, scale=scale)


def arcee_fusion(*, scale: Coef = 1.0) -> Merger:
    r"""Arcee Fusion: one model's changes, where their importance is an outlier.

        importance = |theta_1 - theta_0| * KL(softmax theta_1 || softmax theta_0)
        merged     = theta_0 + scale * (theta_1 - theta_0) where the importance is at
                     least its median + 1.5 interquartile ranges

    with softmaxes and divergences of the rows (last axis) of each tensor.

    Args:
      scale: what multiplies the merged delta.

    Returns:
      A merger of exactly one model with its base.

    >>> import jax.numpy as jnp
    >>> models = [{"w": jnp.array([0.1, -0.2, 0.3, 2.0, 0.15])}]
    >>> arcee_fusion()({"w": jnp.zeros(5)}, models)["w"].tolist()
    [0.0, 0.0, 0.0, 2.0, 0.0]

    References:
      mergekit's method `arcee_fusion`; it is not published elsewhere.
    """
    return Merger(combine=ImportantEntries(), scale=scale)

"""Sums and elections of deltas that lose their ends, or entries by rank."""

from typing import Any

from jaxmerge._types import Coef
from jaxmerge.combine import WeightedSum
from jaxmerge.merger import Merger
from jaxmerge.recipes.choices import check_choice, elected_mean
from jaxmerge.transforms import DropByRank, breadcrumbs as crumbs
from jaxmerge.transforms._domains import check_each
from jaxmerge.transforms.by_rank import check_window
from jaxmerge.transforms.sparsify import check_density


def _joined(consensus: str, compat: str, normalize: bool) -> Any:
    check_choice(consensus, ("linear", "ties"), "consensus")
    check_choice(compat, ("paper", "mergekit"), "compat")
    if consensus == "linear":
        return WeightedSum(normalize=normalize)
    return elected_mean(compat, normalize)


def breadcrumbs(
    *,
    density: Coef = 0.1,
    gamma: Coef = 0.01,
    consensus: str = "linear",
    scale: Coef = 0.3,
    weights: Coef = None,
    normalize: bool = False,
    compat: str = "paper",
) -> Merger:
    r"""Model Breadcrumbs: task vectors without their outliers and small entries.

        d_t    = (theta_t - theta_0) without the gamma * n largest entries, and of the
                 rest the density * n largest
        merged = theta_0 + scale * sum_t w_t d_t

    Args:
      density: the share of each tensor's entries that is left, in (0, 1];
        `int(density * n)`. 1 keeps everything, outliers too. The paper tunes it with
        gamma; 0.1 is its order of magnitude.
      gamma: the share of outliers dropped, in [0, 1); 0.01 is mergekit's. With 0, or
        in tensors of fewer than 1 / gamma entries, no entry is an outlier.
      consensus: `"linear"` adds as task arithmetic does; `"ties"` elects signs.
      scale: lambda, as in task arithmetic.
      weights: w, 1 each if None.
      normalize: whether to divide by the weights (or, with `"ties"`, by the agreeing).
      compat: with `"ties"`, `"paper"` votes without weights and averages over the
        count; `"mergekit"` lets weights enter before the vote and averages over them.

    Raises:
      ValueError: if a number is out of range, or a choice unknown.

    >>> import jax.numpy as jnp
    >>> base, expert = {"w": jnp.zeros(4)}, {"w": jnp.array([9.0, -3.0, 2.0, 0.1])}
    >>> breadcrumbs(density=0.5, gamma=0.25, scale=1.0)(base, [expert])["w"].tolist()
    [0.0, -3.0, 2.0, 0.0]

    References:
      Davari and Belilovsky, Model Breadcrumbs: Scaling Multi-Task Model Merging with
      Sparse Masks, 2023.
    """
    check_density(density, "density")
    check_each(gamma, "gamma", lambda v: (v >= 0) & (v < 1), "a number from 0 up to 1")
    return Merger(
        transforms=crumbs(density, gamma),
        combine=_joined(consensus, compat, normalize),
        weights=weights,
        scale=scale,
    )


def della(
    *,
    density: Coef = 0.7,
    epsilon: Coef = 0.07,
    consensus: str = "ties",
    scale: Coef = 1.1,
    weights: Coef = None,
    normalize: bool = True,
    compat: str = "paper",
) -> Merger:
    r"""DELLA: drop small entries with more probability, rescale, elect, average.

        p_ti = density - epsilon + 2 epsilon * rank_ti,    m_ti ~ Bernoulli(p_ti)
        d_ti = m_ti (theta_ti - theta_0i) / p_ti

    with ranks from 0 to 1 within each row (last axis) of a tensor.

    Args:
      density: the mean share kept, in (0, 1]; the paper's drop rate is `1 - density`.
        The defaults are the example of the authors' code, a drop rate of 0.3 with a
        window of 0.14; the paper tunes them.
      epsilon: half the window's width, with `density ± epsilon` inside (0, 1).
      consensus: `"ties"` elects signs, as the paper does; `"linear"` adds.
      scale: lambda.
      weights: w, 1 each if None.
      normalize: whether to divide by the agreeing (with `"linear"`, by the weights).
      compat: `"paper"` divides each entry by its probability; `"mergekit"` restores
        each tensor's l1 norm instead, and lets weights enter before the vote.

    Returns:
      A merger that needs a key.

    Raises:
      ValueError: if a number is out of range, or a choice unknown.

    References:
      Deep, Bhardwaj and Poria, DELLA-Merging: Reducing Interference in Model Merging
      through Magnitude-Based Sampling, 2024.
    """
    check_density(density, "density")
    check_each(epsilon, "epsilon", lambda v: (v >= 0) & (v < 0.5), "from 0 up to 0.5")
    if isinstance(density, float) and isinstance(epsilon, float):
        check_window(density, epsilon)
    rescale = "l1" if compat == "mergekit" else "probability"
    return Merger(
        transforms=(DropByRank(density, epsilon, rescale=rescale),),
        combine=_joined(consensus, compat, normalize),
        weights=weights,
        scale=scale,
    )

"""Merges in the space that the experts span: DC-Merge and KnOTS."""

from jaxmerge._checks import check_values
from jaxmerge._types import Coef
from jaxmerge.combine import DirectionalConsensus
from jaxmerge.merger import Merger
from jaxmerge.recipes.choices import check_choice


def dc_merge(
    *,
    density: float = 1e-3,
    rank: int | None = None,
    smoothing: str = "none",
    ratio: float = 5.0,
    scale: Coef = 1.0,
    weights: Coef = None,
) -> Merger:
    r"""DC-Merge: experts vote in the space that the directions of all of them cover.

        P = polar([U_1..U_T]),  Q = polar([V_1..V_T]),  from k directions of each expert
        M_t = the largest entries of P^T (U_t S_t V_t^T) Q
        merged = theta_0 + scale * P blocks(sign-elected mean of M_t) Q^T

    where only the T blocks `k x k` on the diagonal are kept. What the paper evaluates
    for full fine-tuning is the default; for LoRA it is `smoothing="mean"` and the
    adapters' rank.

    Args:
      density: the share of entries that each expert keeps, in (0, 1]; at least one
        entry of `(T k)^2`. (The authors' code for full fine-tuning counts `r^2`, which
        is more where T does not divide r.)
      rank: k, at least 1; `max(1, floor(r / T))` of r = min(out, in) if None.
      smoothing: of each expert's singular values: `"none"`, `"mean"` (all the same), or
        `"linear"` (falling evenly).
      ratio: rho, at least 1: how far the linear smoothing falls.
      scale: alpha, tuned by the authors; 1 is what they start from.
      weights: w, 1 each if None.

    Raises:
      ValueError: if a number or choice is out of range.

    >>> import jax.numpy as jnp
    >>> experts = [{"w": jnp.diag(jnp.array([2.0, 0.0]))}]
    >>> experts += [{"w": jnp.diag(jnp.array([0.0, 4.0]))}]
    >>> dc_merge()({"w": jnp.zeros((2, 2))}, experts)["w"].round(3).tolist()
    [[2.0, 0.0], [0.0, 4.0]]

    References:
      DC-Merge: Improving Model Merging with Directional Consistency, 2026
      (arXiv 2603.06242).
    """
    check_choice(smoothing, ("none", "mean", "linear"), "smoothing")
    for name, value, fits, expected in (
        ("density", density, lambda x: (x > 0) & (x <= 1), "a share in (0, 1]"),
        ("rank", rank, lambda x: x >= 1, "a number of directions, at least 1"),
        ("ratio", ratio, lambda x: x >= 1, "a ratio of at least 1"),
    ):
        if value is not None:
            check_values(name, value, fits, expected)
    return Merger(
        combine=DirectionalConsensus(density, rank, smoothing, ratio),
        weights=weights,
        scale=scale,
    )

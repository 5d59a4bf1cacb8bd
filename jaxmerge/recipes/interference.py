"""Merges that keep out of each task's way: WUDI, and SWUDI in closed form."""

from jaxmerge._checks import check_values
from jaxmerge._types import Coef
from jaxmerge.combine import WudiDescent, WudiFilter
from jaxmerge.merger import Merger
from jaxmerge.recipes.choices import check_choice


def wudi(
    *,
    learning_rate: Coef = 1e-5,
    steps: int = 300,
    scale: Coef = 1.0,
    weights: Coef = None,
) -> Merger:
    r"""WUDI: descend on the interference of the merged delta with every task.

        L(m) = sum_t |(m - d_t) d_t^T|^2 / |d_t|^2,    from  m = sum_t d_t

    Adam from the sum of the deltas, stopped early: the minimiser itself does worse.
    Adam's steps have the size of the learning rate, whatever the size of the weights,
    so the learning rate has their unit.

    Args:
      learning_rate: of Adam; 1e-5, for RoBERTa 2e-5.
      steps: how many.
      scale: what multiplies the merged delta; 1 in the paper, 0.1 to 0.3 for language
        models in its sequel.
      weights: w, 1 each if None; they scale the deltas.

    Raises:
      ValueError: if there are no steps, or the rate is not positive.

    References:
      Cheng et al., Whoever Started the Interference Should End It: Guiding Data-Free
      Model Merging via Task Vectors, 2025, eq. 10.
    """
    check_values("steps", steps, lambda x: x >= 1, "at least 1")
    check_values("learning_rate", learning_rate, lambda x: x > 0, "positive numbers")
    return Merger(
        combine=WudiDescent(learning_rate, steps), weights=weights, scale=scale
    )


def swudi(
    *,
    time: Coef = 300.0,
    share: float | int = 0.65,
    rank: str = "share",
    scale: Coef = 1.0,
    weights: Coef = None,
) -> Merger:
    r"""SWUDI: WUDI's descent in closed form, in the leading directions only.

        merged = theta_0 + scale * (S - S f(C) + D (f / lambda)(C))
        f(lambda) = 1 - exp(-time * lambda) in the leading `share` of directions, else 0

    with `C = sum_t d_t^T d_t / |d_t|^2`, `D = sum_t d_t d_t^T d_t / |d_t|^2` and `S =
    sum_t d_t`: one eigendecomposition a matrix, one reading of the experts.

    Args:
      time: of gradient flow; 1300 for ViT-B/32, 1800 for B/16, 300 for Llama.
      share: of the directions that are filtered, in (0, 1]; 0.65, for Llama 0.85.
      rank: `"share"`, or `"participation"` (ASWUDI): as many directions as the
        participation ratio of the singular values, all of them solved exactly.
      scale: what multiplies the merged delta; 0.1 to 0.3 for language models.
      weights: w, 1 each if None; they scale the deltas.

    Raises:
      ValueError: if a number is out of range, or the rank's rule is unknown.

    References:
      SWUDI-Merging, 2026 (arXiv 2606.07289).
    """
    check_choice(rank, ("share", "participation"), "rank")
    check_values("share", share, lambda x: (x > 0) & (x <= 1), "a share in (0, 1]")
    check_values("time", time, lambda x: x > 0, "positive numbers")
    return Merger(
        combine=WudiFilter(time, rank, float(share)), weights=weights, scale=scale
    )

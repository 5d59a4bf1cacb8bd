"""Merges whose spectrum is corrected afterwards: SVC and subspace boosting."""

import dataclasses

from jaxmerge._checks import check_values
from jaxmerge._types import Coef
from jaxmerge.combine import Decomposed, SingularValueCalibration
from jaxmerge.merger import Merger
from jaxmerge.recipes.sums import task_arithmetic
from jaxmerge.transforms import BoostSpectrum


def svc(merger: Merger | None = None, *, floor: Coef = None) -> Merger:
    r"""SVC: any merge, its singular values divided by how much tasks share them.

        m = sum_r sigma_r u_r v_r^T,    s_r^t = <u_r^T m, u_r^T d_t> / |u_r^T d_t|^2
        sigma_r <- sigma_r T / sum_t max(floor, s_r^t)

    One more reading of the experts than the merge takes. Leaves that are no matrices
    stay as the merge made them.

    Args:
      merger: a merge of deltas with one model out and no post-step; task arithmetic
        (0.3) if None. Tasks are measured as its transforms leave them.
      floor: alpha, the least that a task's share counts: 1 / T if None, 1 for TSV-M.

    Returns:
      The merger, calibrated.

    Raises:
      ValueError: if the merger has a post-step, several models out, or averages
        weights themselves.

    >>> import jax.numpy as jnp
    >>> experts = [{"w": jnp.diag(jnp.array([2.0, 0.0]))}] * 3
    >>> merged = svc(task_arithmetic(scale=1.0))({"w": jnp.zeros((2, 2))}, experts)
    >>> merged["w"].round(3).tolist()
    [[2.0, 0.0], [0.0, 0.0]]

    References:
      When Shared Knowledge Hurts: Spectral Over-Accumulation in Model Merging,
      2026, algorithm 1 (arXiv 2602.05536).
    """
    merger = task_arithmetic() if merger is None else merger
    for what, found in (
        ("a post-step", merger.post),
        ("a model for each task", merger.per_task is not None),
        ("no deltas but weights", merger.passes[0].frame == "absolute"),
    ):
        if found:
            raise ValueError(
                f"svc was given a merger with {what}; it corrects one merged delta, "
                "such as that of task_arithmetic, ties or tsv_m"
            )
    if floor is not None:
        check_values("floor", floor, lambda x: x > 0, "positive numbers")
    *first, last = merger.passes
    return dataclasses.replace(
        merger,
        combine=(
            *first,
            Decomposed(last, merger.scale),
            SingularValueCalibration(floor),
        ),
        scale=None,
    )


def subspace_boosting(merger: Merger | None = None, *, share: Coef = 0.01) -> Merger:
    r"""Subspace boosting: any merge, its small singular values raised.

        sigma_r <- max(sigma_r, sigma_j),  j the first with cumulative share >= beta

    Args:
      merger: a merge; task arithmetic (0.3) if None. The paper boosts task arithmetic,
        TIES and Consensus.
      share: beta, from 0 (all are raised to the largest) to 1; 0 to 0.02 in the paper.

    Returns:
      The merger with the post-step `BoostSpectrum`.

    Raises:
      ValueError: if the share is out of range.

    References:
      Skorobogat et al., Subspace-Boosted Model Merging, 2025, section 4.
    """
    merger = task_arithmetic() if merger is None else merger
    check_values("share", share, lambda x: (x >= 0) & (x <= 1), "shares in [0, 1]")
    return dataclasses.replace(merger, post=(*merger.post, BoostSpectrum(share)))

"""Merges in the space that the experts span: DC-Merge, KnOTS and Core Space."""

import dataclasses
from typing import Any

from jaxmerge._checks import check_values
from jaxmerge._leaf import is_random
from jaxmerge._types import Coef
from jaxmerge.combine import CoreBasis, DirectionalConsensus, InSubspace, SharedBasis
from jaxmerge.merger import Merger
from jaxmerge.recipes.choices import check_choice
from jaxmerge.recipes.consensus import ties


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


def knots(merger: Merger | None = None) -> Merger:
    r"""KnOTS: any merge, in the basis of the directions that the experts share.

        [d_1, ..., d_T] = U S [V_1^T, ..., V_T^T]
        merged = theta_0 + U merge(S V_1^T, ..., S V_T^T)

    Two readings of the experts: the first sums `d_t d_t^T`, whose eigenvectors are U,
    so that memory does not grow with T. Trimming keeps a share of the `rank * in`
    entries of each expert's coordinates, tensor by tensor (the authors trim over the
    model), where the rank counts singular values above 1.4e-3 of the largest in
    float32 and 6e-8 in float64 (the authors': above 1e-5). No direction is dropped.
    Leaves that are no matrices are merged as they are.

    The basis is unique up to signs where singular values differ, and so is the merge;
    where they are equal it is one of many.

    Args:
      merger: a merge of deltas with one model out, such as `ties(...)`, `dare(...)`
        (the paper's two) or `consensus(...)`; `ties()` if None. Merges that are the
        same in every orthonormal basis, as task arithmetic is, gain nothing.

    Returns:
      The merger, in that basis; scale, weights and post-steps are the merger's.

    Raises:
      ValueError: if the merger averages weights themselves, gives several models, or
        trims over the whole model.

    >>> import jax.numpy as jnp
    >>> experts = [{"w": jnp.diag(jnp.array([2.0, 0.0]))}] * 3
    >>> from jaxmerge import magmax
    >>> merged = knots(magmax(scale=1.0))({"w": jnp.zeros((2, 2))}, experts)
    >>> merged["w"].round(3).tolist()
    [[2.0, 0.0], [0.0, 0.0]]

    References:
      Stoica et al., Model merging with SVD to tie the Knots, 2024
      (arXiv 2410.19735).
    """
    merger = ties() if merger is None else merger
    return in_subspace(merger, SharedBasis(), "knots")


def core_space(merger: Merger | None = None) -> Merger:
    r"""Core Space: any merge of LoRA adapters, in the space of all their factors.

        U = left singular vectors of [B_1, ..., B_T]
        V = right singular vectors of [A_1; ...; A_T]
        merged = theta_0 + U merge(U^T B_1 A_1 V, ..., U^T B_T A_T V) V^T

    What is merged is as large as the ranks' sum, and nothing is lost. Unlike that of
    `knots`, the basis depends on how a delta is factored. Leaves that are no matrices
    are merged as they are.

    Args:
      merger: a merge of deltas with one model out, such as `ties(...)`, `tsv_m()` or
        `dare(...)`; `ties()` if None.

    Returns:
      A merger of experts whose matrices are `LowRank` pairs, of any ranks.

    Raises:
      ValueError: as `knots` does.
      TypeError: when it merges, if an expert's matrix is not a `LowRank` pair.

    >>> import jax.numpy as jnp
    >>> from jaxmerge import LowRank, magmax
    >>> experts = [{"w": LowRank(a=jnp.ones((1, 3)), b=jnp.ones((2, 1)))}] * 2
    >>> merged = core_space(magmax(scale=1.0))({"w": jnp.zeros((2, 3))}, experts)
    >>> merged["w"].round(3).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]

    References:
      Panariello et al., Accurate and Efficient Low-Rank Model Merging in Core Space,
      2025 (arXiv 2509.17786).
    """
    merger = ties() if merger is None else merger
    return in_subspace(merger, CoreBasis(), "core_space")


def in_subspace(merger: Merger, basis: Any, name: str) -> Merger:
    """The merger with its transforms and passes behind one that finds a basis."""
    *first, last = merger.passes
    stages = merger.transforms
    for what, found in (
        ("a model for each task", merger.per_task is not None),
        ("no deltas but weights", last.frame == "absolute"),
        ("factors in place of deltas", merger.space == "factors"),
        ("deltas that are rounded", merger.rounding != "none"),
        (
            "statistics, which are of the whole space",
            any(getattr(combine, "needs", None) for combine in merger.passes),
        ),
        (
            "a threshold over the whole model",
            any(getattr(stage, "survey_rounds", 0) for stage in stages),
        ),
        (
            "random transforms in several passes",
            bool(first) and is_random(stages),
        ),
    ):
        if found:
            raise ValueError(
                f"{name} was given a merger with {what}; it merges one delta, tensor "
                "by tensor, in a basis of its own: such as that of ties() or dare()"
            )
    return dataclasses.replace(
        merger,
        transforms=(),
        combine=(
            basis,
            *(InSubspace(combine, stages, last=False) for combine in first),
            InSubspace(last, stages),
        ),
    )

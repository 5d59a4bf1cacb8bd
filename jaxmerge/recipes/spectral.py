"""Spectra of matrices: isotropic merging and task singular vectors."""

from jaxmerge._checks import check_values
from jaxmerge._types import Coef
from jaxmerge.combine import (
    CommonSpace,
    Isotropic,
    IsotropicSubspaces,
    TaskSingularVectors,
)
from jaxmerge.combine.decompositions import POLAR_METHODS
from jaxmerge.combine.leading import LEADING_METHODS
from jaxmerge.merger import Merger
from jaxmerge.recipes.choices import check_choice
from jaxmerge.transforms import LeadingDirections
from jaxmerge.transforms._domains import check_each


def isotropic(*, scale: Coef = 1.0, weights: Coef = None, polar: str = "svd") -> Merger:
    r"""Iso-C: the summed task matrix with all its singular values made equal.

        merged = theta_0 + scale * mean(s) * U V^T,    U diag(s) V^T = sum_t d_t

    Args:
      scale: alpha, 1 to 1.5.
      weights: w, 1 each if None.
      polar: how U V^T is computed: `"svd"`, or for sums of full rank `"qdwh"` (no
        derivative) or `"newton_schulz"` (matrix products only; see
        `jaxmerge.combine.polar`).

    Raises:
      ValueError: if there is no such way.

    References:
      Marczak et al., No Task Left Behind: Isotropic Model Merging with Common and
      Task-Specific Subspaces, 2025, algorithm 1.
    """
    check_choice(polar, POLAR_METHODS, "polar")
    return Merger(combine=Isotropic(polar), weights=weights, scale=scale)


def iso_cts(
    *, common: float | int = 0.8, scale: Coef = 1.0, weights: Coef = None
) -> Merger:
    r"""Iso-CTS: isotropic merging in a common space and in one for each task.

        delta  = mean(s) * polar([U_c, U_1, ..., U_T]) polar([V_c, V_1, ..., V_T])^T
        merged = theta_0 + scale * delta

    with the leading singular vectors of the summed task matrix, and those of what each
    task has outside of them. Two passes over the experts. With more experts than about
    `(1 - common) r / 0.5` no direction is left to a task, and it is Iso-C.

    Args:
      common: the share of directions in the common space, in (0, 1].
      scale: alpha, about 1.4 to 1.5.
      weights: w, 1 each if None.

    Raises:
      ValueError: if the share is out of range.

    References:
      Marczak et al., No Task Left Behind: Isotropic Model Merging with Common and
      Task-Specific Subspaces, 2025, algorithm 2.
    """
    check_values("common", common, lambda x: (x > 0) & (x <= 1), "a share in (0, 1]")
    return Merger(
        combine=(CommonSpace(common), IsotropicSubspaces(common)),
        weights=weights,
        scale=scale,
    )


def tsv_m(
    *,
    scale: Coef = 1.0,
    weights: Coef = None,
    compat: str = "paper",
    polar: str = "svd",
    svd: str = "svd",
) -> Merger:
    r"""TSV-M: the leading singular directions of each task, made orthogonal.

        merged = theta_0 + scale * polar([U_1..U_T]) diag(S_1..S_T) polar([V_1..V_T])^T

    Args:
      scale: alpha; the paper's is 1.
      weights: w, 1 each if None.
      compat: `"paper"`, where every task keeps a direction, or `"reference"`, whose
        code keeps `floor(r / T)`, none of a matrix with fewer than T directions.
      polar: how the polar factors are computed, as in `isotropic`.
      svd: how each task's directions are: `"svd"`, or faster `"gram"` (from the smaller
        Gram matrix, no derivative at repeated singular values) or `"randomized"` (for
        spectra that fall); see `jaxmerge.combine.leading_svd`.

    Raises:
      ValueError: if a choice does not exist.

    References:
      Gargiulo et al., Task Singular Vectors: Reducing Task Interference in Model
      Merging, 2025, section 4.2.
    """
    check_choice(compat, ("paper", "reference"), "compat")
    check_choice(polar, POLAR_METHODS, "polar")
    check_choice(svd, LEADING_METHODS, "svd")
    combine = TaskSingularVectors(compat, polar, svd)
    return Merger(combine=combine, weights=weights, scale=scale)


def tsv_c(*, share: Coef = None, scale: Coef = None, weights: Coef = None) -> Merger:
    r"""TSV-Compress: the sum of task matrices cut to their leading directions.

        merged = theta_0 + scale * sum_t w_t U_t,k S_t,k V_t,k^T

    Merge one expert alone, with `share=1 / T`, for its model as TSV-Compress keeps it:
    with T experts' factors in the place of one model. All together are the paper's
    low-rank task arithmetic, to which TSV-M adds the orthogonal factors.

    Args:
      share: of each matrix's singular directions, in (0, 1], at least one direction;
        1 / T if None.
      scale: multiplies the sum; 1 if None.
      weights: w, 1 each if None.

    Raises:
      ValueError: if a share is not in (0, 1].

    >>> import jax.numpy as jnp
    >>> base = {"w": jnp.zeros((2, 2))}
    >>> expert = {"w": jnp.diag(jnp.array([3.0, 1.0]))}
    >>> tsv_c(share=0.5)(base, [expert])["w"].tolist()
    [[3.0, 0.0], [0.0, 0.0]]

    References:
      Gargiulo et al., Task Singular Vectors: Reducing Task Interference in Model
      Merging, 2025, section 4.1.
    """
    if share is not None:
        check_each(share, "share", lambda x: 0 < x <= 1, "numbers above 0, at most 1")
    transforms = (LeadingDirections(share),)
    return Merger(transforms=transforms, weights=weights, scale=scale)

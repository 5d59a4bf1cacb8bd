"""Closed forms of regressions on layers' inputs: RegMean, LOT, ACE, ACTMat."""

import jax
import numpy as np

from jaxmerge._checks import check_values, is_concrete
from jaxmerge._matrices import Matrices
from jaxmerge._types import Coef
from jaxmerge.combine import (
    AdaptiveCovariance,
    ConflictTrimmed,
    GramMean,
    WudiFilter,
)
from jaxmerge.merger import Merger
from jaxmerge.recipes.choices import check_choice
from jaxmerge.transforms._domains import check_each


def regmean(
    *, off_diagonal: Coef = 0.9, weights: Coef = None, scale: Coef = None
) -> Merger:
    r"""RegMean: the matrix whose outputs on all experts' inputs are closest to theirs.

        merged = theta_0 + (sum_t w_t d_t G_t) inv(sum_t w_t G_t),    G_t = X_t^T X_t

    It needs `gram` statistics: for each matrix `[out, in]` the Gram matrix `[in, in]`
    of its inputs, summed or averaged over examples; a sum lets an expert with more
    examples count more. Leaves without any get the weighted mean, as in the authors'
    code. One reading of experts and statistics.

    Args:
      off_diagonal: what multiplies the Gram matrices' off-diagonal entries, in [0, 1];
        the paper's is 0.9, FusionBench's 0.95. At 1 the pseudo-inverse is taken.
      weights: w, 1 each if None.
      scale: what multiplies the merged delta; 1 in the paper.

    Raises:
      ValueError: if a number is out of range.

    >>> import jax.numpy as jnp
    >>> from jaxmerge import merge_leaves
    >>> base, experts = {"w": jnp.zeros((1, 2))}, [{"w": jnp.ones((1, 2))}] * 2
    >>> experts[1] = {"w": jnp.full((1, 2), 3.0)}
    >>> seen = [{"w": jnp.diag(jnp.array([1.0, 3.0]))}, {"w": jnp.eye(2)}]
    >>> merged = merge_leaves(regmean(), base, experts, statistics=seen)
    >>> merged["w"].tolist()
    [[2.0, 1.5]]

    References:
      Jin et al., Dataless Knowledge Fusion by Merging Weights of Language Models, 2023,
      eq. 2.
    """
    check_each(off_diagonal, "off_diagonal", lambda x: (x >= 0) & (x <= 1), "in [0, 1]")
    below = all(
        is_concrete(x) and np.all(np.asarray(x) < 1)
        for x in jax.tree.leaves(off_diagonal)
    )
    solver = "cholesky" if below else "pinv"
    combine = GramMean(off_diagonal, solver)
    return Merger(combine=combine, weights=weights, scale=scale)


def lot(*, weights: Coef = None, scale: Coef = None) -> Merger:
    r"""LOT: the deltas' outputs matched layer by layer on a few exemplars.

        matrices   sum_t w_t d_t G_t pinv(sum_t w_t G_t)
        gains      sum_t w_t g_t d_t / sum_t w_t g_t,    g_t = mean square of the inputs
        others     the weighted mean

    It needs `gram` statistics: of matrices as `regmean` does, of gains (vectors that
    multiply normalised inputs) the diagonal, of the vector's shape. On matrices it is
    RegMean without shrinking.

    Args:
      weights: w, 1 each if None.
      scale: what multiplies the merged delta; 1 in the paper.

    References:
      Sun et al., Towards Minimizing Feature Drift in Model Merging: Layer-wise Task
      Vector Fusion for Adaptive Knowledge Integration, 2025.
    """
    combine = GramMean(1.0, "pinv", vectors=True)
    return Merger(combine=combine, weights=weights, scale=scale)


def cat(
    *, directions: int, trade_off: Coef, weights: Coef = None, scale: Coef = None
) -> Merger:
    r"""CAT: the summed deltas, each without the outputs where it disturbs other tasks.

        merged = theta_0 + scale * sum_i (I - P_i) w_i d_i

    with `P_i` the projector onto the directions of the outputs in which the delta of
    task i, among those of others, would change another task k most: the leading
    eigenvectors of `sum_{i != k} d_i (G_k - trade_off G_i) d_i^T`, for every k. It
    needs `gram` statistics as `lot` does; of gains it drops entries, and leaves without
    a statistic are summed. See `jaxmerge.combine.ConflictTrimmed` for what is ours.

    Args:
      directions: c, the most that one task takes from the others in a layer, at least
        1; the paper's c and lambda are tuned for each suite, so neither has a default.
      trade_off: lambda, at least 0.
      weights: w, 1 each if None; they scale the deltas.
      scale: multiplies the merged delta; the paper tunes it.

    Raises:
      ValueError: if a number is out of range.

    >>> import jax.numpy as jnp
    >>> from jaxmerge import merge_leaves
    >>> base = {"w": jnp.zeros((2, 2))}
    >>> experts = [{"w": jnp.array([[1.0, 0], [0, 0]])}, {"w": jnp.diag(jnp.ones(2))}]
    >>> seen = [{"w": jnp.diag(jnp.array([0.0, 1.0]))}, {"w": jnp.diag(jnp.ones(2))}]
    >>> merger = cat(directions=1, trade_off=0.5)
    >>> merge_leaves(merger, base, experts, statistics=seen)["w"].tolist()
    [[1.0, 0.0], [0.0, 0.0]]

    References:
      Sun et al., CAT Merging: A Training-Free Approach for Resolving Conflicts in Model
      Merging, 2025, section 4.
    """
    check_values("directions", directions, lambda x: x >= 1, "at least 1")
    check_each(trade_off, "trade_off", lambda x: x >= 0, "numbers of at least 0")
    combine = ConflictTrimmed(int(directions), trade_off)
    return Merger(combine=combine, weights=weights, scale=scale)


def actmat(*, weights: Coef = None, scale: Coef = None) -> Merger:
    r"""ACTMat: RegMean with each delta's own Gram matrix in place of its inputs'.

        merged = theta_0 + (sum_t w_t d_t d_t^T d_t) pinv(sum_t w_t d_t^T d_t)

    No data: the rows of a delta are combinations of the inputs that made it. It is the
    exact minimiser of WUDI's loss where tasks count alike. Leaves that are no matrices
    get the weighted mean. Deltas of low rank do not interfere as long as their row
    spaces are independent.

    Args:
      weights: w, at least 0, 1 each if None.
      scale: what multiplies the merged delta; 1 in the paper.

    Raises:
      ValueError: if a weight is negative.

    References:
      ACTMat, 2026 (arXiv 2604.01329).
    """
    if weights is not None:
        check_each(weights, "weights", lambda x: x >= 0, "numbers of at least 0")
    combine = WudiFilter(1.0, "all", 1.0, by_energy=False)
    return Merger(combine=combine, weights=weights, scale=scale)


def ace(
    *,
    eps: Coef = None,
    tau: Coef = 0.3,
    k_frac: float = 0.3,
    variant: str = "paper",
    center: str | None = None,
    csp: bool = True,
    spectral: bool = True,
    gate: str = "paper",
    restore_mean: bool = False,
    in_axis: str = "matrix",
    scale: Coef = 1.0,
) -> Merger:
    r"""ACE-Merging: each expert counts along the inputs that its delta has moved.

        S_t = (d_t - 1 mu_t^T)^T (d_t - 1 mu_t^T)
        pre = sum_t d_t (S_t + eps_t I)  inv(sum_t (S_t + eps_t I) + 1 m^T)
        merged = theta_0 + scale * (pre + where the gate is on mean(s_k) U_k V_k^T)

    with `mu_t` the mean row, m the column means of `sum_t S_t`, and the gate on where
    `Var_t(log |d_t|^2) > tau * Mean_t(log |d_t|^2)^2`: there `S_t` and eps are divided
    by `tr S_t`, and the leading singular directions are raised. See
    `jaxmerge.combine.AdaptiveCovariance`. No data and no training; one pass.

    eps is absolute: where `eps * in / tr S_t` is far above 1 the merge is the mean.
    `jaxmerge.combine.ace_diagnostics` reports it. The prior halves what each row has
    along the all-ones input, so that merging equal experts does not return them;
    `csp=False` does. The paper writes weights for `d_t`; here, as in its code, deltas
    are merged.

    Args:
      eps: the ridge, above 0. None is 1e-5 (the paper's; RoBERTa 2e-4, GPT-2 4e-2) or,
        released, 1e-2.
      tau: the gate's threshold, at least 0.
      k_frac: the share of singular directions that are raised, in [0, 1].
      variant: `"paper"` or `"released"`, as the authors' code computes it.
      center: where mean rows are taken off: `"gram"`, `"both"` or `"none"`. None is
        `"gram"` (the paper's) or, released, `"both"`: mean rows are lost.
      csp: whether there is a collective prior.
      spectral: whether there is a refinement where the gate is on.
      gate: `"paper"`, which depends on the deltas' units, or `"scale_free"`: on where
        `Var_t(log |d_t|^2) > tau`.
      restore_mean: whether the mean of the mean rows is added.
      in_axis: the input's axis: `"matrix"` (as the merger's `matrices` say by name),
        `"last"` (`[out, in]`, and the authors' code for any layout), or `"first"` for
        `[in, out]`, as Flax and GPT-2 have.
      scale: alpha; the paper's is 1.

    Raises:
      ValueError: if a number is out of range or a choice does not exist.

    Experts that move different inputs do not dilute each other:

    >>> import jax.numpy as jnp
    >>> from jaxmerge import merge_leaves
    >>> one = jnp.array([[2.0, 0.0], [-2.0, 0.0]])
    >>> two = jnp.array([[0.0, 4.0], [0.0, -4.0]])
    >>> merge_leaves(ace(csp=False), None, [one, two]).round(3).tolist()
    [[2.0, 4.0], [-2.0, -4.0]]

    References:
      Xu et al., ACE-Merging: Data-Free Model Merging with Adaptive Covariance
      Estimation, CVPR 2026, arXiv 2603.02945.
    """
    check_choice(variant, ("paper", "released"), "variant")
    check_choice(gate, ("paper", "scale_free"), "gate")
    check_choice(in_axis, ("matrix", "last", "first"), "in_axis")
    paper = variant == "paper"
    center = ("gram" if paper else "both") if center is None else center
    check_choice(center, ("gram", "both", "none"), "center")
    eps = (1e-5 if paper else 1e-2) if eps is None else eps
    check_each(eps, "eps", lambda x: x > 0, "a number above 0")
    check_each(tau, "tau", lambda x: x >= 0, "a number of at least 0")
    check_values("k_frac", k_frac, lambda x: (x >= 0) & (x <= 1), "a share in [0, 1]")
    combine = AdaptiveCovariance(
        eps=eps,
        tau=tau,
        k_frac=k_frac,
        variant=variant,
        center=center,
        csp=csp,
        spectral=spectral,
        gate=gate,
        restore_mean=restore_mean,
    )
    layout = {"matrix": "named", "last": "out_in", "first": "in_out"}[in_axis]
    return Merger(combine=combine, scale=scale, matrices=Matrices(layout=layout))

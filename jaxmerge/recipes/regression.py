"""Closed forms of regressions on the inputs of each layer: ACE-Merging."""

from jaxmerge._checks import check_values
from jaxmerge._types import Coef
from jaxmerge.combine import AdaptiveCovariance
from jaxmerge.merger import Merger
from jaxmerge.recipes.choices import check_choice
from jaxmerge.transforms._domains import check_each


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
      in_axis: the input's axis: `"matrix"` (as the merger's `matrices` say, `[out,
        in]`), `"last"`, or `"first"` for kernels `[in, out]`, as Flax and GPT-2 have.
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
        in_axis=in_axis,
    )
    return Merger(combine=combine, scale=scale)

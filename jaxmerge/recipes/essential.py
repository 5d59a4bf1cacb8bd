"""Essential subspaces: merges by what deltas do to outputs."""

from jaxmerge._types import Coef
from jaxmerge.combine.essential import EssentialSubspaces
from jaxmerge.merger import Merger


def esm(*, scale: Coef = 1.0, weights: Coef = None) -> Merger:
    r"""ESM: the directions in which each task moves outputs most, made orthogonal.

        d_t G_t d_t^T = E_t diag(l_t) E_t^T,  cut to floor(out / T) directions
        merged = theta_0 + scale * 2 mean(s) mean(s') polar(U) polar(V)^T

    with U the `E_t` and V the `d_t^T E_t`, weighed by their eigenvalues, tasks' and
    inputs' norms; see `jaxmerge.combine.EssentialSubspaces`. It needs `gram` statistics
    as `regmean` does, of a few examples: 32 images in the paper. Matrices without any
    are merged by TSV-M, other leaves by the mean. The authors' last step compares
    layers, which no leaf can: `balance_layers` does it on the merged model.

    Args:
      scale: alpha, chosen on validation data in the paper.
      weights: w, 1 each if None; they scale a task's share of V.

    References:
      Essential Subspace Merging, 2026 (arXiv 2602.20208).
    """
    return Merger(combine=EssentialSubspaces(), weights=weights, scale=scale)

"""RHT: reparameterized heavy-tailed merging."""

from jaxmerge._types import Coef
from jaxmerge.combine import SignElectedMean
from jaxmerge.merger import Merger
from jaxmerge.recipes.choices import check_choice
from jaxmerge.transforms import KeepLargest, ReparameterizedNoise
from jaxmerge.transforms.sparsify import check_density


def rht(
    *,
    density: Coef = 0.7,
    divisor: Coef = None,
    weights: Coef = None,
    scale: Coef = None,
    sign: str = "total",
    normalize_weights: bool = True,
    divide_by_count: bool = True,
    space: str = "factors",
    norm_matched: bool = False,
    noise: ReparameterizedNoise | None = None,
    compat: str = "paper",
) -> Merger:
    r"""RHT, reparameterized heavy-tailed: keep the largest entries, amplify them.

        d_t   = the `int(density * n)` largest of theta_t - theta_0, over the divisor
        e     = sign(sum_t d_t), with sign(0) = +1      (an unweighted vote)
        delta = sum over agreeing t of w_t d_t / max(number agreeing, 1)

    with weights that sum to 1. With the defaults this is `ties(...) / density`, so it
    enlarges the merged delta (1.42 times for Gaussian entries at 0.7). Compare it with
    `scalar_control(rht(...))`, which has the same size and an unchanged shape, before
    crediting the shape.

    Args:
      density: rho, in (0, 1]; 1 leaves tensors as they are, not rescaled.
      divisor: what kept entries are divided by; the density if None.
      weights: w, 1 each if None; may be negative.
      scale: a further factor on the merged delta.
      sign: the election: `"total"` (the sum) or `"frequency"` (the sum of signs).
      normalize_weights: whether weights are divided by their sum. With it and
        `divide_by_count` merging T equal experts gives 1/T of their delta, as the
        paper's code does; switch it off for an idempotent merge.
      divide_by_count: whether to divide by the number of agreeing experts.
      space: for `LowRank` experts: `"factors"` prunes and merges A and B each for
        itself, as the paper's code does; `"product"` the products.
      norm_matched: restore each delta's l2 norm instead of dividing: the effect of
        shape alone.
      noise: a `ReparameterizedNoise`, added to the merged delta. The paper's code
        refers to such a switch and its definition was not published: a reconstruction,
        off by default. Needs a key.
      compat: `"paper"`, or `"reference"`: pruned deltas are rounded to the dtype that
        they are stored in, as the paper's code computes.

    Raises:
      ValueError: if a density is outside (0, 1], or a choice unknown.

    >>> import jax.numpy as jnp
    >>> experts = [jnp.array([3.0, -1, 2, -4, 0.5]), jnp.array([-2.0, 1, 4, -1, 0.25])]
    >>> rht(density=0.6)(None, experts)[::2].tolist()
    [2.5, 2.5, 0.0]

    References:
      Wang et al., Why Do More Experts Fail? A Theoretical Analysis of Model Merging,
      2025; the operator is known from the paper's code.
    """
    check_choice(sign, ("total", "frequency"), "sign")
    check_choice(space, ("factors", "product"), "space")
    check_choice(compat, ("paper", "reference"), "compat")
    check_density(density, "density")
    return Merger(
        transforms=(
            KeepLargest(
                density, divisor=divisor, rescale="l2" if norm_matched else "density"
            ),
        ),
        combine=SignElectedMean(
            vote=sign,
            divisor="count" if divide_by_count else "none",
            normalize_weights=normalize_weights,
        ),
        weights=weights,
        scale=scale,
        post=() if noise is None else (noise,),
        space=space,
        rounding="storage" if compat == "reference" else "none",
    )

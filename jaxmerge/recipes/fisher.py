"""Fisher merging."""

from jaxmerge._types import Coef
from jaxmerge.combine import FisherMean
from jaxmerge.merger import Merger
from jaxmerge.recipes.choices import check_choice
from jaxmerge.transforms._domains import check_each


def fisher(
    *,
    floor: Coef = 1e-6,
    weights: Coef = None,
    scale: Coef = None,
    compat: str = "paper",
) -> Merger:
    r"""Fisher merging: each expert counts where its loss depends on a parameter.

        merged = theta_0 + sum_t w_t F_t d_t / sum_t w_t F_t,    F_t = max(F_t, floor)

    It needs `fisher` statistics: for each leaf an array of its shape, the mean squared
    gradients of the expert's log likelihood. To normalise whole Fishers, as FusionBench
    does by default, give `weights=1 / norms`.

    Args:
      floor: the least that an entry counts, at least 0; where all count 0 the base
        stays.
      weights: w, 1 each if None.
      scale: what multiplies the merged delta; 1 in the paper.
      compat: `"paper"`, or `"reference"`: the floor is added, as in FusionBench.

    Raises:
      ValueError: if the floor is negative.

    >>> import jax.numpy as jnp
    >>> base, experts = {"w": jnp.zeros(2)}, [{"w": jnp.ones(2)}, {"w": jnp.zeros(2)}]
    >>> fishers = [{"w": jnp.array([3.0, 0.0])}, {"w": jnp.array([1.0, 1.0])}]
    >>> fisher(floor=0.0)(base, experts, statistics=fishers)["w"].tolist()
    [0.75, 0.0]

    References:
      Matena, Raffel, Merging Models with Fisher-Weighted Averaging, 2022, eq. 4.
    """
    check_choice(compat, ("paper", "reference"), "compat")
    check_each(floor, "floor", lambda x: x >= 0, "a number of at least 0")
    return Merger(combine=FisherMean(floor, compat), weights=weights, scale=scale)

"""Norms and angles: SLERP and Model Stock."""

from jaxmerge._types import Coef
from jaxmerge.combine import ModelStock, SphericalInterpolation
from jaxmerge.merger import Merger
from jaxmerge.recipes.choices import check_choice


def slerp(*, t: Coef = 0.5) -> Merger:
    r"""Spherical interpolation between two models, tensor by tensor.

    Args:
      t: from 0 (the first model) to 1 (the second).

    Returns:
      A merger of exactly two models; the base gives only structure and dtypes.

    >>> import jax.numpy as jnp
    >>> models = [{"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 1.0])}]
    >>> slerp(t=0.5)(None, models)["w"].round(3)
    Array([0.707, 0.707], dtype=float32)

    References:
      Shoemake, Animating rotation with quaternion curves, 1985, section 3.
    """
    return Merger(combine=SphericalInterpolation(t))


def model_stock(*, filter_wise: bool = False, compat: str = "paper") -> Merger:
    r"""Model Stock: the mean of the experts, drawn towards the base.

        merged = r * mean_t theta_t + (1 - r) * theta_0,    r = T c / (1 + (T - 1) c)

    Args:
      filter_wise: one ratio per row (last axis) instead of one per tensor.
      compat: `"paper"`, or `"mergekit"` (see `ModelStock`).

    References:
      Jang et al., Model Stock: All we need is just a few fine-tuned models, 2024,
      eq. 5.
    """
    check_choice(compat, ("paper", "mergekit"), "compat")
    return Merger(combine=ModelStock(filter_wise=filter_wise, compat=compat))

"""Norms and angles: SLERP and its relatives, Model Stock, NearSwap."""

from jaxmerge._checks import check_values
from jaxmerge._types import Coef
from jaxmerge.combine import (
    ClippedDelta,
    KarcherMean,
    ModelStock,
    SphericalInterpolation,
    SphericalMean,
    WeightedInterpolation,
)
from jaxmerge.merger import Merger
from jaxmerge.recipes.choices import check_choice
from jaxmerge.transforms._domains import check_each


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


def nuslerp(
    *,
    weights: Coef = None,
    flatten: bool = True,
    row_wise: bool = False,
    frame: str = "delta",
) -> Merger:
    r"""NuSLERP: spherical interpolation of two task vectors, by their weights.

    As `slerp` with `t = w_1 / (w_0 + w_1)`, but of what the models changed, and without
    its straight line near `cos = 1`.

    Args:
      weights: w, 1 each if None: halfway.
      flatten: whether each tensor is one vector; else each row of it.
      row_wise: whether, if not flattened, the first axis is interpolated along instead
        of the last.
      frame: `"delta"`, the task vectors (without a base, the tensors themselves);
        `"absolute"`, the weights of the models even if there is a base.

    Returns:
      A merger of exactly two models.

    >>> import jax.numpy as jnp
    >>> models = [{"w": jnp.array([3.0, 1.0])}, {"w": jnp.array([1.0, 3.0])}]
    >>> nuslerp()({"w": jnp.ones(2)}, models)["w"].round(3)
    Array([2.414, 2.414], dtype=float32)

    References:
      mergekit's method `nuslerp`; it is not published elsewhere.
    """
    check_choice(frame, ("delta", "absolute"), "frame")
    combine = WeightedInterpolation(flatten, row_wise, frame)
    return Merger(combine=combine, weights=weights)


def multislerp(
    *,
    weights: Coef = None,
    normalize_weights: bool = True,
    eps: Coef = 1e-8,
    frame: str = "delta",
) -> Merger:
    r"""Multi-SLERP: the mean direction of many task vectors, with their mean norm.

        merged = theta_0 + (sum_t w_t |d_t|) * u / |u|,    u = sum_t w_t d_t / |d_t|

    Args:
      weights: w, 1 each if None.
      normalize_weights: whether they are divided by their sum.
      eps: what is added to norms, above 0.
      frame: as in `nuslerp`.

    Raises:
      ValueError: if eps is not above 0, or the weights sum to zero.

    >>> import jax.numpy as jnp
    >>> models = [{"w": jnp.array([3.0, 0.0])}, {"w": jnp.array([0.0, 1.0])}]
    >>> multislerp()({"w": jnp.zeros(2)}, models)["w"].round(3)
    Array([1.414, 1.414], dtype=float32)

    References:
      mergekit's method `multislerp`; it is not published elsewhere.
    """
    check_choice(frame, ("delta", "absolute"), "frame")
    check_each(eps, "eps", lambda v: v > 0, "a number above 0")
    return Merger(combine=SphericalMean(normalize_weights, eps, frame), weights=weights)


def karcher(
    *,
    weights: Coef = None,
    max_iter: int = 10,
    tol: Coef = 1e-5,
    frame: str = "absolute",
) -> Merger:
    r"""The Karcher mean: the direction of least squared angle to all models.

        merged = (sum_t w_t |theta_t|) * argmin_{|u| = 1} sum_t w_t angle(u, theta_t)^2

    tensor by tensor, with weights divided by their sum.

    Args:
      weights: w, 1 each if None.
      max_iter: the most steps, at least 0; 0 gives the normalised mean of directions.
      tol: steps shorter than this end the iteration (radians), at least 0.
      frame: `"absolute"`, the weights of the models; `"delta"`, their task vectors.

    Returns:
      A merger whose state holds all models.

    Raises:
      ValueError: if a number is negative, or the weights sum to zero.

    >>> import jax.numpy as jnp
    >>> models = [{"w": jnp.array([2.0, 0.0])}, {"w": jnp.array([0.0, 2.0])}]
    >>> karcher()(None, models)["w"].round(3)
    Array([1.414, 1.414], dtype=float32)

    References:
      Karcher, Riemannian center of mass and mollifier smoothing, 1977; on models
      mergekit's method `karcher`.
    """
    check_choice(frame, ("absolute", "delta"), "frame")
    check_values("max_iter", max_iter, lambda x: x >= 0, "at least 0")
    check_each(tol, "tol", lambda v: v >= 0, "a number of at least 0")
    return Merger(combine=KarcherMean(max_iter, tol, frame), weights=weights)


def nearswap(*, t: Coef = 1e-4) -> Merger:
    r"""NearSwap: entries near the base's are swapped, others move by t towards them.

        merged = theta_0 + clip(theta_1 - theta_0, -t, t)

    Args:
      t: the longest step of an entry, in the unit of the weights; at least 0.

    Returns:
      A merger of exactly one model with its base.

    Raises:
      ValueError: if t is negative.

    >>> import jax.numpy as jnp
    >>> models = [{"w": jnp.array([0.25, -3.0])}]
    >>> nearswap(t=0.5)({"w": jnp.zeros(2)}, models)["w"].tolist()
    [0.25, -0.5]

    References:
      mergekit's method `nearswap`, of the model QuartetAnemoi-70B-t0.0001.
    """
    check_each(t, "t", lambda v: v >= 0, "a number of at least 0")
    return Merger(combine=ClippedDelta(t))

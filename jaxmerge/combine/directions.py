"""Means of directions: NuSLERP between two tensors, Multi-SLERP among many."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._arithmetic import accumulate, product, quotient, safe_divide
from jaxmerge._types import Coef, Leaf, coefficient, pytree, static
from jaxmerge.combine.sphere import along_arc, into_slot, safe_norm, safe_root

# Closer than this to 1 the cosine of float32 vectors tells no angle; there the sines'
# ratio is that of a straight line to 3e-7.
_COLLINEAR = 1e-6


@pytree
class WeightedInterpolation:
    r"""NuSLERP: spherical interpolation of two tensors by their weights.

    With `t = w_1 / (w_0 + w_1)` and the angle theta between the two:

        (sin((1 - t) theta) x_0 + sin(t theta) x_1) / sin(theta)

    and `(1 - t) x_0 + t x_1` where they are parallel, opposite, or one is zero: between
    opposite vectors there is no shortest arc. Weights that cancel give t = 1/2, as in
    mergekit; t outside of [0, 1] extrapolates. The state holds both tensors.

    Attributes:
      flatten: whether each tensor is one vector; else each row (last axis) is one.
      row_wise: whether, if not flattened, the first axis is interpolated along instead
        of the last.
      frame: `"delta"`: task vectors are interpolated (the tensors themselves where the
        merge has no base); or `"absolute"`: the weights of the models.
    """

    flatten: bool = static(default=True)
    row_wise: bool = static(default=False)
    frame: str = static(default="delta")
    holds_all = True

    @property
    def uses_shape(self) -> bool:
        return not self.flatten

    def check_experts(self, num: int) -> None:
        if num != 2:
            raise ValueError(
                f"nuslerp interpolates between two models and was given {num}; merge "
                "more with multislerp or karcher"
            )

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        return into_slot(delta, leaf), into_slot(weight, leaf)

    def join(self, a: Any, b: Any) -> Any:
        return accumulate(a, b)

    def _sum(self, x: Array) -> Array:
        if self.flatten or x.ndim == 0:
            return jnp.sum(x)
        return jnp.sum(x, axis=0 if self.row_wise else -1, keepdims=True)

    def finish(self, state: Any, leaf: Leaf) -> Array:
        del leaf
        (first, second), (own, other) = state
        total = own + other
        t = safe_divide(other, jnp.where(jnp.abs(total) < 1e-6, 0.0, total), 0.5)
        squares = self._sum(first * first), self._sum(second * second)
        norms = safe_root(squares[0]) * safe_root(squares[1])
        cosine = safe_divide(self._sum(first * second), norms)
        line = (jnp.abs(cosine) > 1 - _COLLINEAR) | (norms == 0)
        return along_arc(first, second, t, cosine, line)


@pytree
class SphericalMean:
    r"""Multi-SLERP: the mean direction of tensors, with the mean of their norms.

        delta = (sum_t w_t |x_t|) * u / |u|,    u = sum_t w_t x_t / (|x_t| + eps)

    Published as a mean in the tangent space at u: the tangents of the x_t add up to
    zero there, so that the formula above is all that is left of it, and one sum for
    each of its parts is the whole state, however many tensors there are. A zero tensor
    has no direction but counts in the mean norm. Where the directions cancel (opposite
    tensors of equal weights: |u| is below `eps`, or no more than rounding) the result
    is the mean `sum_t w_t x_t`. mergekit has that for two tensors and refuses more; but
    it compares with eps alone, and then makes a direction of the rounding.

    Attributes:
      normalize_weights: whether the weights are first divided by their sum.
      eps: what is added to norms, above 0.
      frame: as in `WeightedInterpolation`.
    """

    normalize_weights: bool = static(default=True)
    eps: Coef = coefficient(default=1e-8)
    frame: str = static(default="delta")

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        del leaf
        norm = safe_norm(delta)
        eps = jnp.asarray(self.eps).astype(delta.dtype)
        return {
            "directions": product(weight / (norm + eps), delta),
            "line": product(weight, delta),
            "norm": weight * norm,
            "weight": weight,
            "size": jnp.abs(weight),
        }

    def join(self, a: Any, b: Any) -> Any:
        return accumulate(a, b)

    def finish(self, state: Any, leaf: Leaf) -> Array:
        del leaf
        mean, line, size = state["directions"], state["line"], state["norm"]
        rounding = 8 * jnp.finfo(mean.dtype).eps * state["size"]
        length = safe_norm(mean)
        none = length <= rounding
        if self.normalize_weights:
            mean = quotient(mean, state["weight"])
            line = quotient(line, state["weight"])
            size = size / state["weight"]
        length = safe_norm(mean)
        none = none | (length < jnp.asarray(self.eps).astype(length.dtype))
        return jnp.where(none, line, size * safe_divide(mean, length))

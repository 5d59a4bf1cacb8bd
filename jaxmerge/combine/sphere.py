"""Interpolation that respects norms and angles: SLERP and Model Stock."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._arithmetic import accumulate, safe_divide
from jaxmerge._types import Coef, Leaf, coefficient, pytree, static


def into_slot(x: Array, leaf: Leaf) -> Array:
    """A zero buffer with one slot per expert, and `x` in this expert's."""
    assert leaf.slots is not None, "a combine that holds_all"
    slots = jnp.arange(leaf.slots, dtype=jnp.int32)
    mine = (slots == leaf.t).reshape(-1, *[1] * x.ndim)
    return jnp.where(mine, x[None], jnp.zeros((), x.dtype))


def sum_of_slots(slots: Array, scales: Array | None = None) -> Array:
    """The sum over the experts of a buffer with a slot for each, each times a scale.

    Unrolled: XLA compiles a reduction over a short leading axis to a loop that is a
    hundred times slower on CPUs.

    Args:
      slots: as `into_slot` makes them.
      scales: one for each; 1 if None.
    """
    parts = (
        list(slots)
        if scales is None
        else [s * x for s, x in zip(scales, slots, strict=True)]
    )
    return functools.reduce(jnp.add, parts)


def safe_root(square: Array) -> Array:
    """The square root, with gradient 0 at 0."""
    zero = square == 0
    root = jnp.sqrt(jnp.where(zero, jnp.ones_like(square), square))
    return jnp.where(zero, jnp.zeros_like(root), root)


def safe_norm(x: Array) -> Array:
    """The Euclidean norm of a whole tensor, with gradient 0 at 0."""
    return safe_root(jnp.sum(x * x))


def along_arc(
    first: Array, second: Array, t: Array, cosine: Array, line: Array
) -> Array:
    """SLERP at t of tensors with the given cosine; a straight line where `line`."""
    angle = jnp.arccos(jnp.where(line, jnp.zeros_like(cosine), cosine))
    sine = jnp.sin(angle)
    a = jnp.where(line, 1 - t, jnp.sin((1 - t) * angle) / sine)
    b = jnp.where(line, t, jnp.sin(t * angle) / sine)
    return a * first + b * second


@pytree
class SphericalInterpolation:
    r"""SLERP of two tensors, each taken as one flat vector.

    With the unit vectors' angle theta:

        sin((1 - t) theta) / sin(theta) * x_0  +  sin(t theta) / sin(theta) * x_1

    and `(1 - t) x_0 + t x_1` where `|cos theta| > 0.9995`. The tensors themselves are
    combined, not their unit vectors, as every published implementation does.

    Attributes:
      t: from 0 (the first model) to 1 (the second).
    """

    t: Coef = coefficient(default=0.5)
    frame: str = static(default="absolute")
    holds_all = True

    def check_experts(self, num: int) -> None:
        if num != 2:
            raise ValueError(
                f"slerp interpolates between two models and was given {num}; merge "
                "more with model_stock or average"
            )

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Array:
        del weight
        return into_slot(delta, leaf)

    def join(self, a: Array, b: Array) -> Array:
        return accumulate(a, b)

    def finish(self, state: Array, leaf: Leaf) -> Array:
        first, second = state[0], state[1]
        t = jnp.asarray(self.t).astype(first.dtype)
        norms = safe_norm(first) * safe_norm(second)
        cosine = safe_divide(jnp.sum(first * second), norms)
        close = (jnp.abs(cosine) > 0.9995) | (norms == 0)
        return along_arc(first, second, t, cosine, close)


@pytree
class ModelStock:
    r"""Model Stock: the mean, drawn towards the base by how much the experts disagree.

    With the mean pairwise cosine c of the T deltas,

        ratio = T c / (1 + (T - 1) c),      delta = ratio * mean_t d_t

    The mean cosine needs no pairs: `sum_{s != t} cos = |sum_t u_t|^2 - sum_t |u_t|^2`
    with unit vectors `u_t`, so the state does not grow with T. A zero delta counts with
    cosine 0. Where c is so negative that the formula has no finite value (T experts
    that cancel) the ratio is 0 and the base stays.

    Attributes:
      filter_wise: one ratio for each row (last axis) instead of one for the tensor.
      compat: `"paper"`, or `"mergekit"`, which divides each dot product by at least
        1e-6: deltas of norm below 1e-3 count as orthogonal. Its state holds all
        experts.

    References:
      Jang et al., Model Stock: All we need is just a few fine-tuned models, 2024,
      eq. 5.
    """

    filter_wise: bool = static(default=False)
    compat: str = static(default="paper")
    frame: str = static(default="delta")

    @property
    def uses_shape(self) -> bool:
        return self.filter_wise

    @property
    def holds_all(self) -> bool:
        return self.compat == "mergekit"

    def check_experts(self, num: int) -> None:
        if num < 2:
            raise ValueError("model_stock needs two experts or more, and was given one")

    def _sum(self, x: Array) -> Array:
        if self.filter_wise and x.ndim > 0:
            return jnp.sum(x, axis=-1, keepdims=True)
        return jnp.sum(x)

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        del weight
        if self.compat == "mergekit":
            return into_slot(delta, leaf)
        square = self._sum(delta * delta)
        zero = square == 0
        root = jnp.sqrt(jnp.where(zero, jnp.ones_like(square), square))
        unit = delta / root
        return delta, unit, (~zero).astype(delta.dtype)

    def join(self, a: Any, b: Any) -> Any:
        return accumulate(a, b)

    def finish(self, state: Any, leaf: Leaf) -> Array:
        num = jnp.asarray(leaf.num_experts).astype(
            jnp.result_type(*jax.tree.leaves(state))
        )
        if self.compat == "mergekit":
            total, cosine = sum_of_slots(state), self._clamped_cosine(state)
        else:
            total, units, nonzero = state
            cosine = (self._sum(units * units) - nonzero) / (num * (num - 1))
        below = 1 + (num - 1) * cosine
        ratio = num * cosine * safe_divide(jnp.ones_like(below), below)
        # PSD Gram: below >= 0 up to rounding; at 0 the experts cancel.
        ratio = jnp.where(below > 1e-6, ratio, jnp.zeros_like(ratio))
        return ratio * (total / num)

    def _clamped_cosine(self, deltas: Array) -> Array:
        num = deltas.shape[0]
        norms = [jnp.sqrt(self._sum(delta * delta)) for delta in deltas]
        cosines = [
            jnp.clip(
                self._sum(deltas[i] * deltas[j])
                / jnp.maximum(norms[i] * norms[j], 1e-6),
                -1.0,
                1.0,
            )
            for i in range(num)
            for j in range(i)
        ]
        return sum(cosines[1:], cosines[0]) / len(cosines)

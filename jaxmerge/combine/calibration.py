"""Singular value calibration: the merged spectrum, corrected for what tasks share."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._arithmetic import accumulate, safe_divide
from jaxmerge._types import Coef, Leaf, coefficient, pytree
from jaxmerge.combine.decompositions import thin_svd, whole


@pytree
class Decomposed:
    """Any combine, whose result is decomposed for the pass after it.

    Attributes:
      combine: the last pass of a merge.
      scale: what multiplies its delta; 1 if None.
    """

    combine: Any
    scale: Coef = coefficient(default=None)
    uses_shape = True

    @property
    def frame(self) -> str:
        return self.combine.frame

    @property
    def holds_all(self) -> bool:
        return getattr(self.combine, "holds_all", False)

    @property
    def normalize(self) -> bool:
        return getattr(self.combine, "normalize", False)

    @property
    def normalize_weights(self) -> bool:
        return getattr(self.combine, "normalize_weights", False)

    @property
    def needs(self) -> str | None:
        return getattr(self.combine, "needs", None)

    def side_shape(self, shape: tuple[int, ...], matrix: Any) -> Any:
        return self.combine.side_shape(shape, matrix)

    def check_experts(self, num: int) -> None:
        if hasattr(self.combine, "check_experts"):
            self.combine.check_experts(num)

    def bind(self, size: int) -> "Decomposed":
        if not hasattr(self.combine, "bind"):
            return self
        return dataclasses.replace(self, combine=self.combine.bind(size))

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        return self.combine.lift(delta, weight, leaf)

    def join(self, a: Any, b: Any) -> Any:
        return self.combine.join(a, b)

    def finish(self, state: Any, leaf: Leaf) -> Any:
        merged = self.combine.finish(state, leaf)
        if self.scale is not None:
            merged = jnp.asarray(self.scale).astype(merged.dtype) * merged
        if leaf.matrix is None:
            return merged
        return thin_svd(whole(merged))


@pytree
class SingularValueCalibration:
    r"""SVC: scales each singular direction of a merge by how much tasks share it.

        m = sum_r sigma_r u_r v_r^T,    a_r = u_r^T m,    y_r^t = u_r^T d_t
        s_r^t = <a_r, y_r^t> / |y_r^t|^2
        sigma_r <- sigma_r T / sum_t max(floor, s_r^t)

    A direction that several tasks have in common is added up by a sum and counts too
    much (s above 1); one that a task has for itself is left alone. The pass after a
    `Decomposed` one.

    Attributes:
      floor: alpha, the least that a task's share counts; 1 / T if None.

    References:
      When Shared Knowledge Hurts: Spectral Over-Accumulation in Model Merging,
      2026, algorithm 1 (arXiv 2602.05536).
    """

    floor: Coef = coefficient(default=None)
    frame = "delta"
    uses_shape = True

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        del weight
        if leaf.matrix is None:
            return jnp.zeros((), delta.dtype)
        u, s, v = leaf.stats
        highest = jax.lax.Precision.HIGHEST
        matrix = whole(delta)
        rows = jnp.matmul(jnp.swapaxes(u, -1, -2), matrix, precision=highest)
        along = s * jnp.sum(rows * jnp.swapaxes(v, -1, -2), axis=-1)
        share = safe_divide(along, jnp.sum(rows * rows, axis=-1))
        num = jnp.asarray(leaf.num_experts).astype(s.dtype)
        floor = 1 / num if self.floor is None else jnp.asarray(self.floor)
        return jnp.maximum(floor.astype(s.dtype), share)

    def join(self, a: Array, b: Array) -> Array:
        return accumulate(a, b)

    def finish(self, state: Array, leaf: Leaf) -> Array:
        if leaf.matrix is None:
            return leaf.stats
        u, s, v = leaf.stats
        num = jnp.asarray(leaf.num_experts).astype(s.dtype)
        values = s * safe_divide(jnp.broadcast_to(num, state.shape), state)
        return (u * values[..., None, :]) @ jnp.swapaxes(v, -1, -2)

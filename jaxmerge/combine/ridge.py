"""Ridge regression on inputs that are read off the deltas, at a norm between two."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._arithmetic import accumulate, product, quotient, safe_divide
from jaxmerge._types import Coef, Leaf, coefficient, pytree, static
from jaxmerge.combine.ace import divide_by_spd
from jaxmerge.combine.decompositions import matmul, transposed, whole
from jaxmerge.combine.sphere import safe_norm, safe_root


@pytree
class _Sums:
    """`sum w G`, `sum w d G`, `sum w d`, `sum w` and `sum w |d|^2`."""

    kernel: Any
    target: Any
    total: Any
    weight: Any
    energy: Any


@pytree
class RidgeMean:
    r"""The mean by each delta's own Gram matrix and white noise, between two norms.

        G_t = n d_t^T d_t / |d_t|^2,    A_t = G_t + c I
        m = sum_t w_t d_t A_t inv(sum_t w_t A_t)
        delta = m / |m| * sqrt(|mean_t d_t| * rms_t |d_t|)

    Where a task's inputs are known to lie, its delta counts alone; where nothing is
    known of any task's, deltas are averaged. The ridge keeps the inverse away from the
    point where the ranks of the experts add up to the inputs. The norm is between the
    mean's, which is too small, and one expert's, which is too large, as deltas of many
    experts add up to noise. Leaves that are no matrices get the mean, at such a norm.

    A method of ours: see `jaxmerge.default`.

    Attributes:
      ridge: c, positive; G_t has trace n, so at 1 both parts count alike.
    """

    ridge: Coef = coefficient(default=1.0)
    frame: str = static(default="delta")
    uses_shape = True

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> _Sums:
        square = jnp.sum(delta * delta)
        energy = weight * square
        total = product(weight, delta)
        if leaf.matrix is None:
            return _Sums(None, None, total, weight, energy)
        matrix = whole(delta)
        share = weight * safe_divide(
            jnp.asarray(matrix.shape[-1], matrix.dtype), square
        )
        kernel = product(share, matmul(transposed(matrix), matrix))
        return _Sums(kernel, matmul(matrix, kernel), whole(total), weight, energy)

    def join(self, a: _Sums, b: _Sums) -> _Sums:
        return accumulate(a, b)

    def finish(self, state: _Sums, leaf: Leaf) -> Array:
        mean = quotient(state.total, state.weight)
        merged = mean
        if leaf.matrix is not None:
            ridge = jnp.asarray(self.ridge).astype(mean.dtype)
            eye = jnp.eye(mean.shape[-1], dtype=mean.dtype)
            merged = divide_by_spd(
                state.target + ridge * state.total,
                state.kernel + ridge * state.weight * eye,
            )
        typical = safe_root(quotient(state.energy, state.weight))
        wanted = safe_root(safe_norm(mean) * typical)
        return merged * safe_divide(wanted, safe_norm(merged))

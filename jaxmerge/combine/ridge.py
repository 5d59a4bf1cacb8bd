"""Ridge regression on inputs that are read off the deltas, at a norm between two."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._arithmetic import accumulate, product, quotient, safe_divide
from jaxmerge._types import Coef, Leaf, coefficient, pytree, static
from jaxmerge.combine.ace import divide_by_spd, one_number
from jaxmerge.combine.decompositions import matmul, transposed, whole
from jaxmerge.combine.sphere import safe_norm, safe_root

_FLOOR = 16.0  # roundings of the kernel's trace


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

    Where deltas move different inputs, each keeps more than in the mean; where nothing
    is known of a task's inputs, deltas are averaged. The ridge keeps the inverse away
    from the point where the ranks of the experts add up to the inputs. The norm is the
    geometric mean of two: that of the mean of many deltas is small, and what is solved
    for adds up to much more than one expert's. Leaves that are no matrices get the
    mean, at such a norm. `G_t` does not depend on the size of a delta, so that a tiny
    one counts and one that is zero does not.

    A method of ours: see `jaxmerge.default`.

    Attributes:
      ridge: c, positive; G_t has trace n, so at 1 both parts count alike. At least 16
        roundings of n.
    """

    ridge: Coef = coefficient(default=1.0)
    frame: str = static(default="delta")
    normalize = True
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
            least = _FLOOR * jnp.finfo(mean.dtype).eps * mean.shape[-1]
            ridge = jnp.maximum(one_number("ridge", self.ridge, mean), least)
            eye = jnp.eye(mean.shape[-1], dtype=mean.dtype)
            merged = divide_by_spd(
                state.target + ridge * state.total,
                state.kernel + ridge * state.weight * eye,
            )
        typical = safe_root(quotient(state.energy, state.weight))
        wanted = safe_root(safe_norm(mean)) * safe_root(typical)
        return merged * safe_divide(wanted, safe_norm(merged))

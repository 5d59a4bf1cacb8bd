"""Ridge regression on inputs that are read off the deltas, at a norm between two."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._arithmetic import accumulate, product, quotient, safe_divide
from jaxmerge._types import Coef, Leaf, coefficient, pytree, static
from jaxmerge.combine.ace import FLOOR, divide_by_spd, one_number
from jaxmerge.combine.decompositions import whole
from jaxmerge.combine.interference import GramSums, gram_sums
from jaxmerge.combine.sphere import safe_norm, safe_root


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

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> tuple[GramSums, Array]:
        """The sums of WUDI with other shares, and the weighted squared norm."""
        square = jnp.sum(delta * delta)
        energy, total = weight * square, product(weight, delta)
        if leaf.matrix is None:
            return GramSums(None, None, total, weight), energy
        matrix = whole(delta)
        size = jnp.asarray(matrix.shape[-1], matrix.dtype)
        share = weight * safe_divide(size, square)
        return gram_sums(matrix, share, whole(total), weight), energy

    def join(self, a: Any, b: Any) -> Any:
        return accumulate(a, b)

    def finish(self, state: tuple[GramSums, Array], leaf: Leaf) -> Array:
        sums, energy = state
        mean = quotient(sums.total, sums.weight)
        merged = mean
        if leaf.matrix is not None:
            least = FLOOR * jnp.finfo(mean.dtype).eps * mean.shape[-1]
            ridge = jnp.maximum(one_number("ridge", self.ridge, mean), least)
            eye = jnp.eye(mean.shape[-1], dtype=mean.dtype)
            merged = divide_by_spd(
                sums.target + ridge * sums.total,
                sums.kernel + ridge * sums.weight * eye,
            )
        typical = safe_root(quotient(energy, sums.weight))
        wanted = safe_root(safe_norm(mean)) * safe_root(typical)
        return merged * safe_divide(wanted, safe_norm(merged))

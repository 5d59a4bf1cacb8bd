"""What is done to the spectrum of a delta, of one expert or merged."""

import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._types import Coef, Leaf, coefficient, pytree
from jaxmerge.combine.decompositions import thin_svd, whole


@pytree
class BoostSpectrum:
    r"""Subspace boosting: raises all singular values to that of a leading one.

        j = the first index with sigma_1 + ... + sigma_j >= share * sum sigma
        sigma_r <- max(sigma_r, sigma_j)

    Sums of many task vectors collapse to few directions; this fills the others. A
    post-step of a merge. Directions that are rounding stay 0, and leaves that are no
    matrices as they are.

    Attributes:
      share: beta, of the sum of the singular values; 0 raises all to the largest.

    References:
      Skorobogat et al., Subspace-Boosted Model Merging, 2025, section 4.
    """

    share: Coef = coefficient(default=0.01)
    uses_shape = True

    def __call__(self, delta: Array, leaf: Leaf) -> Array:
        if leaf.matrix is None:
            return delta
        u, s, v = thin_svd(whole(delta))
        share = jnp.asarray(self.share).astype(s.dtype)
        reached = jnp.cumsum(s, axis=-1) >= share * jnp.sum(s, axis=-1, keepdims=True)
        first = jnp.argmax(reached, axis=-1, keepdims=True)
        level = jnp.take_along_axis(s, first, axis=-1)
        # Vectors of rounding are zero, so that raising their values does nothing.
        values = jnp.maximum(s, level)
        return (u * values[..., None, :]) @ jnp.swapaxes(v, -1, -2)


@pytree
class LeadingDirections:
    r"""TSV-Compress: what the leading singular directions of a task matrix give.

        d_t = U S V^T  ->  U_k S_k V_k^T,    k = max(1, floor(share * min(out, in)))

    Leaves that are no matrices stay as they are.

    Attributes:
      share: of the singular directions, in (0, 1]; 1 / T if None, so that the factors
        of T experts are about as large as one model.

    References:
      Gargiulo et al., Task Singular Vectors: Reducing Task Interference in Model
      Merging, 2025, section 4.1.
    """

    share: Coef = coefficient(default=None)
    uses_shape = True

    def __call__(self, delta: Array, leaf: Leaf) -> Array:
        if leaf.matrix is None:
            return delta
        u, s, v = thin_svd(whole(delta))
        rank = s.shape[-1]
        if self.share is None:
            kept = rank // jnp.asarray(leaf.num_experts, jnp.int32)
        else:
            # A share written as 1 / 3 must not lose a direction to its rounding.
            share = jnp.asarray(self.share).astype(s.dtype)
            kept = jnp.floor(share * rank * (1 + 1e-6)).astype(jnp.int32)
        leads = jnp.arange(rank, dtype=jnp.int32) < jnp.maximum(1, kept)
        return (u * jnp.where(leads, s, 0.0)) @ jnp.swapaxes(v, -1, -2)

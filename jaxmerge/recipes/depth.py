"""Merges whose scale grows with depth."""

import dataclasses
from typing import Any

from jaxmerge._coefficients import LAYERS, Times, by_layer
from jaxmerge._types import Coef
from jaxmerge.merger import Merger


def lines(
    merger: Any,
    *,
    num_layers: int,
    alpha: Any,
    beta: Any,
    pattern: str = LAYERS,
) -> Merger:
    r"""LiNeS: another merge, scaled linearly with depth: shallow layers change least.

        delta_l = (alpha + beta * l / (L - 1)) * merged_l    in block l of L
        delta   = alpha * merged                             outside the blocks

    The scale of the merger itself multiplies this. One expert and `beta = 1 - alpha`
    edit a fine-tuned model so that it forgets less.

    Args:
      merger: the merge to scale, such as `task_arithmetic(scale=1.0)` or `ties()`.
      num_layers: L; the only block of one is scaled by alpha + beta.
      alpha: the scale of the first block. For T experts the paper takes `|sum_t d_t|_1
        / (T |merged|_1)`, norms over the whole model: 1 / T where the experts' deltas
        are summed.
      beta: what the last block has more; tuned, from 0 to about 1.
      pattern: a regular expression whose first group is the block's index.

    Raises:
      TypeError: if what is to be scaled is no `Merger`.

    >>> import jax.numpy as jnp
    >>> from jaxmerge import task_arithmetic
    >>> merger = lines(task_arithmetic(scale=1.0), num_layers=3, alpha=0.5, beta=1.0)
    >>> model = {f"layers.{i}.w": jnp.ones(1) for i in range(3)} | {"head": jnp.ones(1)}
    >>> {name: x.item() for name, x in merger(None, [model]).items()}
    {'head': 0.5, 'layers.0.w': 0.5, 'layers.1.w': 1.0, 'layers.2.w': 1.5}

    References:
      Wang et al., LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances
      Model Merging, 2025, section 4.
    """
    if not isinstance(merger, Merger):
        raise TypeError(
            f"lines scales a Merger, and was given {type(merger).__name__}; scale the "
            "mergers inside it"
        )
    depth = by_layer(
        (alpha, alpha + beta), num_layers=num_layers, pattern=pattern, otherwise=alpha
    )
    scale: Coef = depth if merger.scale is None else Times(merger.scale, depth)
    return dataclasses.replace(merger, scale=scale)

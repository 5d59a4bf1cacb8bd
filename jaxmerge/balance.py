"""Layers of one type, compared with each other after a merge."""

import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxmerge._arithmetic import safe_divide
from jaxmerge._leaf import arithmetic_dtype
from jaxmerge._trees import named_leaves
from jaxmerge.combine.sphere import safe_norm


def balance_layers(
    base: PyTree, merged: PyTree, patterns: Sequence[str], *, power: float = 2.0
) -> PyTree:
    r"""Scales each layer's merged delta by how it compares with others of its type.

        d <- d * (|d| / mean |d| over the leaves of its type)^power

    ESM's last step; it may follow any merge.

    Args:
      base: the base's parameters.
      merged: the merged ones, of the same structure.
      patterns: regular expressions; leaves in whose names one is found are a type. The
        first that is found counts, others stay.
      power: 2 in the paper.

    Returns:
      The parameters, with the structure and dtypes of `merged`.

    Raises:
      ValueError: if a pattern is found in no name.

    >>> base = {"up.0": jnp.zeros(1), "up.1": jnp.zeros(1)}
    >>> merged = {"up.0": jnp.ones(1), "up.1": jnp.full(1, 3.0)}
    >>> {k: v.tolist() for k, v in balance_layers(base, merged, ["up"]).items()}
    {'up.0': [0.25], 'up.1': [6.75]}
    """
    start, end = named_leaves(base), named_leaves(merged)
    kinds = {
        name: next((p for p in patterns if re.search(p, name)), None) for name in end
    }
    unused = [p for p in patterns if p not in kinds.values()]
    if unused:
        raise ValueError(
            f"{unused[0]!r} is found in no leaf's name; the leaves are "
            f"{', '.join(map(repr, list(end)[:4]))}, …"
        )
    dtypes = {name: arithmetic_dtype(x.dtype) for name, x in end.items()}
    deltas = {
        name: jnp.asarray(x).astype(dtypes[name])
        - jnp.asarray(start[name]).astype(dtypes[name])
        for name, x in end.items()
        if kinds[name] is not None
    }
    norms = {name: safe_norm(d) for name, d in deltas.items()}
    balanced = dict(end)
    for name, delta in deltas.items():
        alike = [norm for other, norm in norms.items() if kinds[other] == kinds[name]]
        share = safe_divide(norms[name], jnp.mean(jnp.stack(alike)))
        wide = jnp.asarray(start[name]).astype(delta.dtype)
        balanced[name] = (wide + delta * share**power).astype(end[name].dtype)
    return jax.tree.unflatten(jax.tree.structure(merged), list(balanced.values()))

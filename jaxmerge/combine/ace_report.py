"""What ACE sees in each layer: its gate, its ridge, and what it raises."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxmerge._leaf import arithmetic_dtype
from jaxmerge._matrices import Matrices
from jaxmerge._parts import Parts
from jaxmerge._trees import named_leaves
from jaxmerge._types import Leaf, MatrixSpec, pytree
from jaxmerge.combine.ace import AdaptiveCovariance, raised


@pytree
class AceLayer:
    """One matrix, seen by ACE.

    Attributes:
      gamma: the heterogeneity of log energies, as the gate has it, `()`.
      active: whether the gate is on, `()`.
      trace: `tr S_t` of each expert, `(task,)`.
      eps_ratio: `eps * in / tr S_t`, the ridge over the mean eigenvalue, `(task,)`. Far
        above 1 the merge has become the mean of the deltas.
      condition: of the regularised sum of covariances, `()`.
      top_energy: the share of squared singular values in the top 5 percent of them,
        before the refinement, `()`.
      k: how many singular directions are raised, 0 where the gate is off, `()`.
      level: by how much, the mean of their singular values, `()`.
      shared_rows: whether all deltas have one and the same row space, of fewer
        dimensions than inputs: LoRAs with one frozen A. The covariances then tell
        nothing apart outside of it, and ACE is reported to fail, `()`.
    """

    gamma: Any
    active: Any
    trace: Any
    eps_ratio: Any
    condition: Any
    top_energy: Any
    k: Any
    level: Any
    shared_rows: Any


def ace_diagnostics(
    deltas: Sequence[PyTree],
    *,
    combine: AdaptiveCovariance | None = None,
    matrices: Matrices | None = None,
) -> dict[str, AceLayer]:
    """What ACE sees in each matrix of the experts' deltas; nothing is merged.

    It costs a few decompositions a matrix; `jax.jit` it for models of few leaves.

    Args:
      deltas: T trees of arrays, expert - base.
      combine: with which options, `jaxmerge.ace(...).combine`; the defaults if None.
        Its eps and tau are one number each.
      matrices: which leaves are matrices; the default rule if None.

    Returns:
      By the names of the leaves that are matrices; of a leaf that holds several,
      `NAME[i]`.

    Raises:
      ValueError: if there is no delta, or their leaves differ.

    >>> import jax
    >>> deltas = [{"w": 0.5 * jnp.eye(4)}, {"w": 2 * jnp.eye(4)}]
    >>> layer = jax.jit(ace_diagnostics)(deltas)["w"]
    >>> bool(layer.active), layer.trace.tolist()
    (True, [0.75, 12.0])
    """
    combine = AdaptiveCovariance() if combine is None else combine
    matrices = Matrices() if matrices is None else matrices
    trees = [named_leaves(tree) for tree in deltas]
    if not trees or any(tree.keys() != trees[0].keys() for tree in trees):
        raise ValueError(
            "ace_diagnostics was given no delta, or deltas whose leaves differ; "
            "expected one tree of arrays for each expert, all of one structure"
        )
    layers = {}
    for name, first in trees[0].items():
        spec = matrices.spec(name, jnp.shape(first))
        if spec is not None and jnp.issubdtype(first.dtype, jnp.floating):
            dtype = arithmetic_dtype(first.dtype)
            parts = Parts(spec, jnp.shape(first))
            parts.check(name)
            wide = [jnp.asarray(tree[name]).astype(dtype) for tree in trees]
            stacks = zip(*(parts.of(delta) for delta in wide), strict=True)
            found = [
                _layer(combine, [stack[i] for stack in stacked])
                for stacked in stacks
                for i in range(stacked[0].shape[0])
            ]
            several = len(found) > 1
            for i, layer in enumerate(found):
                layers[f"{name}[{i}]" if several else name] = layer
    return layers


def _layer(combine: AdaptiveCovariance, deltas: list[Any]) -> AceLayer:
    one = jnp.ones((), deltas[0].dtype)
    states = [combine.lift(delta, one, Leaf(matrix=MatrixSpec())) for delta in deltas]
    state = states[0]
    for other in states[1:]:
        state = combine.join(state, other)
    pre, regular = combine.closed_form(state)
    _, active = combine.selected(state)
    _, level, k = raised(combine.before_refinement(state, pre, regular), combine.k_frac)
    refines = active & combine.spectral
    trace = jnp.stack([jnp.trace(s[0][0]["gram"]) for s in states])
    eps = jnp.asarray(combine.eps).astype(trace.dtype)
    values = jnp.linalg.eigvalsh(regular)
    square = jnp.linalg.svd(pre, compute_uv=False) ** 2
    top = -(-len(square) // 20)
    return AceLayer(
        gamma=combine.heterogeneity(state[1]),
        active=active,
        trace=trace,
        eps_ratio=eps * regular.shape[-1] / trace,
        condition=values[-1] / values[0],
        top_energy=jnp.sum(square[:top]) / jnp.sum(square),
        k=jnp.where(refines, k, 0),
        level=jnp.where(refines, level, jnp.zeros_like(level)),
        shared_rows=_shared_rows([s[0][0]["delta"] for s in states]),
    )


def _shared_rows(deltas: list[Array]) -> Array:
    """Whether row spaces coincide, and are not all of the input space."""
    rank = jnp.linalg.matrix_rank
    each = jnp.stack([rank(d) for d in deltas])
    scales = [jnp.sqrt(jnp.sum(d * d)) for d in deltas]
    units = [d / jnp.where(s == 0, 1, s) for d, s in zip(deltas, scales, strict=True)]
    union = rank(jnp.concatenate(units))
    return jnp.all(each == union) & (union < deltas[0].shape[-1])

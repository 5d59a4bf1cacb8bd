"""What the streamed executor compiles: every function is of one piece of a tensor.

A piece may be a whole tensor. Names and numbers are arguments, so that all tensors,
experts and coefficients share a compilation for each length of a piece.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge import _leaf
from jaxmerge._leaf import ExpertKey, LeafProgram
from jaxmerge._search import magnitude_bits
from jaxmerge._survey import measure as _measure
from jaxmerge._trees import LowRank

# Entries of a piece to bracket its largest, up to so many pieces of a tensor.
_SAMPLE = 1 << 14
_PIECES_SAMPLED = 8


class Expert(NamedTuple):
    """One expert's part of a step.

    Attributes:
      tensor: its piece, or a `LowRank` pair.
      t: its position.
      key: what its random numbers are drawn from.
      found: for each transform the result of its survey, its `Cut`, or None.
      delta: the transformed delta, where the merge has transforms.
      side: its statistic, where the pass is given one.
    """

    tensor: Any
    t: Any
    key: ExpertKey
    found: tuple[Any, ...]
    delta: Any = None
    side: Any = None


def _zeros(x: Any) -> Any:
    """Zeros where x is finite, else NaN, summed."""
    if isinstance(x, LowRank):
        return _zeros(x.a) + _zeros(x.b)
    wide = x.astype(_leaf.arithmetic_dtype(x.dtype))
    return jnp.sum(wide * jnp.zeros_like(wide)).astype(jnp.float32)


@jax.jit
def all_finite(tensors: Any) -> Array:
    """Whether all entries of arrays and `LowRank` pairs are finite."""
    is_pair = lambda x: isinstance(x, LowRank)
    zeros = [_zeros(x) for x in jax.tree.leaves(tensors, is_leaf=is_pair)]
    return jnp.equal(sum(zeros[1:], zeros[0]), 0)


@jax.jit
def transform(program: LeafProgram, expert: Expert, base: Any, offset: Any) -> Array:
    """One expert's delta after all transforms."""
    return _delta(program, expert, base, offset, None)


def _fold(
    program: LeafProgram,
    i: int,
    state: Any,
    experts: tuple[Expert, ...],
    base: Any,
    stats: Any,
    offset: Any,
) -> Any:
    """Some experts joined to a state; each as it is stored, or as its delta."""
    for expert in experts:
        new = _leaf.lift(
            program,
            i,
            expert.tensor,
            base,
            expert.t,
            expert.key,
            stats,
            expert.found,
            offset=offset,
            delta=expert.delta,
            side=expert.side,
        )
        state = new if state is None else _leaf.join(program, i, state, new)
    return state


fold = functools.partial(jax.jit, static_argnames=("i",), donate_argnames=("state",))(
    _fold
)


@functools.partial(jax.jit, static_argnames=("i", "dtype", "out_dtype"))
def fold_and_finish(
    program: LeafProgram,
    i: int,
    state: Any,
    experts: tuple[Expert, ...],
    base: Any,
    stats: Any,
    offset: Any,
    key: Any,
    *,
    dtype: Any,
    out_dtype: Any,
) -> Any:
    """The result of pass `i`; with an `out_dtype` the merged piece."""
    state = _fold(program, i, state, experts, base, stats, offset)
    result = _leaf.finish(program, i, state, base, dtype, stats)
    if out_dtype is None:
        return result
    return _leaf.complete(program, result, base, key, out_dtype)


emit = jax.jit(_leaf.emit)
measure = jax.jit(_measure, static_argnames=("stage",))


# --- the search for a cut ------------------------------------------------------------


def _delta(
    program: LeafProgram, expert: Expert, base: Any, offset: Any, stage: int | None
) -> Array:
    """What transform `stage` is given of a piece; what the last gives if None."""
    delta, _ = _leaf.transformed(
        program,
        expert.tensor,
        base,
        expert.t,
        expert.key,
        expert.found,
        upto=stage,
        offset=offset,
    )
    return delta


@functools.partial(jax.jit, static_argnames=("stage", "stride"))
def sample(
    program: LeafProgram,
    expert: Expert,
    base: Any,
    offset: Any,
    *,
    stage: int,
    stride: int,
) -> Array:
    """The magnitudes' bits of some entries, `stride` apart."""
    return magnitude_bits(_delta(program, expert, base, offset, stage)[::stride])


def sample_stride(size: int, num_pieces: int) -> int:
    """An odd step, so that it does not stay in one column of a matrix.

    It is one of few, for each is compiled. Of a tensor in one piece the sample is
    smaller than of one in many, whose search would cost more to do again.
    """
    wanted = min(num_pieces, _PIECES_SAMPLED) * _SAMPLE
    return 1 << max(size // wanted, 1).bit_length() - 1 | 1


@functools.partial(jax.jit, static_argnames=("stage",))
def bits(
    program: LeafProgram, expert: Expert, base: Any, offset: Any, *, stage: int
) -> Array:
    """The magnitudes' bits of all entries."""
    return magnitude_bits(_delta(program, expert, base, offset, stage))

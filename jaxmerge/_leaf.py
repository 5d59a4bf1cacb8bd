"""One leaf of a merge: the functions that every executor loops over.

A `LeafProgram` is a merger with everything that depends on names resolved: coefficients
are numbers, counts are integers. It is a pytree whose static part is the same for all
leaves of one shape, so one compiled function serves them all, and every expert.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxmerge import _checks
from jaxmerge._arithmetic import product
from jaxmerge._coefficients import map_coefficients, resolve, select
from jaxmerge._parts import Parts
from jaxmerge._trees import LowRank
from jaxmerge._types import Leaf, MatrixSpec, coefficient, pytree, static


@pytree
class LeafProgram:
    """What a merge does to one leaf."""

    transforms: tuple[Any, ...]
    passes: tuple[Any, ...]
    weights: Any = coefficient()
    scale: Any = coefficient()
    post: tuple[Any, ...] = ()
    per_task: Any = None
    matrix: MatrixSpec | None = static(default=None)
    parts: Parts | None = static(default=None)
    num_experts: Any = 1
    slots: int | None = static(default=None)
    rounding: str = static(default="none")

    @property
    def frame(self) -> str:
        return self.passes[0].frame

    @property
    def needs(self) -> str | None:
        """Which kind of statistics the passes need, or None."""
        kinds = [getattr(combine, "needs", None) for combine in self.passes]
        return next((kind for kind in kinds if kind is not None), None)

    def leaf(self, base: Any) -> Leaf:
        """What every stage is told of the leaf."""
        return Leaf(
            base,
            num_experts=self.num_experts,
            matrix=self.matrix,
            slots=self.slots,
        )


@pytree
class ExpertKey:
    """What a key is folded from: the merge's key, the leaf's name, the expert's id."""

    key: Any = None
    name: Any = None
    expert: Any = None

    def resolve(self) -> Any:
        if self.key is None:
            return None
        key = jax.random.fold_in(self.key, self.name[0])
        key = jax.random.fold_in(key, self.name[1])
        return key if self.expert is None else jax.random.fold_in(key, self.expert)


def arithmetic_dtype(dtype: Any) -> Any:
    """float64 for float64, float32 for anything narrower."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def _resolve_stages(stages: Any, name: str, size: int, num_experts: int) -> Any:
    def at_leaf(label: str, value: Any) -> Any:
        return resolve(value, name, num_experts, label=label)

    def bound(stage: Any) -> Any:
        return stage.bind(size) if hasattr(stage, "bind") else stage

    return tuple(bound(stage) for stage in map_coefficients(stages, at_leaf))


def bind(
    merger: Any,
    name: str,
    shape: tuple[int, ...],
    num_experts: int,
    members: Any = None,
) -> LeafProgram:
    """Resolves a merger for one leaf.

    Args:
      merger: a `Merger`.
      name: the leaf's canonical name.
      shape: its shape.
      num_experts: T.
      members: which of them take part, a mask; all if None.

    Raises:
      ValueError: if a coefficient does not fit the leaf or the experts.
    """
    num_members = num_experts if members is None else members.sum()
    size = 1
    for axis in shape:
        size *= axis
    weights = resolve(merger.weights, name, num_experts, label="weights")
    weights = 1.0 if weights is None else weights
    passes = _resolve_stages(merger.passes, name, size, num_experts)
    for combine in passes:
        if hasattr(combine, "check_experts") and _checks.is_concrete(num_members):
            combine.check_experts(int(num_members))
    if any(
        getattr(combine, "normalize", False)
        or getattr(combine, "normalize_weights", False)
        for combine in passes
    ):
        _check_weights(name, weights, num_experts, members)
    per_task = merger.per_task
    matrix, parts = _as_matrices(merger, name, shape)
    return LeafProgram(
        transforms=_resolve_stages(merger.transforms, name, size, num_experts),
        passes=passes,
        weights=weights,
        scale=resolve(merger.scale, name, num_experts, label="scale"),
        post=_resolve_stages(merger.post, name, size, num_experts),
        per_task=None
        if per_task is None
        else _resolve_stages((per_task,), name, size, num_experts)[0],
        matrix=matrix,
        parts=parts,
        num_experts=num_members,
        slots=num_experts
        if any(getattr(combine, "holds_all", False) for combine in passes)
        else None,
        rounding=merger.rounding,
    )


def _as_matrices(
    merger: Any, name: str, shape: tuple[int, ...]
) -> tuple[MatrixSpec | None, Parts | None]:
    """What combines are told of a leaf, and its parts where it is no plain matrix."""
    spec = merger.matrices.spec(name, shape) if uses_shape(merger) else None
    if spec is None:
        return None, None
    parts = Parts(spec, tuple(shape))
    parts.check(name)
    return MatrixSpec(), None if parts.is_plain else parts


def _check_weights(name: str, weights: Any, num_experts: int, members: Any) -> None:
    if members is None:
        _checks.check_weight_sum(name, weights, num_experts)
    elif _checks.is_concrete(members) and _checks.is_concrete(weights):
        chosen = np.broadcast_to(np.asarray(weights), (num_experts,))[members]
        _checks.check_weight_sum(name, chosen, len(chosen))


def is_elementwise(stages: Iterable[Any]) -> bool:
    """Whether an entry of the result depends on the same entries of the inputs only."""
    return all(getattr(stage, "elementwise", False) for stage in stages)


def is_random(stages: Iterable[Any]) -> bool:
    """Whether a stage draws random numbers, which is a long program."""
    return any(getattr(stage, "random", False) for stage in stages)


def uses_shape(merger: Any) -> bool:
    """Whether a merger looks at a leaf's axes; if not, leaves may be flattened."""
    stages = (*merger.transforms, *merger.passes, *merger.post)
    return any(getattr(stage, "uses_shape", False) for stage in stages)


def _fold(key: Any, stage: int) -> Any:
    return None if key is None else jax.random.fold_in(key, stage)


def _round_to(x: Array, storage: Any) -> Array:
    """Rounds to a narrower dtype and back; XLA may drop a mere pair of casts."""
    if storage == jnp.bfloat16:
        return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    return x.astype(storage).astype(x.dtype)


def _input(program: LeafProgram, expert: Any, base: Any, dtype: Any) -> Array:
    """The expert in the frame of the combine: a delta, or the weights."""
    if isinstance(expert, LowRank):
        delta = expert.dense(dtype)
        return (
            base + delta if program.frame == "absolute" and base is not None else delta
        )
    expert = jnp.asarray(expert).astype(dtype)
    return expert - base if program.frame == "delta" and base is not None else expert


def transformed(
    program: LeafProgram,
    expert: Any,
    base: Any,
    t: Any,
    key: ExpertKey,
    surveys: tuple[Any, ...] = (),
    *,
    upto: int | None = None,
    offset: Any = None,
) -> tuple[Array, Leaf]:
    """One expert's delta after the transforms, and the leaf that combines are told.

    Args:
      program: the resolved merge.
      expert: the expert's tensor, or a `LowRank` delta.
      base: the base's tensor, or None where experts are deltas themselves.
      t: the expert's position.
      key: see `ExpertKey`.
      surveys: for each transform the result of its survey, or None.
      upto: how many transforms to apply; all if None.
      offset: the flat index of the first element of a piece; None for a whole tensor.
    """
    storage = expert.dtype
    dtype = arithmetic_dtype(storage if base is None else base.dtype)
    base = None if base is None else jnp.asarray(base).astype(dtype)
    delta = _input(program, expert, base, dtype)
    leaf_key = key.resolve()
    leaf = dataclasses.replace(program.leaf(base), t=t, key=leaf_key, offset=offset)
    for i, transform in enumerate(program.transforms[:upto]):
        stage = select(transform, t, dtype)
        found = surveys[i] if surveys else None
        own = dataclasses.replace(leaf, key=_fold(leaf_key, i), stats=found)
        delta = _apply(program, stage, delta, own)
    if program.rounding == "storage":
        delta = _round_to(delta, storage)
    return delta, leaf


def _apply(program: LeafProgram, stage: Any, delta: Array, leaf: Leaf) -> Array:
    """One transform of a delta: of each matrix, where it looks at them."""
    parts = program.parts
    if parts is None or not getattr(stage, "uses_shape", False):
        return stage(delta, leaf)

    def one(delta: Array, base: Any, key: Any) -> Array:
        return stage(delta, dataclasses.replace(leaf, base=base, key=key))

    base = None if leaf.base is None else parts.of(leaf.base)
    return parts.whole(parts.map(one, parts.of(delta), base, parts.keys(leaf.key)))


def _combine_leaf(program: LeafProgram, i: int, leaf: Leaf, stats: Any) -> Leaf:
    key = _fold(leaf.key, len(program.transforms) + i)
    return dataclasses.replace(leaf, key=key, stats=stats)


def lift(
    program: LeafProgram,
    i: int,
    expert: Any,
    base: Any,
    t: Any,
    key: ExpertKey,
    stats: Any = None,
    surveys: tuple[Any, ...] = (),
    *,
    offset: Any = None,
    delta: Any = None,
    side: Any = None,
) -> Any:
    """One expert's state in pass `i`.

    The arguments are those of `transformed`, and the result of the pass before;
    `delta` is the transformed delta where it is known already, `side` the expert's
    statistic.
    """
    upto = None if delta is None else 0
    known, leaf = transformed(
        program, expert, base, t, key, surveys, upto=upto, offset=offset
    )
    delta = known if delta is None else delta
    weight = jnp.asarray(program.weights).astype(delta.dtype)
    weight = weight[t] if weight.ndim else weight
    combine = select(program.passes[i], t, delta.dtype)
    leaf = _combine_leaf(program, i, leaf, stats)
    if side is not None:
        leaf = dataclasses.replace(leaf, side=jnp.asarray(side).astype(delta.dtype))
    if program.parts is not None:
        return _lift_parts(program.parts, combine, delta, weight, leaf)
    if isinstance(expert, LowRank) and hasattr(combine, "lift_factors"):
        return combine.lift_factors(expert, weight, leaf)
    return combine.lift(delta, weight, leaf)


def _lift_parts(
    parts: Parts, combine: Any, delta: Array, weight: Array, leaf: Leaf
) -> Any:
    """The states of all matrices of a leaf: for each part a stack."""

    def one(delta: Array, base: Any, side: Any, stats: Any, key: Any) -> Any:
        own = dataclasses.replace(leaf, base=base, side=side, stats=stats, key=key)
        return combine.lift(delta, weight, own)

    base = None if leaf.base is None else parts.of(leaf.base)
    side = None if leaf.side is None else parts.shared(leaf.side)
    keys = parts.keys(leaf.key)
    return parts.map(one, parts.of(delta), base, side, leaf.stats, keys)


def join(program: LeafProgram, i: int, a: Any, b: Any) -> Any:
    """Two states of pass `i` as one."""
    if program.parts is None:
        return program.passes[i].join(a, b)
    return program.parts.map(program.passes[i].join, a, b)


def emit(
    program: LeafProgram,
    expert: Any,
    base: Any,
    t: Any,
    key: ExpertKey,
    stats: Any,
    surveys: tuple[Any, ...] = (),
) -> tuple[Any, Any]:
    """What one expert keeps of this leaf, for mergers with several models out."""
    delta, leaf = transformed(program, expert, base, t, key, surveys)
    per_task = select(program.per_task, t, delta.dtype)
    return per_task.emit(delta, dataclasses.replace(leaf, stats=stats))


def finish(
    program: LeafProgram, i: int, state: Any, base: Any, dtype: Any, stats: Any = None
) -> Any:
    """The result of pass `i`: of the last a delta, of others any pytree."""
    base = None if base is None else jnp.asarray(base).astype(dtype)
    leaf = dataclasses.replace(program.leaf(base), stats=stats)
    combine, parts = select(program.passes[i], None, dtype), program.parts
    if parts is None:
        return combine.finish(state, leaf)

    def one(state: Any, base: Any, stats: Any) -> Any:
        return combine.finish(state, dataclasses.replace(leaf, base=base, stats=stats))

    bases = None if base is None else parts.of(base)
    results = parts.map(one, state, bases, stats)
    return parts.whole(results) if i == len(program.passes) - 1 else results


def complete(
    program: LeafProgram, result: Array, base: Any, key: ExpertKey, out_dtype: Any
) -> Array:
    """The merged tensor from the last pass's result: post-steps, scale, base, cast."""
    dtype = result.dtype
    wide = None if base is None else jnp.asarray(base).astype(dtype)
    if program.frame == "absolute":
        if program.scale is None and not program.post:
            return result.astype(out_dtype)
        if wide is None:
            raise ValueError(
                "a scale or a post-step acts on the merged delta, and a mean of the "
                "weights themselves has none without a base; give base="
            )
        result = result - wide
    leaf_key = key.resolve()
    leaf = dataclasses.replace(program.leaf(wide), key=leaf_key)
    for i, step in enumerate(program.post):
        step_leaf = dataclasses.replace(leaf, key=_fold(leaf_key, i))
        result = _apply(program, select(step, None, dtype), result, step_leaf)
    if program.scale is not None:
        scale = jnp.asarray(program.scale)
        if scale.ndim:
            raise ValueError(
                f"scale has shape {scale.shape}: it acts once, on the merged delta; "
                "one number per expert goes into weights"
            )
        result = product(scale.astype(dtype), result)
    return (result if wide is None else wide + result).astype(out_dtype)

"""The executor in memory: every leaf of a tree, all experts folded at once."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxmerge import _checks, _leaf, _members, ranks
from jaxmerge._coefficients import check_entries, map_coefficients, select
from jaxmerge._leaf import ExpertKey
from jaxmerge._survey import measure, of_expert, survey
from jaxmerge._trees import (
    LowRank,
    Stacked,
    TaskModels,
    canonical_name,
    expert_id,
    factor_name,
    is_low_rank,
    name_hash,
    named_leaves,
)
from jaxmerge._types import pytree, static

# Up to here a fold is unrolled: the sums of a list of arrays fuse into one pass over
# memory. Beyond, a scan keeps the program's size and its compile time independent of T.
_UNROLLED_EXPERTS = 32

# How a leaf function is called: as it is, or compiled (with one static argument).
Call = Callable[[Callable[..., Any], str], Callable[..., Any]]


def plain_call(function: Callable[..., Any], static: str) -> Callable[..., Any]:
    """Calls leaf functions as they are, for the user's own jit."""
    del static
    return function


@functools.cache
def jitted(function: Callable[..., Any], static: str) -> Callable[..., Any]:
    """Calls leaf functions compiled, once per shape."""
    return jax.jit(function, static_argnames=(static,))


# --- one leaf, all experts -----------------------------------------------------------


@pytree
class _Experts:
    """One leaf of every expert: a list, or one array with a leading task axis."""

    leaves: Any
    stacked: bool = static(default=False)

    @property
    def num(self) -> int:
        return self.leaves.shape[0] if self.stacked else len(self.leaves)

    def get(self, t: Any) -> Any:
        if not self.stacked:
            return self.leaves[t]
        return jax.lax.dynamic_index_in_dim(self.leaves, t, 0, keepdims=False)

    def as_stack(self) -> "_Experts":
        if self.stacked:
            return self
        return _Experts(jnp.stack([jnp.asarray(x) for x in self.leaves]), stacked=True)


def _fold(experts: _Experts, lift: Callable[[Any, Any], Any], join: Any) -> Any:
    """`join` over the experts, in their order, of `lift(expert, t)`."""
    low_rank = not experts.stacked and any(is_low_rank(x) for x in experts.leaves)
    if experts.num <= _UNROLLED_EXPERTS or low_rank:
        state = lift(experts.get(0), np.int32(0))
        for t in range(1, experts.num):
            state = join(state, lift(experts.get(t), np.int32(t)))
        return state
    stacked = experts.as_stack()

    def step(state: Any, t: Any) -> tuple[Any, None]:
        return join(state, lift(stacked.get(t), t)), None

    first = lift(stacked.get(0), np.int32(0))
    return jax.lax.scan(step, first, jnp.arange(1, experts.num, dtype=jnp.int32))[0]


# Takes an expert's position; gives what is known of it for each transform.
_Found = Callable[[Any], Any]


def _with_cuts(found: _Found, stage: int, num_stages: int, cuts: Any) -> _Found:
    def both(t: Any) -> tuple[Any, ...]:
        own = found(t) or (None,) * num_stages
        return (*own[:stage], *of_expert((cuts,), t), *own[stage + 1 :])

    return both


def _find_cuts(
    experts: _Experts,
    transforms: Sequence[Any],
    delta: Callable[..., Any],
    found: _Found,
) -> _Found:
    """What is found for each transform, with the cuts of those that need one.

    The search is compiled once for all experts, and works on one delta at a time. Only
    the cuts are kept: the merge computes the deltas again, in one pass over memory.
    """
    for stage, transform in enumerate(transforms):
        if not getattr(transform, "cuts_leaf", False):
            continue

        def cut(t: Any, stage: int = stage, found: _Found = found) -> Any:
            if experts.stacked:
                x = delta(experts.get(t), t, found(t), stage)
            else:
                of = lambda x: lambda t: delta(x, t, found(t), stage)
                x = jax.lax.switch(t, [of(x) for x in experts.leaves], t)
            chosen = select(transforms[stage], t, x.dtype)
            return ranks.largest_cut(x, chosen.kept(x.size), ties=chosen.ties)

        cuts = jax.lax.map(cut, jnp.arange(experts.num, dtype=jnp.int32))
        found = _with_cuts(found, stage, len(transforms), cuts)
    return found


def merge_leaf(
    program: _leaf.LeafProgram,
    base: Any,
    experts: _Experts,
    key: Any,
    name: Any,
    ids: Any,
    surveys: Any,
    members: Any = None,
    *,
    out_dtype: Any,
) -> Any:
    """One leaf: the merged tensor, or (shared delta, records, statistics) per task."""
    template = experts.get(0) if base is None else base
    dtype = _leaf.arithmetic_dtype(template.dtype)

    def expert_key(t: Any) -> ExpertKey:
        return ExpertKey(key, name, None if key is None else jnp.asarray(ids)[t])

    def surveyed(t: Any) -> Any:
        return of_expert(surveys, t)

    def delta(expert: Any, t: Any, found: Any, stage: int) -> Any:
        key = expert_key(t)
        given, _ = _leaf.transformed(program, expert, base, t, key, found, upto=stage)
        return jax.lax.stop_gradient(given)

    found = _find_cuts(experts, program.transforms, delta, surveyed)

    stats: Any = None
    for i, combine in enumerate(program.passes):

        def lift(expert: Any, t: Any, i: int = i, stats: Any = stats) -> Any:
            return _leaf.lift(
                program, i, expert, base, t, expert_key(t), stats, found(t)
            )

        if members is None:
            state = _fold(experts, lift, combine.join)
        else:
            state, _ = _fold(experts, *_members.among(members, lift, combine.join))
        stats = _leaf.finish(program, i, state, base, dtype, stats)
    if program.per_task is None:
        merged = _leaf.complete(
            program, stats, base, ExpertKey(key, name), jnp.dtype(out_dtype)
        )
        return merged if members is None else _members.or_base(merged, members, base)
    records = [
        _leaf.emit(
            program, experts.get(t), base, np.int32(t), expert_key(t), stats, found(t)
        )
        for t in range(experts.num)
    ]
    return stats, [record for record, _ in records], [s for _, s in records]


# --- whole models --------------------------------------------------------------------


def _models(
    experts: Any, low_rank: bool
) -> tuple[list[dict[str, Any]] | None, Any, int]:
    """The experts' leaves by name: (list of dicts, None, T) or (None, stacked, T)."""
    if isinstance(experts, Stacked):
        return None, named_leaves(experts.tree), experts.num_experts
    if not isinstance(experts, Sequence):
        raise TypeError(
            "experts has to be a sequence of models, or stack(experts); got "
            f"{type(experts).__name__}"
        )
    if not experts:
        raise ValueError("no experts were given; a merge needs at least one")
    return [named_leaves(e, low_rank=low_rank) for e in experts], None, len(experts)


def _leaf_experts(models: Any, stacked: Any, name: str) -> _Experts:
    if stacked is not None:
        return _Experts(stacked[name], stacked=True)
    return _Experts([model[name] for model in models])


def _check_model(base: dict[str, Any], models: Any, stacked: Any, num: int) -> None:
    for t, model in enumerate(models if models is not None else [stacked]):
        what = f"expert {t}" if models is not None else "the stack of experts"
        _checks.check_names(list(base), list(model), what)
        for name, leaf in base.items():
            lead = (num,) if models is None else ()
            expected = (*lead, *np.shape(leaf))
            _checks.check_shape(name, expected, np.shape(model[name]), what)


def _copied(name: str, leaf: Any, experts: _Experts) -> Any:
    for t in range(experts.num):
        _checks.check_equal(name, leaf, experts.get(t), f"expert {t}")
    return leaf


def merge(
    merger: Any,
    base: PyTree,
    experts: Any,
    key: Any,
    ids: Sequence[int | str] | None,
    call: Call,
    members: Any = None,
) -> Any:
    _checks.check_key(key)
    low_rank = merger.space == "product"
    models, stacked, num = _models(experts, low_rank)
    members = _members.checked(members, num, merger)
    if ids is not None and len(ids) != num:
        raise ValueError(f"{len(ids)} ids were given for {num} experts")
    identities = range(num) if ids is None else ids
    expert_ids = np.asarray([expert_id(i) for i in identities], np.uint32)
    if base is not None:
        tree, leaves = base, named_leaves(base, low_rank=low_rank)
    else:
        tree = experts.tree if models is None else experts[0]
        leaves = stacked if models is None else models[0]
        leaves = {n: x[0] for n, x in leaves.items()} if models is None else leaves
    _check_model(leaves, models, stacked, num)
    if not low_rank:
        _check_scales(experts)
    _check_prefixes(merger, leaves)
    programs, merged = {}, {}
    for name, leaf in leaves.items():
        _checks.check_mergeable(name, leaf.dtype)
        if _checks.is_merged(leaf.dtype):
            programs[name] = _leaf.bind(merger, name, np.shape(leaf), num, members)
        else:
            merged[name] = _copied(name, leaf, _leaf_experts(models, stacked, name))
    inputs = {
        name: (
            leaves[name] if base is not None else None,
            _leaf_experts(models, stacked, name),
        )
        for name in programs
    }
    surveys = _surveys(merger, programs, inputs, key, expert_ids, call)
    results = {
        name: call(merge_leaf, "out_dtype")(
            program,
            *inputs[name],
            key,
            name_hash(name),
            expert_ids,
            surveys,
            members,
            out_dtype=jnp.dtype(leaves[name].dtype),
        )
        for name, program in programs.items()
    }
    if merger.per_task is not None:
        return _task_models(merger, tree, results, num)
    return _rebuild(tree, {**merged, **results}, low_rank)


def _rebuild(tree: PyTree, merged: dict[str, Any], low_rank: bool) -> PyTree:
    def merged_leaf(path: Any, leaf: Any) -> Any:
        name = canonical_name(path)
        if is_low_rank(leaf) and not low_rank:
            factors = merged[factor_name(name, "a")], merged[factor_name(name, "b")]
            return LowRank(*factors, leaf.scale)
        return merged[name]

    return jax.tree_util.tree_map_with_path(merged_leaf, tree, is_leaf=is_low_rank)


def _check_scales(experts: Any) -> None:
    """Refuses to merge factors whose products are scaled differently."""
    if isinstance(experts, Stacked):
        return
    pairs = [jax.tree.leaves(e, is_leaf=is_low_rank) for e in experts]
    scales = [[x.scale for x in leaves if is_low_rank(x)] for leaves in pairs]
    for t, own in enumerate(scales):
        for first, other in zip(scales[0], own, strict=False):
            concrete = _checks.is_concrete(first) and _checks.is_concrete(other)
            if concrete and float(first) != float(other):
                raise ValueError(
                    f"a LowRank leaf is scaled by {other} in expert {t} and by {first} "
                    "in expert 0: their factors cannot share one scale; merge the "
                    "products instead (space='product')"
                )


def _task_models(merger: Any, base: PyTree, results: Any, num: int) -> TaskModels:
    statistics = [
        sum((r[2][t] for r in results.values()), start=jnp.zeros(()))
        for t in range(num)
    ]
    return TaskModels(
        base=base,
        shared={name: r[0] for name, r in results.items()},
        records={name: r[1] for name, r in results.items()},
        tasks=[merger.per_task.summarise(s) for s in statistics],
        per_task=merger.per_task,
        scale=merger.scale,
    )


def _check_prefixes(merger: Any, leaves: dict[str, Any]) -> None:
    def check(label: str, value: Any) -> Any:
        check_entries(value, leaves, label=label)
        return value

    map_coefficients(merger, check)


def _surveys(
    merger: Any,
    programs: dict[str, _leaf.LeafProgram],
    inputs: dict[str, tuple[Any, _Experts]],
    key: Any,
    ids: np.ndarray,
    call: Call,
) -> tuple[Any, ...]:
    """For each transform its survey of the whole model, one entry per expert."""
    size = sum(int(np.prod(np.shape(experts.get(0)))) for _, experts in inputs.values())

    def parts(stage: int, before: Any, found: Any) -> Iterator[tuple[int, Any]]:
        for name, program in programs.items():
            base, experts = inputs[name]
            for t in range(experts.num):
                expert_key = ExpertKey(key, name_hash(name), ids[t])
                yield (
                    t,
                    call(measure, "stage")(
                        program,
                        experts.get(t),
                        base,
                        np.int32(t),
                        expert_key,
                        before,
                        found[t],
                        stage=stage,
                    ),
                )

    num = next(iter(inputs.values()))[1].num if inputs else 0
    return survey(merger.transforms, num, size, parts)

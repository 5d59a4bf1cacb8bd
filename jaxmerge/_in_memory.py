"""The executor in memory: every leaf of a tree, all experts folded at once."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxmerge import _checks, _leaf, _members, _side
from jaxmerge._coefficients import check_entries, map_coefficients
from jaxmerge._leaf import ExpertKey
from jaxmerge._merge_leaf import Experts, merge_leaf
from jaxmerge._survey import measure, survey
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


def _models(
    experts: Any, low_rank: bool, what: str = "experts"
) -> tuple[list[dict[str, Any]] | None, Any, int]:
    """The experts' leaves by name: (list of dicts, None, T) or (None, stacked, T)."""
    if isinstance(experts, Stacked):
        return None, named_leaves(experts.tree), experts.num_experts
    if not isinstance(experts, Sequence):
        raise TypeError(
            f"{what} has to be a sequence of models, or stack({what}); got "
            f"{type(experts).__name__}"
        )
    if not experts:
        raise ValueError("no experts were given; a merge needs at least one")
    return [named_leaves(e, low_rank=low_rank) for e in experts], None, len(experts)


def _leaf_experts(models: Any, stacked: Any, name: str) -> Experts:
    if stacked is not None:
        return Experts(stacked[name], stacked=True)
    return Experts([model[name] for model in models])


def _check_model(base: dict[str, Any], models: Any, stacked: Any, num: int) -> None:
    for t, model in enumerate(models if models is not None else [stacked]):
        what = f"expert {t}" if models is not None else "the stack of experts"
        _checks.check_names(list(base), list(model), what)
        for name, leaf in base.items():
            lead = (num,) if models is None else ()
            expected = (*lead, *np.shape(leaf))
            _checks.check_shape(name, expected, np.shape(model[name]), what)


def _copied(name: str, leaf: Any, experts: Experts) -> Any:
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
    statistics: Any = None,
) -> Any:
    """Merges whole models, leaf by leaf; `call` runs a leaf's function.

    The other arguments, the result and the errors are those of `Merger`.
    """
    _checks.check_key(key)
    _side.check_given(merger, statistics)
    low_rank = merger.space == "product"
    models, stacked, num = _models(experts, low_rank)
    members = _members.checked(members, num, merger)
    if ids is not None and len(ids) != num:
        raise ValueError(f"{len(ids)} ids were given for {num} experts")
    identities = range(num) if ids is None else ids
    expert_ids = np.asarray([expert_id(i) for i in identities], np.uint32)
    if base is not None:
        tree, leaves = base, named_leaves(base, low_rank=low_rank)
    elif models is None:
        tree, leaves = experts.tree, {n: x[0] for n, x in stacked.items()}
    else:
        tree, leaves = experts[0], models[0]
    _check_model(leaves, models, stacked, num)
    if not low_rank:
        _check_scales(experts)
    _check_prefixes(merger, leaves)
    programs, merged = {}, {}
    for name, leaf in leaves.items():
        _checks.check_mergeable(name, leaf.dtype)
        if _checks.is_merged(leaf.dtype):
            programs[name] = _leaf.bind(
                merger.at(name), name, np.shape(leaf), num, members
            )
        else:
            merged[name] = _copied(name, leaf, _leaf_experts(models, stacked, name))
    bases = {} if base is None else leaves
    inputs = {
        name: (bases.get(name), _leaf_experts(models, stacked, name))
        for name in programs
    }
    surveys = _surveys(merger, programs, inputs, key, expert_ids, call)
    sides = _sides(merger, programs, leaves, statistics, num)
    results = {
        name: call(merge_leaf, "out_dtype")(
            program,
            *inputs[name],
            key,
            name_hash(name),
            expert_ids,
            surveys,
            members,
            sides.get(name),
            out_dtype=jnp.dtype(leaves[name].dtype),
        )
        for name, program in programs.items()
    }
    if merger.per_task is not None:
        return _task_models(merger, tree, results, num)
    return _rebuild(tree, {**merged, **results}, low_rank)


def _sides(
    merger: Any,
    programs: dict[str, _leaf.LeafProgram],
    leaves: dict[str, Any],
    statistics: Any,
    num: int,
) -> dict[str, Experts]:
    """The statistics of each leaf that has some, one for each expert."""
    if statistics is None:
        return {}
    trees, stacked, given = _models(statistics, False, "statistics")
    if given != num:
        raise ValueError(f"statistics of {given} experts were given for {num} experts")
    first = stacked if trees is None else trees[0]
    for t, tree in enumerate(trees or [stacked]):
        what = f"the statistics of expert {t}" if trees else "the statistics"
        _side.check_names(tree, leaves, what)
        _side.check_same(first, tree, t)
    shapes = {n: _side.shape_needed(p, leaves[n].shape) for n, p in programs.items()}
    found = {}
    for name in [name for name in first if name in programs]:
        if shapes[name] is None:
            problem = _side.problem_of_unused(programs[name], leaves[name].shape)
            if problem is not None:
                raise ValueError(f"the statistic of {name} {problem}")
            continue
        found[name] = sides = _leaf_experts(trees, stacked, name)
        for t in range(num):
            what = f"the statistics of expert {t}"
            side = sides.get(t)
            _side.check_shape(name, shapes[name], np.shape(side), what)
            problem = _side.problem_of(programs[name].needs, side)
            if problem is not None:
                raise ValueError(f"{what}: {name} {problem}")
    _side.check_some(shapes, len(found), " and ".join(_side.kinds_needed(merger)))
    return found


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
    inputs: dict[str, tuple[Any, Experts]],
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

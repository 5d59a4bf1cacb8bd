"""One leaf of all experts, merged in memory."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmerge import _leaf, _members, ranks
from jaxmerge._coefficients import select
from jaxmerge._leaf import ExpertKey
from jaxmerge._survey import of_expert
from jaxmerge._trees import is_low_rank
from jaxmerge._types import pytree, static

# Up to here a fold is unrolled: the sums of a list of arrays fuse into one pass over
# memory. Beyond, a scan keeps the program's size and its compile time independent of T.
_UNROLLED_EXPERTS = 32
# Of small leaves, what random numbers, norms or decompositions take does not fuse, and
# stacking costs nothing: there long programs are scanned from a few experts on.
_UNROLLED_LONG = 3
_SMALL = 2**16


@pytree
class Experts:
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

    def as_stack(self) -> "Experts":
        if self.stacked:
            return self
        return Experts(jnp.stack([jnp.asarray(x) for x in self.leaves]), stacked=True)


def _is_long(stages: Sequence[Any]) -> bool:
    """Whether what one expert takes is a program too long to repeat for each."""
    return not _leaf.is_elementwise(stages) or _leaf.is_random(stages)


def _most_unrolled(experts: Experts, template: Any, stages: Sequence[Any]) -> int:
    """Up to how many experts a fold is unrolled, for a leaf and what is done to it."""
    if not experts.stacked and any(is_low_rank(x) for x in experts.leaves):
        return experts.num
    small = np.size(template) <= _SMALL
    return _UNROLLED_LONG if small and _is_long(stages) else _UNROLLED_EXPERTS


def _fold(
    experts: Experts,
    sides: Experts | None,
    lift: Callable[..., Any],
    join: Any,
    unrolled: int,
) -> Any:
    """`join` over the experts, in their order, of `lift(expert, side, t)`."""
    if experts.num <= unrolled:
        lifted = lambda t: lift(experts.get(t), sides and sides.get(t), np.int32(t))
        state = lifted(0)
        for t in range(1, experts.num):
            state = join(state, lifted(t))
        return state
    stacked, beside = experts.as_stack(), sides and sides.as_stack()

    def step(state: Any, t: Any) -> tuple[Any, None]:
        return join(state, lift(stacked.get(t), beside and beside.get(t), t)), None

    first = lift(stacked.get(0), beside and beside.get(0), np.int32(0))
    return jax.lax.scan(step, first, jnp.arange(1, experts.num, dtype=jnp.int32))[0]


# Takes an expert's position; gives what is known of it for each transform.
_Found = Callable[[Any], Any]


def _with_cuts(found: _Found, stage: int, num_stages: int, cuts: Any) -> _Found:
    def both(t: Any) -> tuple[Any, ...]:
        own = found(t) or (None,) * num_stages
        return (*own[:stage], *of_expert((cuts,), t), *own[stage + 1 :])

    return both


def _find_cuts(
    experts: Experts,
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
    experts: Experts,
    key: Any,
    name: Any,
    ids: Any,
    surveys: Any,
    members: Any = None,
    sides: Experts | None = None,
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
    for i in range(len(program.passes)):

        def lift(expert: Any, side: Any, t: Any, i: int = i, stats: Any = stats) -> Any:
            key = expert_key(t)
            return _leaf.lift(
                program, i, expert, base, t, key, stats, found(t), side=side
            )

        join = functools.partial(_leaf.join, program, i)
        unrolled = _most_unrolled(
            experts, template, (*program.transforms, program.passes[i])
        )
        if members is None:
            state = _fold(experts, sides, lift, join, unrolled)
        else:
            among = _members.among(members, lift, join)
            state, _ = _fold(experts, sides, *among, unrolled)
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

"""The vocabulary of the library: coefficients, leaves, and the protocols of a merge.

A merge is a map-reduce over experts. For one tensor, with `delta_t = expert_t - base`:

    state  = join over t of  lift(transform(delta_t), weight_t)
    merged = base + scale * finish(state)

Everything below names one part of those two lines.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, dataclass_transform

import jax
from jaxtyping import Array, Key, PyTree

if TYPE_CHECKING:
    Coef = float | Array | Sequence[float] | PyTree | None
    State = PyTree
else:
    # JAX unflattens registered dataclasses with placeholders in the data fields, so no
    # run-time type checker may look at them.
    Coef = Any
    State = Any

_T = TypeVar("_T")


def static(**kwargs: Any) -> Any:
    """A dataclass field that is a choice: part of the program, not of its data."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


def coefficient(**kwargs: Any) -> Any:
    """A dataclass field that is a number, one per expert, or a tree prefix of either.

    The executors resolve it for each leaf and expert, so inside a leaf function it is a
    scalar (in a Transform) or a scalar or `(task,)` array (in a Combine).
    """
    return dataclasses.field(metadata={"coefficient": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static, coefficient))
def pytree(cls: type[_T]) -> type[_T]:
    """Makes a class a frozen dataclass that is a pytree of its non-static fields."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


@pytree
class MatrixSpec:
    """Which axes of a leaf are its matrix's output and input, and which are batch.

    Every other axis is one over which matrices are stacked: layers of a scanned model,
    experts of a mixture. Combines are given one matrix `[out, in]`, whatever the leaf
    looks like.

    Attributes:
      out: the output axis, or the axes that together are it, counted from the end.
      in_: the input axis, or axes, counted from the end.
      split: into how many equal matrices the output is cut, or the sizes of the cuts:
        3 for a fused query, key and value; None keeps it whole.

    >>> MatrixSpec(out=(-2, -1), in_=-3)  # a kernel [in, heads, size of a head]
    MatrixSpec(out=(-2, -1), in_=-3, split=None)
    """

    out: int | tuple[int, ...] = static(default=-2)
    in_: int | tuple[int, ...] = static(default=-1)
    split: int | tuple[int, ...] | None = static(default=None)


@pytree
class Leaf:
    """What a leaf function is told besides the delta.

    Names, prefixes and keys are resolved outside, so that every leaf of one shape and
    every expert run the same compiled function.

    Attributes:
      base: the base's tensor in the arithmetic dtype, or None where there is no base.
      t: the expert's position, an int32 scalar; None in `finish`.
      key: the key of this leaf and expert, or None where the merge was given none.
      stats: the result of the pass or survey before this one, or None; for a transform
        that keeps the largest entries of a tensor that comes in pieces, its `Cut`.
      side: this expert's statistic of this leaf (a Gram matrix, a diagonal Fisher), for
        combines that say what they need; None where there is none, and in `finish`.
      offset: the flat index of the first element, where the leaf is a piece of a tensor
        (an integer or a pair of limbs); None where it is whole.
      matrix: that of a matrix `[out, in]`, or None where the leaf is none.
      num_experts: T, as data: merges of more experts share the compiled function.
      slots: T as a static number, for combines whose state holds all experts
        (`holds_all`); None for others.
    """

    base: Any = None
    t: Any = None
    key: Any = None
    stats: Any = None
    side: Any = None
    offset: Any = None
    num_experts: Any = 1
    matrix: MatrixSpec | None = static(default=None)
    slots: int | None = static(default=None)


class Transform(Protocol):
    """One expert's delta in, one delta out; never looks at another expert.

    A transform may also have `bind(size) -> Transform`, called with its coefficients
    resolved and the number of elements of the leaf, outside the compiled function: the
    place where a concrete density becomes an integer count on the host.

    A stage may say that it is `elementwise`: that an entry of its result depends on the
    same entries of its inputs only, and on `leaf`. Tensors on disk are then merged
    piece by piece. One that keeps the largest entries is elementwise given their cut;
    it says so by `cuts_leaf`, with `kept(size)`, how many it keeps, and `ties`. One
    that is `random` is a long program: compiled once, not for each expert.
    """

    def __call__(self, delta: Array, leaf: Leaf) -> Array: ...


class Combine(Protocol):
    """How transformed deltas become one: a map into a monoid, and its last step.

    Attributes:
      frame: `"delta"` (the input is expert - base) or `"absolute"` (the weights).

    The last pass finishes with a delta, one before it with any pytree: `leaf.stats` of
    the next. A combine may also have `check_experts(num)`, which refuses a number of
    experts, and `holds_all`: that its state has a slot for each expert. One that has
    `lift_factors(pair, weight, leaf)` is given an expert's `LowRank` leaf by it, in
    place of `lift` and its dense delta. One that works with statistics of each expert
    `needs` a kind of them (`"gram"`, `"fisher"`, …), and `side_shape(shape, matrix)`
    says of which shape for a leaf, or None where it takes none.
    """

    @property
    def frame(self) -> str: ...
    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> State: ...
    def join(self, a: State, b: State) -> State: ...
    def finish(self, state: State, leaf: Leaf) -> Any: ...


PRNGKey = Key[Array, ""]

"""`Merger`: a merge as one callable pytree, and the ways to run it in memory."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxtyping import PyTree

from jaxmerge import _members
from jaxmerge._in_memory import jitted, merge, plain_call
from jaxmerge._matrices import Matrices
from jaxmerge._trees import (
    Stacked,
)
from jaxmerge._types import Coef, coefficient, pytree, static
from jaxmerge.combine.sums import WeightedSum
from jaxmerge.transforms import ScalarControl


@pytree
class Merger:
    r"""A merge: transforms of each expert's delta, and one associative combination.

        state  = join over t of  lift(transform(expert_t - base), weight_t)
        merged = base + scale * finish(state)

    A merger is data: `jax.vmap` sweeps its coefficients, `jax.grad` learns them, and
    `jax.jit` compiles once for all their values. It has no hidden jit; compile it
    yourself, or let `merge_leaves` compile it leaf by leaf.

    Attributes:
      transforms: applied to each expert's delta, in order.
      combine: a `Combine`, or a tuple of them: several passes over the experts, each of
        which sees the result of the one before.
      weights: one number per expert, or a prefix of such; 1 each if None.
      scale: multiplies the merged delta; 1 if None.
      post: transforms of the merged delta, before the scale.
      per_task: what each task keeps, for mergers with several models out.
      matrices: which leaves are matrices.
      space: `"product"`: an expert's `LowRank` leaf is the delta `scale * b @ a`;
        `"factors"`: its factors are leaves of their own.
      rounding: `"none"`, or `"storage"`: transformed deltas are rounded to the dtype
        that the expert is stored in, as codes that compute in it do.

    >>> import jax.numpy as jnp
    >>> merger = Merger(scale=0.5)
    >>> experts = [{"w": jnp.ones(2)}, {"w": 3 * jnp.ones(2)}]
    >>> merger({"w": jnp.zeros(2)}, experts)["w"].tolist()
    [2.0, 2.0]
    """

    transforms: tuple[Any, ...] = ()
    combine: Any = WeightedSum()
    weights: Coef = coefficient(default=None)
    scale: Coef = coefficient(default=None)
    post: tuple[Any, ...] = ()
    per_task: Any = None
    matrices: Matrices = static(default=Matrices())
    space: str = static(default="product")
    rounding: str = static(default="none")

    @property
    def passes(self) -> tuple[Any, ...]:
        """The passes over the experts, at least one."""
        return self.combine if isinstance(self.combine, tuple) else (self.combine,)

    @property
    def num_passes(self) -> int:
        """How often a merge reads the experts, whole-model statistics aside."""
        return len(self.passes)

    @property
    def takes_members(self) -> bool:
        """Whether `members=` may leave experts out, so that one program merges any set.

        >>> from jaxmerge import ties, tsv_m
        >>> ties().takes_members, tsv_m().takes_members
        (True, False)
        """
        return _members.refusal(self) is None

    def at(self, name: str) -> "Merger":
        """The merger of a leaf: itself; a `partition` has others for some names."""
        del name
        return self

    def __call__(
        self,
        base: PyTree,
        experts: Sequence[PyTree] | Stacked,
        *,
        key: Any = None,
        ids: Sequence[int | str] | None = None,
        members: Any = None,
        statistics: Any = None,
    ) -> Any:
        """Merges pytrees of arrays.

        Args:
          base: the parameters that the experts were fine-tuned from, any pytree of
            arrays. None means that the experts are themselves the vectors: LoRA
            factors, pseudo-gradients, models to average.
          experts: models of the base's structure, or `stack(experts)`. A leaf may be a
            `LowRank` pair.
          key: a typed key, for mergers that draw random numbers.
          ids: what names each expert in its key, integers or strings; their positions
            if None. An expert that keeps its id keeps its random numbers in any order.
          members: a boolean mask `(task,)`, the experts that take part; all if None. Of
            mergers that take one (`takes_members`), the merge is that of these experts
            alone, under their weights and ids. The mask may be traced: `jax.vmap` over
            masks merges many sets of experts by one program and transforms each expert
            once. If a traced mask is all false, the result is the base (zeros without
            one). Model Stock of one traced member is NaN.
          statistics: for mergers that need them (`regmean`, `fisher`, …), one pytree or
            mapping from leaf names to arrays for each expert. Leaves without any are
            merged as the method says; all experts have to have the same.

        Returns:
          The merged parameters with the base's structure and dtypes (the first
          expert's without a base), or `TaskModels` for mergers with several models out.

        Raises:
          ValueError: if structures, shapes or coefficients do not fit; by name.
          TypeError: if a key is missing or of the legacy kind.

        Integer and boolean leaves are copied and must agree, which is checked except
        while tracing.
        """
        return merge(self, base, experts, key, ids, plain_call, members, statistics)


def merge_leaves(
    merger: Any,
    base: PyTree,
    experts: Sequence[PyTree] | Stacked,
    *,
    key: Any = None,
    ids: Sequence[int | str] | None = None,
    members: Any = None,
    statistics: Any = None,
) -> Any:
    """Merges outside `jit`, one compiled function per distinct leaf shape.

    The same arguments and result as `merger(base, experts)`. Compiling a whole model's
    merge as one program takes as long as it has leaves; this takes as long as it has
    shapes, and leaves of one shape and later calls share the compilation.

    >>> import jax.numpy as jnp
    >>> from jaxmerge import ties
    >>> base, experts = {"w": jnp.zeros(4)}, [{"w": jnp.arange(4.0)}] * 2
    >>> merge_leaves(ties(density=0.5), base, experts)["w"].tolist()
    [0.0, 0.0, 2.0, 3.0]
    """
    return merge(merger, base, experts, key, ids, jitted, members, statistics)


def scalar_control(merger: Merger) -> Merger:
    """The norm-matched scalar control of a merger: what its transforms must beat.

    Every width is homogeneous, so a method that makes deltas larger gains something
    from size alone. The control gives each expert's delta of each leaf the norm that
    the merger's transforms give it, by one scalar, and leaves its shape as it was.

    Args:
      merger: any merger with transforms.

    Returns:
      The same merger with `ScalarControl(transforms)` in their place.

    >>> from jaxmerge import rht
    >>> len(scalar_control(rht()).transforms)
    1
    """
    return dataclasses.replace(merger, transforms=(ScalarControl(merger.transforms),))

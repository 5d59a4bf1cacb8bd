"""Merges made of merges: stages in a row, steps after, other rules for other parts."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import PyTree

from jaxmerge._in_memory import merge, plain_call
from jaxmerge._trees import Stacked
from jaxmerge._types import Coef, pytree, static
from jaxmerge.merger import Merger


def chain(
    *stages: Any, weights: Coef = None, scale: Coef = None, **options: Any
) -> Merger:
    """A merger of its stages: transforms, one combine or several passes, post-steps.

    Args:
      stages: what is done, in order. Stages before the first combine transform each
        expert's delta; those after the last transform the merged one.
      weights: one number per expert, or a prefix of such; 1 each if None.
      scale: multiplies the merged delta; 1 if None.
      options: further fields of `Merger`.

    Returns:
      The merger.

    Raises:
      ValueError: if there is no combine, or a transform stands between two.

    TIES from its parts:

    >>> from jaxmerge.combine import SignElectedMean
    >>> from jaxmerge.transforms import KeepLargest
    >>> merger = chain(KeepLargest(0.2), SignElectedMean("count"), scale=0.3)
    >>> len(merger.transforms), len(merger.passes), len(merger.post)
    (1, 1, 0)
    """
    combines = [i for i, stage in enumerate(stages) if hasattr(stage, "lift")]
    if not combines:
        raise ValueError(
            "chain was given no combine: something has to make one delta of the "
            "experts', such as combine.WeightedSum()"
        )
    first, last = combines[0], combines[-1] + 1
    between = [stage for stage in stages[first:last] if not hasattr(stage, "lift")]
    if between:
        raise ValueError(
            f"chain was given {type(between[0]).__name__} between two combines; these "
            "are passes over the same deltas: put it before the first, or after the "
            "last"
        )
    passes = stages[first:last]
    return Merger(
        transforms=tuple(stages[:first]),
        combine=stages[first] if len(passes) == 1 else tuple(passes),
        post=tuple(stages[last:]),
        weights=weights,
        scale=scale,
        **options,
    )


def then(merger: Merger, *steps: Any) -> Merger:
    """A merger with something done to what it merges.

    Args:
      merger: any merger.
      steps: in order, a transform of the merged delta (such as
        `transforms.BoostSpectrum()`), or a function from merger to merger (such as
        `jaxmerge.svc`).

    Returns:
      The merger with the steps.

    Raises:
      TypeError: if a step is neither.

    >>> import jaxmerge
    >>> boosted = then(jaxmerge.ties(), jaxmerge.transforms.BoostSpectrum(0.01))
    >>> len(boosted.post), len(then(jaxmerge.task_arithmetic(), jaxmerge.svc).passes)
    (1, 2)
    """
    for step in steps:
        if dataclasses.is_dataclass(step) and callable(step):
            merger = dataclasses.replace(merger, post=(*merger.post, step))
        elif callable(step) and isinstance(made := step(merger), Merger):
            merger = made
        else:
            raise TypeError(
                f"a step of then is {step!r}; expected a transform, or a function that "
                "makes a merger of a merger, such as jaxmerge.svc"
            )
    return merger


@pytree
class Partition:
    """Different mergers for different leaves; see `partition`.

    Attributes:
      patterns: regular expressions.
      mergers: for each pattern its merger, and the one of all other leaves.
    """

    patterns: tuple[str, ...] = static()
    mergers: tuple[Merger, ...] = ()

    def at(self, name: str) -> Merger:
        """The merger of a leaf: that of the first pattern found in its name."""
        for pattern, merger in zip(self.patterns, self.mergers, strict=False):
            if re.search(pattern, name):
                return merger
        return self.mergers[-1]

    @property
    def transforms(self) -> tuple[Any, ...]:
        """None over the whole model: each leaf has those of its merger."""
        return ()

    @property
    def passes(self) -> tuple[Any, ...]:
        """The passes of all mergers."""
        return tuple(combine for merger in self.mergers for combine in merger.passes)

    @property
    def num_passes(self) -> int:
        """How many times a leaf's experts are read, at most."""
        return max(merger.num_passes for merger in self.mergers)

    @property
    def per_task(self) -> None:
        return None

    @property
    def takes_members(self) -> bool:
        """Whether `members=` may leave experts out: all its mergers can."""
        return all(merger.takes_members for merger in self.mergers)

    @property
    def space(self) -> str:
        return self.mergers[0].space

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
        """Merges pytrees of arrays; see `Merger`."""
        return merge(self, base, experts, key, ids, plain_call, members, statistics)


def partition(rules: Mapping[str, Any], *, otherwise: Any) -> Partition:
    """A merge that treats parts of a model differently, by the names of their leaves.

    It is used as a merger is: called, compiled, mapped over, given to `merge_leaves` or
    `checkpoint.merge`. To group by anything but names, make patterns of the group's
    names.

    Args:
      rules: regular expression to a merger; the first that is found in a leaf's name
        counts.
      otherwise: the merger of all other leaves.

    Returns:
      A `Partition`.

    Raises:
      ValueError: if a merger has several models out, looks at the whole model first
        (thresholds over all leaves), or some merge LoRA factors and others products.

    >>> import jax.numpy as jnp
    >>> from jaxmerge import average, magmax
    >>> merger = partition({"norm": average()}, otherwise=magmax(scale=1.0))
    >>> base = {"norm": jnp.zeros(1), "w": jnp.zeros(1)}
    >>> experts = [{"norm": jnp.ones(1), "w": jnp.ones(1)}, base]
    >>> merged = merger(base, experts)
    >>> merged["norm"].tolist(), merged["w"].tolist()
    ([0.5], [1.0])
    """
    mergers = (*rules.values(), otherwise)
    for pattern, merger in zip((*rules, "otherwise"), mergers, strict=True):
        _check_part(pattern, merger)
    if len({merger.space for merger in mergers}) > 1:
        raise ValueError(
            "some mergers of partition merge LoRA factors and others their products; "
            "choose one space for all"
        )
    for pattern in rules:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"{pattern!r} is no regular expression: {error}"
            ) from error
    return Partition(tuple(rules), mergers)


def _check_part(pattern: str, merger: Any) -> None:
    if not isinstance(merger, Merger):
        raise TypeError(
            f"partition was given {type(merger).__name__} for {pattern!r}; expected a "
            "merger, such as jaxmerge.ties()"
        )
    if merger.per_task is not None:
        raise ValueError(
            f"the merger for {pattern!r} has a model for each task; partition merges "
            "into one"
        )
    if any(getattr(stage, "survey_rounds", 0) for stage in merger.transforms):
        raise ValueError(
            f"the merger for {pattern!r} looks at the whole model before it merges; "
            "partition gives it a part: choose one that goes leaf by leaf, such as "
            "ties(scope='leaf')"
        )

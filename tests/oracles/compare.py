"""How a merge is compared with a recorded one: what it is called, and its error.

`compare_research.py` and `compare_libraries.py` make comparisons of each kind of
recording; `comparisons.py` is the table of them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import jaxmerge
from jaxmerge import _random, merge_leaves
from tests.oracles.fixtures import ResearchCase, Tensors

# The classes of oracles, the strongest first.
AUTHORS = "authors' code or fusion-bench run"
LIBRARY = "mergekit or PEFT run"
PORT = "independent port"
OWN = "own float64 reference only"
CLASSES = (AUTHORS, LIBRARY, PORT, OWN)

# An error that asks for an explanation.
LARGE = 1e-5


@dataclass(frozen=True)
class Pair:
    """A merge, the expected one and what both started from; None: they are deltas."""

    merged: Tensors
    expected: Tensors
    start: Tensors | None = None


@dataclass(frozen=True)
class Comparison:
    """One method against one oracle.

    Attributes:
      method: its name in the registry.
      kind: one of `CLASSES`.
      oracle: name and version.
      cases: what was recorded, by its names in `recorded.json`.
      pairs: gives the merges to compare.
    """

    method: str
    kind: str
    oracle: str
    cases: str
    pairs: Callable[[], Iterable[Pair]] = field(repr=False)

    def measure(self) -> "Measured":
        """Of the tensor with the largest error; of those that are `large` if any is."""
        found = (each for pair in self.pairs() for each in errors(pair))
        return max(found, key=lambda each: (each.large, each.error))


class Measured(NamedTuple):
    """How far a merged tensor is off, relative to the norm of its expected delta.

    Attributes:
      error: the norm of the difference.
      rounding: the last digit of the expected weights in float32, which is as much as
        two roundings of the same number may differ; 0 where deltas were recorded.
    """

    error: float
    rounding: float

    @property
    def large(self) -> bool:
        return self.error > max(LARGE, self.rounding)


def errors(pair: Pair) -> Iterator[Measured]:
    """Of each tensor; where nothing is expected to change, the difference itself."""
    assert pair.expected
    assert pair.merged.keys() == pair.expected.keys()
    norm = lambda x: float(np.linalg.norm(x))
    for name, x in pair.expected.items():
        x, merged = np.float64(x), np.float64(pair.merged[name])
        start = 0.0 if pair.start is None else np.float64(pair.start[name])
        size = norm(x - start) or 1.0
        digit = 0.0 if pair.start is None else np.finfo(np.float32).eps * norm(x)
        yield Measured(norm(merged - x) / size, digit / size)


def error(merged: Tensors, expected: Tensors, start: Tensors | None = None) -> float:
    """The largest error of a tensor, relative to the norm of the expected delta."""
    return max(errors(Pair(merged, expected, start))).error


def arrays(merged: Any) -> Tensors:
    return {name: np.asarray(x) for name, x in merged.items()}


def merge(merger: jaxmerge.Merger, case: ResearchCase) -> Tensors:
    """The merged deltas of a case."""
    return arrays(merge_leaves(merger, None, case.deltas))


def one_more(density: float, size: int) -> float:
    """The density that keeps `int(density * size) + 1` entries.

    The authors of TIES and FusionBench keep what is `>=` the value of rank `n - k`
    counted from below, which is one entry more than the k that they ask for (and than
    `ties` keeps).
    """
    return (int(density * size) + 1.5) / size


def merge_given_draws(
    merger: jaxmerge.Merger, base: Any, experts: Any, masks: Iterable[np.ndarray]
) -> Any:
    """With recorded draws, expert by expert, in place of those of a random method."""
    left = list(masks)
    if not left:
        return merge_leaves(merger, base, experts)
    draw = lambda *_, **__: jnp.asarray(left.pop(0))
    with mock.patch.object(_random, "bernoulli", draw):
        # Not `merge_leaves`, whose programs are kept, and the draws with them.
        merged = merger(base, experts, key=jax.random.key(0))
    assert not left, "a recorded draw was left over"
    return merged


def short(oracle: str) -> str:
    """An oracle's name and version, of a commit's digits the first seven."""
    name, _, version = oracle.partition(" ")
    return f"{name} {version[:7] if len(version) == 40 else version}"

"""Which sets of experts to merge: all, a uniform sample, or prefixes of permutations.

A set is a row of a boolean mask `(subset, task)`. Sets are drawn without replacement
and no set comes twice, so that a mean over them counts each alike.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np

from jaxmerge._checks import check_key
from jaxmerge._types import PRNGKey
from jaxmerge.laws.tables import subset_name

# Positions `(order, task)`: an array, or nested lists.
Orders = np.ndarray | Sequence[Sequence[int]]

# More rows than this are refused; 2^24 rows of 24 experts are 400 MB.
_MOST_SUBSETS = 1 << 24
_CANDIDATES = 1000  # a permutation, as in the paper


@dataclasses.dataclass(frozen=True)
class Design:
    """Sets of experts, each once.

    Attributes:
      masks: which experts are in which set, boolean `(subset, task)`.

    >>> design = Design(np.array([[True, False, True], [False, True, False]]))
    >>> design.names, design.k.tolist()
    (['0-2', '1'], [2, 1])
    """

    masks: np.ndarray

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def num_experts(self) -> int:
        """T, of the pool."""
        return self.masks.shape[1]

    @property
    def k(self) -> np.ndarray:
        """How many experts each set has, `(subset,)`."""
        return self.masks.sum(axis=1)

    @property
    def names(self) -> list[str]:
        """The sets as tables write them: `0-3-5`."""
        return [subset_name(np.flatnonzero(mask).tolist()) for mask in self.masks]

    def where(self, keep: np.ndarray) -> "Design":
        """The sets at which a mask is true."""
        return Design(self.masks[keep])

    @classmethod
    def from_members(
        cls, members: Iterable[Sequence[int]], num_experts: int
    ) -> "Design":
        """A design of sets of positions; of equal sets the first is kept.

        >>> Design.from_members([(0, 2), (2, 0), (1,)], 3).names
        ['0-2', '1']

        Raises:
          ValueError: if a set is empty, or names an expert twice or outside the pool.
        """
        unique = {}
        for subset in members:
            ordered = tuple(sorted(int(t) for t in subset))
            valid = ordered and ordered[0] >= 0 and ordered[-1] < num_experts
            if not valid or len(set(ordered)) != len(ordered):
                raise ValueError(
                    f"{list(subset)} is no set of experts; expected at least one "
                    f"position from 0 to {num_experts - 1}, each once"
                )
            unique[ordered] = None
        masks = np.zeros((len(unique), num_experts), bool)
        for row, subset in zip(masks, unique, strict=True):
            row[list(subset)] = True
        return cls(masks)


def _sizes(num_experts: int, sizes: Iterable[int] | None) -> list[int]:
    if num_experts < 1:
        raise ValueError(f"num_experts is {num_experts}; expected at least 1")
    chosen = range(1, num_experts + 1) if sizes is None else sorted(set(sizes))
    for k in chosen:
        if not 1 <= k <= num_experts:
            raise ValueError(
                f"sizes has {k}; expected numbers of experts from 1 to {num_experts}"
            )
    return list(chosen)


def num_subsets(num_experts: int, sizes: Iterable[int] | None = None) -> int:
    r"""How many non-empty sets there are, `sum_k C(T, k)`.

    Args:
      num_experts: T, at least 1.
      sizes: the k that count; all if None.

    >>> num_subsets(9), num_subsets(9, [4, 5])
    (511, 252)
    """
    return sum(math.comb(num_experts, k) for k in _sizes(num_experts, sizes))


def iterate_subsets(
    num_experts: int, sizes: Iterable[int] | None = None
) -> Iterator[tuple[int, ...]]:
    """All sets one by one, smaller ones first, for pools too large for a mask.

    Args:
      num_experts: T, at least 1.
      sizes: the k that are wanted; all if None.

    >>> list(iterate_subsets(3, [2]))
    [(0, 1), (0, 2), (1, 2)]
    """
    for k in _sizes(num_experts, sizes):
        yield from itertools.combinations(range(num_experts), k)


def all_subsets(num_experts: int, sizes: Iterable[int] | None = None) -> Design:
    """Every non-empty set: smaller ones first, then in the order of their members.

    Args:
      num_experts: T, at least 1.
      sizes: the k that are wanted; all if None.

    Raises:
      ValueError: if there are more than 2^24; take `iterate_subsets`, or a sample.

    >>> all_subsets(2).names
    ['0', '1', '0-1']
    """
    total = num_subsets(num_experts, sizes)
    if total > _MOST_SUBSETS:
        raise ValueError(
            f"{num_experts} experts have {total} such sets; all_subsets writes at most "
            f"{_MOST_SUBSETS}: take iterate_subsets, or a sample by uniform_subsets"
        )
    masks = np.zeros((total, num_experts), bool)
    start = 0
    for k in _sizes(num_experts, sizes):
        flat = itertools.chain.from_iterable(
            itertools.combinations(range(num_experts), k)
        )
        members = np.fromiter(flat, np.intp).reshape(-1, k)
        np.put_along_axis(masks[start : start + len(members)], members, True, axis=1)
        start += len(members)
    return Design(masks)


def uniform_subsets(key: PRNGKey, num_experts: int, k: int, count: int) -> Design:
    """Different sets of one size, uniformly at random without replacement.

    Args:
      key: a typed key.
      num_experts: T, at least 1.
      k: how many experts each set has, from 1 to T.
      count: how many sets, at most `C(T, k)`.

    Raises:
      ValueError: if there are not so many sets.

    >>> design = uniform_subsets(jax.random.key(0), 16, 4, 30)
    >>> len(design), set(design.k.tolist())
    (30, {4})
    """
    check_key(key)
    there_are = num_subsets(num_experts, [k])
    if not 1 <= count <= there_are:
        raise ValueError(
            f"count is {count}; {num_experts} experts have {there_are} sets of {k}, "
            "and each is drawn at most once"
        )
    if 2 * count > there_are:
        everything = all_subsets(num_experts, [k])
        order = _permutations(key, 0, there_are, rows=1)[0]
        return everything.where(order[:count])
    # Less than half of the sets are wanted: draw, and pass over what came before.
    unique: dict[tuple[int, ...], None] = {}
    for draw in itertools.count():
        drawn = _permutations(key, draw, num_experts, rows=count)
        for members in np.sort(drawn[:, :k], axis=1):
            unique.setdefault(tuple(members.tolist()))
            if len(unique) == count:
                return Design.from_members(unique, num_experts)
    raise AssertionError("unreachable")


# --- permutations and their prefixes -------------------------------------------------


def _permutations(key: PRNGKey, number: int, num_experts: int, rows: int) -> np.ndarray:
    """Uniform permutations, `(row, task)`: the orders of 64-bit random words.

    The words are NumPy's, seeded by the key: the host needs them, and nothing compiles.
    """
    words = np.ravel(jax.random.key_data(key)).tolist()
    generator = np.random.PCG64(np.random.SeedSequence([*words, number]))
    bits = generator.random_raw(rows * num_experts).reshape(rows, num_experts)
    return np.argsort(bits, axis=1, kind="stable")


def permutations(key: PRNGKey, num_experts: int, count: int) -> np.ndarray:
    """Orders of the experts that are far from each other.

    The first is the identity, the second its reverse. Each next one is, among 1000
    random permutations, the one with the largest minimum Hamming distance to those that
    are there; the first such, if there are several.

    Means over their prefixes are not exactly means over uniform sets: there are few
    sets at small and at large k, and the first two orders always give the two ends of
    the list.

    Args:
      key: a typed key.
      num_experts: T, at least 1.
      count: how many, at least 1; the paper takes 15 of nine experts.

    Returns:
      Positions `(order, task)`.

    Raises:
      ValueError: if no further permutation is among the candidates.

    >>> permutations(jax.random.key(0), 3, 2).tolist()
    [[0, 1, 2], [2, 1, 0]]

    References:
      Model Merging Scaling Laws in Large Language Models, 2025, Algorithm 1.
    """
    check_key(key)
    if num_experts < 1 or count < 1:
        raise ValueError(
            f"num_experts is {num_experts} and count {count}; expected at least 1"
        )
    identity = np.arange(num_experts)
    orders = [identity, identity[::-1]][: min(count, math.factorial(num_experts))]
    while len(orders) < count:
        candidates = _candidates(key, num_experts, len(orders))
        distances = [(candidates != order).sum(axis=1) for order in orders]
        nearest = np.min(distances, axis=0)
        best = int(np.argmax(nearest))
        if nearest[best] == 0:
            raise ValueError(
                f"count is {count}; {num_experts} experts have "
                f"{math.factorial(num_experts)} orders, and after {len(orders)} of "
                f"them none of {_CANDIDATES} candidates is new"
            )
        orders.append(candidates[best])
    return np.stack(orders)


def _candidates(key: PRNGKey, num_experts: int, number: int) -> np.ndarray:
    """The random permutations from which order `number` is taken."""
    return _permutations(key, number, num_experts, rows=_CANDIDATES)


def check_orders(orders: Orders) -> np.ndarray:
    """Orders as an integer array `(order, task)`.

    Raises:
      ValueError: if a row is no permutation of the positions; by its number.
    """
    rows = np.asarray(orders)
    if rows.ndim != 2 or rows.size == 0:
        raise ValueError(f"orders have shape {rows.shape}; expected (order, task)")
    for number, order in enumerate(rows.tolist()):
        if sorted(order) != list(range(rows.shape[1])):
            raise ValueError(
                f"order {number} is {order}; expected each position from 0 to "
                f"{rows.shape[1] - 1} once"
            )
    return rows


def prefixes(orders: Orders) -> Design:
    """The first 1, 2, ..., T experts of every order: nested sets, each set once.

    Args:
      orders: positions `(order, task)`, each row a permutation.

    >>> prefixes(np.array([[0, 1, 2], [2, 1, 0]])).names
    ['0', '2', '0-1', '1-2', '0-1-2']

    References:
      Model Merging Scaling Laws in Large Language Models, 2025, Appendix M.
    """
    rows = check_orders(orders)
    num_experts = rows.shape[1]
    members = (order[:k] for k in range(1, num_experts + 1) for order in rows.tolist())
    return Design.from_members(members, num_experts)

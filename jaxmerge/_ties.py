"""Of elements whose magnitudes tie, the ones of lowest flat index.

A position is one number or two: that of a row, and that within the row. Ties are
counted by row, which finds the row where the last one kept is, and only that row is
searched. Where the tensor may be spread over devices no row is taken out of it: then
the positions of all ties are searched, as magnitudes are.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool

from jaxmerge import _limbs, _search
from jaxmerge._limbs import Limbs
from jaxmerge._search import magnitude_bits
from jaxmerge._types import pytree, static

# From a tensor, or nothing but its shape, and a zero that is no constant.
Digit = Callable[[Array, Array], Array]
Position = Callable[[Array], Array]

_DIGIT = 2**32 - 1  # positions below this are one uint32 digit
_MOST_ROWS = 2**20


@pytree
class Cut:
    """Where the k largest magnitudes of a tensor end.

    Attributes:
      bits: elements whose magnitude has at least these bits are among them;
      positions: and of those one below, the ones whose position, counted from the end
        and digit by digit, is at least this; none if there are no digits.
      rows: how many leading axes the first of two digits is of.
    """

    bits: Any
    positions: tuple[Any, ...] = ()
    rows: int = static(default=0)

    def mask(self, x: Array) -> Bool[Array, "..."]:
        """Which elements are among the k largest of the tensor that was cut."""
        if x.size == 0:
            return jnp.zeros(x.shape, bool)
        shape, (x, _) = x.shape, _search.rows(lax.stop_gradient(x))
        bits = magnitude_bits(x)
        kept, tied = bits >= self.bits, bits == self.bits - 1
        digits = digits_of_position(x.shape, self.rows) if self.positions else []
        for (digit, _), least in zip(digits, self.positions, strict=True):
            position = digit(jnp.uint32(0))
            kept, tied = (
                kept | (tied & (position >= least)),
                tied & (position == least - 1),
            )
        return kept.reshape(shape)


def fewest_rows(shape: tuple[int, ...]) -> int:
    """How many leading axes a first digit needs, so that the second is a uint32."""
    lead = 0
    while math.prod(shape[lead:]) >= _DIGIT:
        lead += 1
    return lead


def digits_of_position(shape: tuple[int, ...], lead: int) -> list[tuple[Position, int]]:
    """The flat index, counted from the end and from 1, as uint32 digits.

    Returns:
      Pairs of a function that gives one digit for every element, and the largest value
      that it has. The digit of the `lead` leading axes comes first.
    """

    def digit(axes: range) -> tuple[Position, int]:
        size = math.prod(shape[axis] for axis in axes)

        def reversed_index(zero: Array) -> Array:
            index, stride = jnp.full(shape, zero + np.uint32(size)), 1
            for axis in reversed(axes):
                iota = lax.broadcasted_iota(jnp.uint32, shape, axis)
                index, stride = index - iota * np.uint32(stride), stride * shape[axis]
            return index

        return reversed_index, size

    inner = digit(range(lead, len(shape)))
    return [digit(range(lead)), inner] if lead else [inner]


def _position_of_ties(
    tied_in: tuple[tuple[Digit, Array], ...], position: Position, x: Array, zero: Array
) -> Array:
    """A digit of the position where x is tied in the digits before it, else 0."""
    same = functools.reduce(
        jnp.logical_and, [digit(x, zero) == bits for digit, bits in tied_in]
    )
    return jnp.where(same, position(zero), np.uint32(0))


def _search_positions(
    x: Array, axes: tuple[int, ...], bits: Array, need: Limbs, tied: Limbs, lead: int
) -> tuple[Array, ...]:
    """For each digit, where to cut the positions of elements that have these bits."""
    digit: Digit = _search.magnitude_digit
    tied_in, cut, cuts = [], bits + 1, []
    for position, largest in digits_of_position(x.shape, lead):
        tied_in.append((digit, cut - 1))
        digit = functools.partial(_position_of_ties, tuple(tied_in), position)
        one = jnp.ones_like(need[0])
        bracket = one, one * np.uint32(largest) + 1, tied, (one - one, one - one)
        cut, need, tied = _search.search(x, axes, digit, need, bracket)
        cuts.append(cut)
    return tuple(cuts)


def _row_of_last(tied: Array, need: Limbs, size: int) -> tuple[Array, Limbs]:
    """The row that holds the last of so many ties, and how many are before it."""
    index = lax.iota(jnp.int32, tied.size)

    def before(row: Array) -> Limbs:
        counted = jnp.where(index < row, tied, jnp.zeros_like(tied))
        return _limbs.total(counted, (0,), size)

    def step(i: Array, row: Array) -> Array:
        further = row + (np.int32(1 << tied.size.bit_length()) >> i)
        return jnp.where(_limbs.at_least(before(further), need), row, further)

    # Bit by bit: a cumulative sum would be compiled to hundreds of small steps.
    row = lax.fori_loop(1, tied.size.bit_length() + 1, step, jnp.int32(0))
    return row, before(row)


def _search_in_row(
    x: Array, axes: tuple[int, ...], bits: Array, need: Limbs
) -> tuple[Array, Array]:
    """As `_search_positions` for a row and a position in it: one pass, and one row."""
    lead = x.ndim - len(axes)
    num_rows = math.prod(x.shape[:lead])
    at_least = _search.count_by_row(
        magnitude_bits(x), axes, jnp.stack([bits, bits + 1]).reshape(-1)
    )
    tied = (at_least[0] - at_least[1]).reshape(-1)
    row, before = _row_of_last(tied, (need[0][0], need[1][0]), x.size)
    left = _limbs.subtract(need, (before[0][None], before[1][None]))
    take = lambda a: lax.dynamic_index_in_dim(a, row, 0)
    one_row = take(x.reshape(num_rows, *x.shape[lead:]))[0]
    there = take(tied), jnp.zeros_like(need[1])
    everywhere = tuple(range(one_row.ndim))
    (cut,) = _search_positions(one_row, everywhere, bits, left, there, 0)
    least_row = (np.uint32(num_rows + 1) - row.astype(jnp.uint32)).reshape(1)
    return least_row, cut


def first_ties(
    x: Array, axes: tuple[int, ...], cut: Array, need: Limbs, tied: Limbs
) -> Cut:
    """The cut that keeps the first of the elements just below another.

    Args:
      x: a tensor, by rows.
      axes: those within a row.
      cut: of its magnitudes, of shape `(1,)`.
      need: how many of those at `cut - 1` to keep, also `(1,)`,
      tied: of how many.
    """
    lead = x.ndim - len(axes)
    mesh = jax.typeof(x).sharding.mesh
    few_rows = lead > 0 and math.prod(x.shape[:lead]) <= _MOST_ROWS
    if not (mesh.empty and few_rows):
        lead = fewest_rows(x.shape)
        return Cut(
            cut, _search_positions(x, axes, cut - 1, need, tied, lead), rows=lead
        )
    nothing = jnp.full_like(need[0], _DIGIT)
    positions = lax.cond(
        _limbs.equal(need, _limbs.split(0))[0],
        lambda: (nothing, nothing),
        lambda: _search_in_row(x, axes, cut - 1, need),
    )
    return Cut(cut, positions, rows=lead)

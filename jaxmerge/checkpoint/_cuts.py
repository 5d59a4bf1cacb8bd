"""The cut of a tensor that comes in pieces: which entries are among its k largest.

A sorted sample brackets the k-th largest magnitude. One pass over the pieces counts
what is above the bracket and collects what is inside, two percent, and among those the
k-th is found exactly. Where the sample misleads, the bracket is widened. Magnitudes are
compared by their bits, as in `jaxmerge.ranks`.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool

from jaxmerge._coefficients import select
from jaxmerge._leaf import LeafProgram
from jaxmerge._search import magnitude_bits
from jaxmerge._types import pytree
from jaxmerge.checkpoint import _programs
from jaxmerge.checkpoint._pieces import Piece, offset_of
from jaxmerge.checkpoint._programs import Expert
from jaxmerge.checkpoint._threads import InOrder

# Half the bracket's width in standard deviations of a rank in the sample: one search in
# 370 is done again.
_WIDTHS = (3.0, 12.0, np.inf)
_EVERYWHERE = 2**31 - 1
_COMMON = 0.04
# The bits of so many pieces are kept, not computed again for each look at them.
_PIECES_KEPT = 8
_PIECES_AHEAD = 3

# What a function makes of the bits of every piece, or of a slice of the pieces.
Pieces = Callable[..., Iterable[Any]]


@pytree
class Cut:
    """The k largest entries of a tensor, as one piece of it needs to know them.

    Attributes:
      bits: entries whose magnitude has at least these bits are among them;
      ties: and of those one below, the ones at a position in the piece below this.
    """

    bits: Any
    ties: Any

    def mask(self, x: Array) -> Bool[Array, "..."]:
        """Which entries of a flat piece are among the k largest of the tensor."""
        bits = magnitude_bits(lax.stop_gradient(x))
        position = lax.broadcasted_iota(jnp.int32, x.shape, 0)
        return (bits >= self.bits) | ((bits == self.bits - 1) & (position < self.ties))


class Inside(NamedTuple):
    """What one pass finds in a piece.

    Attributes:
      above: how many magnitudes are at or above the bracket's high end.
      greatest: the greatest of all.
      values: the bits of those strictly inside the bracket.
    """

    above: int
    greatest: int
    values: np.ndarray


def look_inside(bits: np.ndarray, low: int, high: int) -> Inside:
    """Looks at a piece of magnitudes' bits for those above `low` and below `high`.

    >>> look_inside(np.array([5, 1, 9, 6], np.uint32), 4, 9)[:2]
    (1, 9)
    """
    greatest = int(bits.max(initial=0))
    above = int(np.count_nonzero(bits >= bits.dtype.type(high)))
    # One comparison for both ends: what is below wraps around.
    width = bits.dtype.type(max(high - low - 1, 0))
    inside = (bits - bits.dtype.type(low + 1)) < width
    return Inside(above, greatest, bits[inside])


def _brackets(sample: np.ndarray, share: float, top: int) -> Iterator[tuple[int, int]]:
    """Brackets of bits around the quantile of a sorted sample, ever wider.

    `share` is that of the elements below the k-th largest.
    """
    spread = np.sqrt(max(share * (1 - share), 0.0) * sample.size) + 1.0
    for width in _WIDTHS:
        first = share * sample.size - width * spread
        last = share * sample.size + width * spread
        low, high = 0, top
        if first >= 0:
            low = int(sample[int(first)])
            low -= low > 0 and not _is_common(sample, low)
        if last < sample.size:
            high = int(sample[int(last)])
            high += not _is_common(sample, high)
        yield low, high


def _is_common(sample: np.ndarray, value: int) -> bool:
    """Whether so many elements have this value that they should not be collected."""
    ends = np.array([value, value + 1], sample.dtype)
    first, last = np.searchsorted(sample, ends)
    return bool(last - first > _COMMON * sample.size)


class Kth(NamedTuple):
    """The k-th largest of a tensor's magnitudes.

    Attributes:
      bits: its bits.
      need: how many elements that have them are among the k largest,
      tied: of how many in each piece.
      greatest: the bits of the largest.
    """

    bits: int
    need: int
    tied: Sequence[int]
    greatest: int


def kth_of_pieces(pieces: Pieces, sample: np.ndarray, size: int, k: int) -> Kth:
    """Finds the k-th largest magnitude.

    Args:
      pieces: what a function makes of the bits of every piece.
      sample: some of the bits, sorted.
      size: the number of elements.
      k: from 1 to `size`.
    """
    top = 2 ** (8 * sample.dtype.itemsize - 1)
    for low, high in _brackets(sample, 1 - k / size, top):
        found = list(pieces(functools.partial(look_inside, low=low, high=high)))
        values = np.concatenate([one.values for one in found])
        greatest = max(one.greatest for one in found)
        rank = k - sum(one.above for one in found)
        if 0 < rank <= values.size:
            kth = np.partition(values, values.size - rank)[values.size - rank]
            need = rank - np.count_nonzero(values > kth)
            tied = [int(np.count_nonzero(one.values == kth)) for one in found]
            return Kth(int(kth), int(need), tied, greatest)
        # Many elements may equal an end of the bracket; they are counted, not kept.
        end = high if rank <= 0 else low
        tied = list(pieces(functools.partial(_count_equal, value=end)))
        need = rank + sum(tied) if rank <= 0 else rank - values.size
        if 0 < need <= sum(tied):
            return Kth(end, need, tied, greatest)
    raise AssertionError(f"no bracket holds the {k}th largest of {size}")


def _count_equal(bits: np.ndarray, value: int) -> int:
    return int(np.count_nonzero(bits == bits.dtype.type(value)))


def _position_of(bits: np.ndarray, value: int, nth: int) -> int:
    """The position after the nth element that has a value."""
    return int(np.flatnonzero(bits == bits.dtype.type(value))[nth - 1]) + 1


def ties_of_pieces(pieces: Pieces, kth: Kth) -> Iterator[int]:
    """For each piece the position below which elements that equal the k-th are kept."""
    need = kth.need
    for i, tied in enumerate(kth.tied):
        if need >= tied:
            yield _EVERYWHERE if tied else 0
        elif need == 0:
            yield 0
        else:
            nth = functools.partial(_position_of, value=kth.bits, nth=need)
            yield next(iter(pieces(nth, slice(i, i + 1))))
        need -= min(need, tied)


# --- one expert's tensor -------------------------------------------------------------


def _as_integer(count: Any) -> int:
    """A count as `ranks.count` gives it: a number, or a pair of limbs."""
    if isinstance(count, tuple):
        return int(count[0]) + (int(count[1]) << 32)
    return int(count)


def _of_unpadded(function: Callable[..., Any], bits: Any, size: int) -> Any:
    return function(np.asarray(bits)[:size])


def _cut_stage(
    program: LeafProgram,
    experts: Sequence[Expert],
    bases: Sequence[Any],
    pieces: Sequence[Piece],
    stage: int,
    threads: InOrder,
) -> tuple[list[Cut], bool]:
    """The cut of what one transform is given, and whether that is finite."""
    transform = select(
        program.transforms[stage], int(experts[0].t), np.dtype(np.float32)
    )
    size = pieces[-1].stop
    k = min(max(_as_integer(transform.kept(size)), 0), size)

    arguments = [
        (program, expert, base, offset_of(piece))
        for expert, base, piece in zip(experts, bases, pieces, strict=True)
    ]
    stride = _programs.sample_stride(size, len(pieces))
    kept: list[Any] = []
    if len(pieces) <= _PIECES_KEPT:
        kept = [_programs.bits(*each, stage=stage) for each in arguments]

    def sample_of(i: int) -> np.ndarray:
        if kept:
            return np.asarray(kept[i])[: pieces[i].size : stride]
        sampled = _programs.sample(*arguments[i], stage=stage, stride=stride)
        return np.asarray(sampled)[: -(-pieces[i].size // stride)]

    def over(function: Callable[..., Any], which: slice = slice(None)) -> Iterator[Any]:
        # The programs start here, for JAX's settings belong to a thread.
        for i in range(len(pieces))[which]:
            bits = kept[i] if kept else _programs.bits(*arguments[i], stage=stage)
            threads.submit(_of_unpadded, function, bits, pieces[i].size)
            yield from threads.done(_PIECES_AHEAD)
        yield from threads.done(0)

    sample = np.sort(np.concatenate([sample_of(i) for i in range(len(pieces))]))
    kth = kth_of_pieces(over, sample, size, max(k, 1))
    bits, ties = kth.bits + 1, [0] * len(pieces)
    if k == 0:
        bits = kth.greatest + 1
    elif transform.ties == "all":
        bits = kth.bits
    else:
        ties = list(ties_of_pieces(over, kth))
    cuts = [Cut(sample.dtype.type(bits), np.int32(below)) for below in ties]
    wide = np.float64 if sample.dtype == np.uint64 else np.float32
    return cuts, kth.greatest < int(np.array(np.inf, wide).view(sample.dtype))


def find_cuts(
    program: LeafProgram,
    expert: Expert,
    tensor: Sequence[Any],
    bases: Sequence[Any],
    pieces: Sequence[Piece],
    threads: InOrder,
) -> tuple[list[tuple[Any, ...]], bool]:
    """What an expert's transforms need to know of its whole tensor.

    Args:
      program: the merge.
      expert: the expert, with what was found of the whole model.
      tensor: its tensor's pieces.
      bases: the base's pieces, or as many None.
      pieces: where they are.
      threads: which work on several pieces at a time.

    Returns:
      For each piece what was found for each transform; and whether all that the first
      transform was given is finite.
    """
    transforms = program.transforms
    start = expert.found or (None,) * len(transforms)
    experts = [expert._replace(tensor=piece, found=start) for piece in tensor]
    finite = None
    for stage, transform in enumerate(transforms):
        if getattr(transform, "cuts_leaf", False) and pieces[-1].stop > 0:
            cuts, stage_finite = _cut_stage(
                program, experts, bases, pieces, stage, threads
            )
            finite = stage_finite if stage == 0 else finite
            experts = [
                one._replace(found=(*one.found[:stage], cut, *one.found[stage + 1 :]))
                for one, cut in zip(experts, cuts, strict=True)
            ]
    if finite is None:
        finite = bool(_programs.all_finite((tensor, bases)))
    return [one.found for one in experts], finite

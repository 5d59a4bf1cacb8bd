"""Pieces of tensors: what an elementwise merge reads, computes and writes at a time.

A merge whose stages act entry by entry never needs a whole tensor. It runs over pieces
of a few fixed lengths, padded with zeros, so that memory does not grow with the tensors
and hardly anything is compiled, whatever shapes a model has. A transform that keeps the
largest entries acts entry by entry too, once the magnitude where to cut is known;
finding that is a reading of the whole tensor before.
"""

from typing import NamedTuple

import numpy as np

from jaxmerge import _leaf
from jaxmerge._leaf import LeafProgram

# The states and inputs of a piece stay within a processor's caches, and its buffers
# below the size from which the C library gives memory back at once (32 MiB).
PIECE = 1 << 19
_LEAST = 1 << 12
# How many experts are joined by one compiled step, from one state to the next; and how
# many whose deltas are computed apart, for these are arrays in memory.
GROUP = 16
GROUP_APART = 4
# Buffers for pieces, whatever the number of experts is: a group, a base, and one ahead.
SMALL_BUFFERS = GROUP + 2


class Piece(NamedTuple):
    """Elements `start` to `stop` of a flat tensor, in an array of `length`."""

    start: int
    stop: int
    length: int

    @property
    def size(self) -> int:
        return self.stop - self.start


def pieces_of(size: int) -> tuple[Piece, ...]:
    """Cuts a tensor into pieces of nearly equal size and of one length.

    >>> pieces_of(5000)
    (Piece(start=0, stop=5000, length=8192),)
    """
    count = max(1, -(-size // PIECE))
    each = -(-size // count)
    length = max(min(_LEAST, PIECE), 1 << max(each - 1, 0).bit_length())
    edges = [min(i * each, size) for i in range(count + 1)]
    return tuple(Piece(a, b, length) for a, b in zip(edges, edges[1:], strict=False))


def is_elementwise(program: LeafProgram | None) -> bool:
    """Whether a merge may run over pieces."""
    if program is None or program.per_task is not None:
        return False
    stages = (*program.transforms, *program.passes, *program.post)
    return _leaf.is_elementwise(stages)


def selects(program: LeafProgram | None) -> bool:
    """Whether a transform keeps a tensor's largest entries, and so needs their cut."""
    transforms = () if program is None else program.transforms
    return any(getattr(transform, "cuts_leaf", False) for transform in transforms)


def group_size(program: LeafProgram) -> int:
    """How many experts one step joins."""
    return GROUP_APART if is_apart(program) else GROUP


def is_apart(program: LeafProgram) -> bool:
    """Whether an expert's delta is a program of its own."""
    return _leaf.is_random(program.transforms)


def offset_of(piece: Piece) -> tuple[np.uint32, np.uint32]:
    """The flat index of its first element, in two limbs."""
    return np.uint32(piece.start & 0xFFFFFFFF), np.uint32(piece.start >> 32)

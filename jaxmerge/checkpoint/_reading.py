"""What a merge reads, in which order, and how far it is."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmerge import _leaf
from jaxmerge.checkpoint._pieces import SMALL_BUFFERS, Piece, pieces_of
from jaxmerge.checkpoint._threads import Job, ReadAhead
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.plan import Input, Output, Plan, zero_pair


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is, given to `progress` callbacks after every read.

    Attributes:
      name: the tensor at work.
      tensors: tensors finished, of `num_tensors`.
      bytes_read: bytes read so far, of `bytes_total`.
    """

    name: str
    tensors: int
    num_tensors: int
    bytes_read: int
    bytes_total: int


class Read(NamedTuple):
    """Pieces of one input, read together; no pieces for the whole as it is stored."""

    output: Output
    part: Input
    pieces: tuple[Piece, ...] = ()


def reads_of_survey(plan: Plan) -> Iterator[Read]:
    """The reads of one round of surveys, in order."""
    for output in plan.outputs:
        if output.program is not None:
            if output.base is not None:
                yield Read(output, output.base)
            yield from (Read(output, part) for part in output.experts)


def reads_of_merge(plan: Plan) -> Iterator[Read]:
    """The reads of the merge itself, in the order in which `_merging` takes them."""
    for output in plan.outputs:
        if plan.in_pieces(output):
            yield from _reads_in_pieces(plan, output)
            continue
        if output.base is not None:
            yield Read(output, output.base)
        if output.program is None:
            parts = [part for part in output.experts if part.name is not None]
            yield from (Read(output, part) for part in parts)
            continue
        for combine in output.program.passes:
            yield from (Read(output, part) for part in inputs_of_pass(output, combine))
        if output.program.per_task is not None:
            yield from (Read(output, part) for part in output.experts)


def takes_sides(output: Output, combine: Any) -> bool:
    """Whether a pass is given the tensor's statistics."""
    return bool(output.sides) and getattr(combine, "needs", None) is not None


def inputs_of_pass(output: Output, combine: Any) -> Iterator[Input]:
    """What a pass reads: every expert, each followed by its statistic if it has one."""
    for t, part in enumerate(output.experts):
        yield part
        if takes_sides(output, combine):
            yield output.sides[t]


def _reads_in_pieces(plan: Plan, output: Output) -> Iterator[Read]:
    assert output.program is not None
    pieces = pieces_of(output.info.size)
    needs_cuts = plan.needs_cuts(output)
    if needs_cuts:
        # The base stays: it is needed for every expert's cut, and then for the merge.
        if output.base is not None:
            yield Read(output, output.base, pieces)
        yield from (Read(output, part, pieces) for part in output.experts)
    for piece in pieces:
        if output.base is not None and not needs_cuts:
            yield Read(output, output.base, (piece,))
        for combine in output.program.passes:
            parts = inputs_of_pass(output, combine)
            yield from (Read(output, part, (piece,)) for part in parts)


class Reader:
    """The reads of a run, ahead of their use.

    Args:
      plan: whose inputs are read.
      reads: gives the reads in the order in which they are taken.
      progress: told after each; `Progress` counts on from `bytes_read`.
    """

    def __init__(
        self,
        plan: Plan,
        reads: Callable[[Plan], Iterator[Read]],
        progress: Callable[[Progress], None] | None,
        bytes_read: int = 0,
    ):
        self._plan, self._progress = plan, progress
        self._total = plan.bytes_read
        self.bytes_read = bytes_read
        self.tensors = 0
        small = large = 0
        for read in reads(plan):
            size = self._buffer_bytes(read)
            large = max(large, size)
            small = max(small, size if len(read.pieces) == 1 else 0)
        jobs = (
            Job(self._buffer_bytes(read), functools.partial(self._read, read))
            for read in reads(plan)
        )
        self._ahead = ReadAhead(
            jobs, small=small, large=large, small_buffers=SMALL_BUFFERS
        )

    def _buffer_bytes(self, read: Read) -> int:
        if not read.pieces:
            return 0 if read.part.pair is not None else self._plan.nbytes(read.part)
        assert read.part.name is not None
        info = self._plan.source(read.part).infos[read.part.name]
        return sum(piece.length for piece in read.pieces) * info.dtype.itemsize

    def _read(self, read: Read, buffer: np.ndarray) -> tuple[Any, int]:
        """What is read, and how many bytes that were."""
        try:
            if read.pieces:
                arrays = self._read_pieces(read, buffer)
                stored = sum(piece.size for piece in read.pieces)
                return arrays, stored * arrays[0].dtype.itemsize
            return self._read_whole(read, buffer), self._plan.nbytes(read.part)
        except OSError as error:
            raise CheckpointError(
                f"{read.output.info.name!r} could not be read from "
                f"{describe(self._plan, read.part)}: {error}"
            ) from error

    def _read_whole(self, read: Read, buffer: np.ndarray) -> Any:
        output, part = read.output, read.part
        source = self._plan.source(part)
        if part.pair is not None:
            return part.pair.read(source)
        if part.name is None:
            return zero_pair(output.info.shape, np.float32)
        array = source.read(part.name, out=buffer)
        flat = output.program is not None and not self._keeps_shape(output)
        return array.reshape(-1) if flat else array

    def _read_pieces(self, read: Read, buffer: np.ndarray) -> list[np.ndarray]:
        source, name = self._plan.source(read.part), read.part.name
        assert name is not None
        dtype, at, arrays = source.infos[name].dtype, 0, []
        for piece in read.pieces:
            own = buffer[at : at + piece.length * dtype.itemsize]
            source.read_range(name, piece.start, piece.stop, out=own)
            own[piece.size * dtype.itemsize :] = 0
            arrays.append(own.view(dtype))
            at += own.nbytes
        return arrays

    def _keeps_shape(self, output: Output) -> bool:
        """Whether the merge needs the tensor's axes; else it sees a flat one."""
        parts = (output.template, *output.experts)
        low_rank = any(p.pair is not None or p.name is None for p in parts)
        merger = self._plan.merger.at(output.info.name)
        return low_rank or _leaf.uses_shape(merger)

    def next(self, output: Output) -> tuple[Any, Callable[[], None]]:
        """What was read for an input, and a function that gives its buffer back.

        Pieces come as a list. On a CPU the arrays are the buffer itself, so everything
        computed from them has to be done before it is given back.
        """
        (value, nbytes), free = self._ahead.next()
        self.bytes_read += nbytes
        if self._progress is not None:
            num = len(self._plan.outputs)
            name = output.info.name
            self._progress(
                Progress(name, self.tensors, num, self.bytes_read, self._total)
            )
        if output.program is not None:  # copied integers may be too wide for JAX
            value = jax.tree.map(jax.device_put, value)
        return value, free

    def close(self) -> None:
        self._ahead.close()


def describe(plan: Plan, part: Input) -> str:
    """Which model an input is from, for errors."""
    role = "the base" if part.source is None else f"expert {part.source}"
    role = f"the statistics of {role}" if part.is_side else role
    return f"{role} ({plan.source(part).path.name})"

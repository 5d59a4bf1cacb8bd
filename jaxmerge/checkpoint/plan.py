"""The plan of a merge on disk: what is written, and what each tensor is made from.

Outputs are not one to one with the base's tensors (tied heads, LoRA pairs, adapters
that target some modules only), so the executor runs a plan: a list of output tensors,
each with its inputs and its resolved merge.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmerge import _leaf, _side
from jaxmerge._leaf import ExpertKey, LeafProgram
from jaxmerge._survey import total_rounds
from jaxmerge._trees import LowRank, name_hash
from jaxmerge.checkpoint._pieces import (
    SMALL_BUFFERS,
    is_elementwise,
    pieces_of,
    selects,
)
from jaxmerge.checkpoint.peft import LoraPair
from jaxmerge.checkpoint.source import Source
from jaxmerge.checkpoint.tensor_info import TensorInfo
from jaxmerge.composition import Partition
from jaxmerge.merger import Merger

# Formats in which a part of a tensor is read as cheaply as the whole.
_SEEKABLE = ("safetensors", "huggingface")


@dataclasses.dataclass(frozen=True)
class Input:
    """One model's part of an output tensor.

    Attributes:
      source: the position among the experts, or None for the base.
      name: the tensor's name in that source; None where an adapter has nothing for it,
        which is a delta of zero.
      pair: the LoRA factors, where the input is their product.
      is_side: whether it is a statistic, from the expert's statistics and not from the
        expert.
    """

    source: int | None
    name: str | None
    pair: LoraPair | None = None
    is_side: bool = False


@dataclasses.dataclass(frozen=True)
class Output:
    """One tensor of the result.

    Attributes:
      info: its name, shape and dtype as written.
      base: the base's part, or None.
      experts: the experts' parts, in order.
      program: its resolved merge; None copies the base's (or first expert's) tensor.
      sides: the experts' statistics, in order; none for most.
    """

    info: TensorInfo
    base: Input | None
    experts: tuple[Input, ...]
    program: LeafProgram | None
    sides: tuple[Input, ...] = ()

    @property
    def template(self) -> Input:
        return self.experts[0] if self.base is None else self.base


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a merge will do; printed by a dry run, run by `execute`.

    Attributes:
      merger: the merge.
      base: the base's source, or None.
      experts: the experts' sources.
      outputs: in reading order.
      ties: (expert, tensor, the tensor it is tied to) which must be equal.
      whole: whether no tensor is merged in pieces, though it could be.
      statistics: the sources of the experts' statistics, for merges that need some.
    """

    merger: Merger | Partition
    base: Source | None
    experts: tuple[Source, ...]
    outputs: tuple[Output, ...]
    ties: tuple[tuple[int, str, str], ...] = ()
    whole: bool = False
    statistics: tuple[Source, ...] = ()

    @property
    def template(self) -> Source:
        return self.experts[0] if self.base is None else self.base

    @property
    def reads_of_experts(self) -> int:
        """How many times the experts are read."""
        surveys = total_rounds(self.merger.transforms)
        masks = self.merger.per_task is not None
        cuts = any(self.needs_cuts(output) for output in self.outputs)
        return self.merger.num_passes + surveys + masks + cuts

    def in_pieces(self, output: Output) -> bool:
        """Whether a tensor is read, merged and written in pieces."""
        inputs = (output.template, *output.experts, *output.sides)
        return (not self.whole and is_elementwise(output.program)) and all(
            part.name is not None
            and part.pair is None
            and self.source(part).kind in _SEEKABLE
            for part in inputs
        )

    def needs_cuts(self, output: Output) -> bool:
        """Whether a tensor's experts are read once more, to find their largest."""
        return self.in_pieces(output) and selects(output.program)

    @property
    def bytes_read(self) -> int:
        """Bytes that the whole run reads."""
        surveys = total_rounds(self.merger.transforms)
        total = 0
        for output in self.outputs:
            experts = sum(self.nbytes(x) for x in output.experts)
            base = 0 if output.base is None else self.nbytes(output.base)
            if output.program is None:
                total += base + experts
            else:
                masks = self.merger.per_task is not None
                reads = len(output.program.passes) + surveys + masks
                reads += self.needs_cuts(output)
                total += base * (1 + surveys) + experts * reads
                total += sum(self.nbytes(x) for x in output.sides)
        return total

    @property
    def bytes_written(self) -> int:
        """Bytes of tensor data in the result."""
        return sum(output.info.nbytes for output in self.outputs)

    @property
    def memory(self) -> int:
        """An estimate of the bytes of buffers, states and results in flight.

        It does not depend on the number of experts for methods of one pass whose state
        does not.
        """
        largest = max((self.nbytes(x) for x in self._read_whole()), default=0)
        # Tracing is slow, and all leaves of one shape and program are alike.
        alike = {
            (o.info.shape, o.info.dtype, jax.tree.structure(o.program)): o
            for o in self.outputs
            if o.program is not None
        }
        return 3 * largest + max(map(self._in_flight, alike.values()), default=0)

    def _in_flight(self, output: Output) -> int:
        """Bytes of the states and results of one tensor, and of its pieces."""
        size = output.info.size
        used = self.state_bytes(output) + 2 * output.info.nbytes + 4 * size
        if not self.in_pieces(output):
            return used
        parts = (output.template, *output.experts)
        width = max(self.nbytes(part) for part in parts) // max(size, 1)
        length = pieces_of(size)[0].length
        return used * length // max(size, 1) + SMALL_BUFFERS * length * width

    def state_bytes(self, output: Output) -> int:
        """The size of the largest state that the merge of one tensor holds."""
        program = output.program
        if program is None:
            return 0
        shape = jax.ShapeDtypeStruct(output.info.shape, jnp.float32)
        t = jax.ShapeDtypeStruct((), jnp.int32)
        # Any key will do: random mergers ask for one, and only shapes are computed.
        key = ExpertKey(jax.random.key(0), name_hash(output.info.name), np.uint32(0))
        largest, stats, expert = 0, None, self._leaf_of(output)
        needed = _side.shape_needed(program, shape.shape) if output.sides else None
        side = None if needed is None else jax.ShapeDtypeStruct(needed, jnp.float32)
        for i in range(len(program.passes)):

            def lift(
                x: Any, base: Any, t: Any, stats: Any, side: Any, i: int = i
            ) -> Any:
                return _leaf.lift(program, i, x, base, t, key, stats, side=side)

            def finish(state: Any, base: Any, stats: Any, i: int = i) -> Any:
                return _leaf.finish(program, i, state, base, jnp.float32, stats)

            state = jax.eval_shape(lift, expert, shape, t, stats, side)
            sizes = [x.size * x.dtype.itemsize for x in jax.tree.leaves(state)]
            largest = max(largest, sum(sizes))
            stats = jax.eval_shape(finish, state, shape, stats)
        return largest

    def _leaf_of(self, output: Output) -> Any:
        """What an expert's leaf is, by its shape: an adapter's is its factors."""
        shape = output.info.shape
        ranks = [x.pair.rank(self.source(x)) for x in output.experts if x.pair]
        if not ranks:
            return jax.ShapeDtypeStruct(shape, jnp.float32)
        a, b = (max(ranks), *shape[-1:]), (*shape[:-1], max(ranks))
        return LowRank(*(jax.ShapeDtypeStruct(x, jnp.float32) for x in (a, b)))

    def _read_whole(self) -> Iterator[Input]:
        """The inputs that are held in memory as wholes."""
        for output in self.outputs:
            if not self.in_pieces(output) or self.needs_cuts(output):
                yield from (output.template, *output.experts, *output.sides)

    def source(self, part: Input) -> Source:
        """The source that an input is read from."""
        if part.source is None:
            assert self.base is not None
            return self.base
        if part.is_side:
            return self.statistics[part.source]
        return self.experts[part.source]

    def nbytes(self, part: Input) -> int:
        """The bytes that are stored for an input."""
        infos = self.source(part).infos
        if part.pair is not None:
            return infos[part.pair.a_name].nbytes + infos[part.pair.b_name].nbytes
        return 0 if part.name is None else infos[part.name].nbytes


def zero_pair(shape: tuple[int, ...], dtype: Any) -> LowRank:
    """A delta of zero, without storing one; of any shape, vectors and scalars too."""
    return LowRank(
        np.zeros((0, *shape[-1:]), dtype), np.zeros((*shape[:-1], 0), dtype), 1.0
    )

"""The merge of one output tensor: by pieces if it is elementwise, else as a whole."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmerge import _leaf, _side
from jaxmerge._leaf import ExpertKey
from jaxmerge._survey import of_expert
from jaxmerge._trees import name_hash
from jaxmerge.checkpoint import _programs
from jaxmerge.checkpoint._cuts import find_cuts
from jaxmerge.checkpoint._pieces import (
    PIECE,
    Piece,
    group_size,
    is_apart,
    offset_of,
    pieces_of,
)
from jaxmerge.checkpoint._programs import Expert
from jaxmerge.checkpoint._reading import Reader, describe, takes_sides
from jaxmerge.checkpoint._threads import InOrder
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.plan import Input, Output, Plan

# Takes (start, array): the merged entries of a flat tensor from there.
Write = Callable[[int, np.ndarray], None]
# Takes (t, record), for mergers with several models out.
Record = Callable[[int, Any], None]


def expert_key(key: Any, output: Output, identity: Any) -> ExpertKey:
    """What the random numbers of a tensor and an expert's id are drawn from."""
    return ExpertKey(key, name_hash(output.info.name), identity)


@dataclasses.dataclass(frozen=True)
class Context:
    """What the tensors of a run share.

    Attributes:
      plan: the plan.
      key: a typed key, or None.
      ids: each expert's id.
      reader: gives the inputs of the merge, in the plan's order.
      threads: work on several pieces at a time, where that is not compiled.
      surveys: for each transform its survey of the whole model.
    """

    plan: Plan
    key: Any
    ids: Sequence[Any]
    reader: Reader
    threads: InOrder
    surveys: Any = ()

    def expert_key(self, output: Output, t: int | None) -> ExpertKey:
        """What the random numbers of a tensor and an expert are drawn from."""
        return expert_key(self.key, output, None if t is None else self.ids[t])


def merge_tensor(
    context: Context, output: Output, write: Write, record: Record
) -> None:
    """Merges one tensor from the reader's next inputs.

    Args:
      context: of the run.
      output: which tensor.
      write: takes the merged entries, front to back.
      record: takes what each expert keeps, where there are several models out.

    Raises:
      CheckpointError: if an input or the result is not finite.
    """
    tensor = _Tensor(context, output)
    if context.plan.needs_cuts(output):
        tensor.merge_after_cuts(write)
    elif context.plan.in_pieces(output):
        tensor.merge_pieces(write)
    else:
        tensor.merge_whole(write, record)


def _is_finite(x: np.ndarray) -> bool:
    """Whether all entries are finite; bfloat16 by its bits, which NumPy knows.

    >>> _is_finite(np.array([1.0, np.inf])), _is_finite(np.zeros(3, jnp.bfloat16))
    (False, True)
    """
    flat = x.reshape(-1)
    parts = (flat[i : i + PIECE] for i in range(0, flat.size, PIECE))
    if x.dtype == jnp.bfloat16:
        infinite = np.uint16(0x7F80)
        return all((p.view(np.uint16) & 0x7FFF).max() < infinite for p in parts)
    return all(np.isfinite(part).all() for part in parts)


def _nothing() -> None:
    """Releases nothing."""


class _Tensor:
    """One output tensor at work."""

    def __init__(self, context: Context, output: Output):
        assert output.program is not None
        self.context, self.output = context, output
        # Numbers go to the device once, not with every call.
        self.program = jax.device_put(output.program)
        num = len(output.experts)
        self.experts = [
            Expert(
                None,
                np.int32(t),
                context.expert_key(output, t),
                of_expert(context.surveys, t),
            )
            for t in range(num)
        ]
        self.key = context.expert_key(output, None)
        storage = output.info.dtype
        if output.template.name is not None:
            infos = context.plan.source(output.template).infos
            storage = infos[output.template.name].dtype
        self.dtype = jnp.dtype(_leaf.arithmetic_dtype(storage))

    # --- the three ways

    def merge_whole(self, write: Write, record: Record) -> None:
        """The tensor at once, one expert after the other."""
        base, free = self.next_base()
        result = self.fold_passes(None, base, self.experts, check=True)
        if self.program.per_task is not None:
            self.emit(base, result, record)
        write(0, np.asarray(result).reshape(-1))
        free()

    def merge_pieces(self, write: Write) -> None:
        """Piece by piece, in one reading of each input."""
        for piece in pieces_of(self.output.info.size):
            bases, free = self.next_base()
            base = None if bases is None else bases[0]
            merged = self.fold_passes(piece, base, self.experts, check=True)
            free()
            write(piece.start, np.asarray(merged)[: piece.size])

    def merge_after_cuts(self, write: Write) -> None:
        """Piece by piece, once the cuts of all experts' deltas are known."""
        pieces = pieces_of(self.output.info.size)
        bases, free_bases = self.next_base()
        bases = [None] * len(pieces) if bases is None else bases
        found = []
        for part, expert in zip(self.output.experts, self.experts, strict=True):
            values, free = self.context.reader.next(self.output)
            cuts, finite = find_cuts(
                self.program, expert, values, bases, pieces, self.context.threads
            )
            if not finite:
                self.refuse_infinite([(part, values), (self.output.base, bases)])
            found.append(cuts)
            free()
        for i, piece in enumerate(pieces):
            experts = [
                expert._replace(found=cuts[i])
                for expert, cuts in zip(self.experts, found, strict=True)
            ]
            merged = self.fold_passes(piece, bases[i], experts, check=False)
            write(piece.start, np.asarray(merged)[: piece.size])
        free_bases()

    # --- their parts

    def next_base(self) -> tuple[Any, Callable[[], None]]:
        if self.output.base is None:
            return None, _nothing
        return self.context.reader.next(self.output)

    def fold_passes(
        self, piece: Piece | None, base: Any, experts: Sequence[Expert], *, check: bool
    ) -> Any:
        """All passes over one piece, or over the whole: the merged one."""
        offset = None if piece is None else offset_of(piece)
        several = self.program.per_task is not None
        last = len(self.program.passes) - 1
        size = 1 if piece is None else group_size(self.program)
        stats = None
        for i in range(len(self.program.passes)):
            state, sides = None, takes_sides(self.output, self.program.passes[i])
            for start in range(0, len(experts), size):
                stop = start + size
                group, free = self.next_group(
                    experts[start:stop], in_pieces=piece is not None, sides=sides
                )
                if is_apart(self.program):
                    group = self.transform(group, base, offset)
                arguments = (self.program, i, state, group, base, stats, offset)
                if stop < len(experts):
                    state = _programs.fold(*arguments)
                else:
                    state = stats = _programs.fold_and_finish(
                        *arguments,
                        self.key,
                        dtype=self.dtype,
                        out_dtype=None if i < last or several else self.out_dtype,
                    )
                if check:
                    self.check_inputs(i, start, base, group)
                jax.block_until_ready(state)
                free()
        if not several and not _is_finite(np.asarray(stats)):
            raise CheckpointError(
                f"{self.output.info.name!r} merges to numbers that "
                f"{self.output.info.dtype} cannot hold; choose a wider out dtype or a "
                "smaller scale"
            )
        return stats

    def transform(
        self, group: tuple[Expert, ...], base: Any, offset: Any
    ) -> tuple[Expert, ...]:
        """The experts with their deltas."""
        return tuple(
            expert._replace(
                delta=_programs.transform(self.program, expert, base, offset)
            )
            for expert in group
        )

    @property
    def out_dtype(self) -> Any:
        return jnp.dtype(self.output.info.dtype)

    def next_group(
        self, experts: Sequence[Expert], *, in_pieces: bool, sides: bool
    ) -> tuple[tuple[Expert, ...], Callable[[], None]]:
        """Some experts with their tensors, and what gives the buffers back."""
        num = len(experts) * (1 + sides)
        read = [self.context.reader.next(self.output) for _ in range(num)]
        values = [value[0] if in_pieces else value for value, _ in read]
        tensors = values[:: 1 + sides]
        beside = values[1::2] if sides else [None] * len(experts)
        group = tuple(
            expert._replace(tensor=tensor, side=side)
            for expert, tensor, side in zip(experts, tensors, beside, strict=True)
        )

        def free() -> None:
            for _, free_one in read:
                free_one()

        return group, free

    def check_inputs(self, i: int, start: int, base: Any, group: Any) -> None:
        """Refuses inputs that are not finite, when they are first read."""
        if i > 0:
            return
        parts = self.output.experts[start : start + len(group)]
        inputs = [(part, e.tensor) for part, e in zip(parts, group, strict=True)]
        if start == 0 and base is not None:
            inputs = [(self.output.base, base), *inputs]
        if not bool(_programs.all_finite([tensor for _, tensor in inputs])):
            self.refuse_infinite(inputs)
        for t, expert in enumerate(group, start):
            if expert.side is not None:
                self.check_side(self.output.sides[t], expert.side)

    def check_side(self, part: Input, side: Any) -> None:
        """Refuses a statistic that cannot be one."""
        problem = _side.problem_of(self.program.needs, side)
        if problem is not None:
            raise CheckpointError(
                f"{part.name!r} in {describe(self.context.plan, part)} {problem}"
            )

    def refuse_infinite(self, inputs: Sequence[tuple[Input | None, Any]]) -> None:
        """Names the input that is not finite; with none, a difference overflowed."""
        for part, tensor in inputs:
            if part is not None and not bool(_programs.all_finite(tensor)):
                raise CheckpointError(
                    f"{self.output.info.name!r} has a NaN or an infinity in "
                    f"{describe(self.context.plan, part)}; a merge would spread or "
                    "hide it"
                )

    def emit(self, base: Any, stats: Any, record: Record) -> None:
        """One more reading of the experts: what each of them keeps."""
        for t, expert in enumerate(self.experts):
            value, free = self.context.reader.next(self.output)
            kept = _programs.emit(
                self.program, value, base, expert.t, expert.key, stats, expert.found
            )
            record(t, jax.block_until_ready(kept))
            free()

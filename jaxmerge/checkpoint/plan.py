"""The plan of a merge on disk: what is written, and what each tensor is made from.

Outputs are not one to one with the base's tensors (tied heads, LoRA pairs, adapters
that target some modules only), so the executor runs a plan: a list of output tensors,
each with its inputs and its resolved merge. Making one reads headers only, and refuses
what does not fit before a weight is read.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmerge import _checks, _leaf
from jaxmerge._coefficients import check_entries, map_coefficients
from jaxmerge._leaf import ExpertKey, LeafProgram
from jaxmerge._survey import total_rounds
from jaxmerge._trees import LowRank
from jaxmerge.checkpoint._pieces import (
    SMALL_BUFFERS,
    is_elementwise,
    pieces_of,
    selects,
)
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.peft import LoraPair, lora_pairs
from jaxmerge.checkpoint.source import Source
from jaxmerge.checkpoint.tensor_info import TensorInfo
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
    """

    source: int | None
    name: str | None
    pair: LoraPair | None = None


@dataclasses.dataclass(frozen=True)
class Output:
    """One tensor of the result.

    Attributes:
      info: its name, shape and dtype as written.
      base: the base's part, or None.
      experts: the experts' parts, in order.
      program: its resolved merge; None copies the base's (or first expert's) tensor.
    """

    info: TensorInfo
    base: Input | None
    experts: tuple[Input, ...]
    program: LeafProgram | None

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
    """

    merger: Merger
    base: Source | None
    experts: tuple[Source, ...]
    outputs: tuple[Output, ...]
    ties: tuple[tuple[int, str, str], ...] = ()
    whole: bool = False

    @property
    def template(self) -> Source:
        return self.experts[0] if self.base is None else self.base

    @property
    def reads_of_experts(self) -> int:
        """How many times the experts are read."""
        surveys = total_rounds(self.merger.transforms)
        masks = self.merger.per_task is not None
        cuts = any(self.needs_cuts(output) for output in self.outputs)
        return len(self.merger.passes) + surveys + masks + cuts

    def in_pieces(self, output: Output) -> bool:
        """Whether a tensor is read, merged and written in pieces."""
        inputs = (output.template, *output.experts)
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
                reads = len(self.merger.passes) + surveys + masks
                reads += self.needs_cuts(output)
                total += base * (1 + surveys) + experts * reads
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
        used = state_bytes(output) + 2 * output.info.nbytes + 4 * size
        if not self.in_pieces(output):
            return used
        parts = (output.template, *output.experts)
        width = max(self.nbytes(part) for part in parts) // max(size, 1)
        length = pieces_of(size)[0].length
        return used * length // max(size, 1) + SMALL_BUFFERS * length * width

    def _read_whole(self) -> Iterator[Input]:
        """The inputs that are held in memory as wholes."""
        for output in self.outputs:
            if not self.in_pieces(output) or self.needs_cuts(output):
                yield from (output.template, *output.experts)

    def source(self, part: Input) -> Source:
        """The source that an input is read from."""
        if part.source is None:
            assert self.base is not None
            return self.base
        return self.experts[part.source]

    def nbytes(self, part: Input) -> int:
        """The bytes that are stored for an input."""
        infos = self.source(part).infos
        if part.pair is not None:
            return infos[part.pair.a_name].nbytes + infos[part.pair.b_name].nbytes
        return 0 if part.name is None else infos[part.name].nbytes


def state_bytes(output: Output) -> int:
    """The size of the largest state that the merge of one tensor holds."""
    program = output.program
    if program is None:
        return 0
    shape = jax.ShapeDtypeStruct(output.info.shape, jnp.float32)
    t = jax.ShapeDtypeStruct((), jnp.int32)
    largest, stats = 0, None
    for i in range(len(program.passes)):

        def lift(x: Any, position: Any, stats: Any, i: int = i) -> Any:
            return _leaf.lift(program, i, x, x, position, ExpertKey(), stats)

        state = jax.eval_shape(lift, shape, t, stats)
        sizes = [x.size * x.dtype.itemsize for x in jax.tree.leaves(state)]
        largest = max(largest, sum(sizes))
        stats = shape
    return largest


def make_plan(
    merger: Merger,
    base: Source | None,
    experts: Sequence[Source],
    *,
    dtype: Any = None,
) -> Plan:
    """Plans a merge of checkpoints, from their headers alone.

    Args:
      merger: the merge.
      base: the base, or None where the merger needs none, or the experts are adapters
        to be merged into an adapter.
      experts: the experts' sources, at least one; LoRA adapters among them are taken as
        the deltas of the modules that they target.
      dtype: the dtype of the result's floating tensors; the base's (or first expert's)
        own if None.

    Returns:
      The plan, in the reading order of the base (or first expert).

    Raises:
      CheckpointError: if tensors are missing, left over, or of another shape; by name.
      ValueError: if a coefficient does not fit.
    """
    if not experts:
        raise CheckpointError("no experts were given; a merge needs at least one")
    adapters = [source.kind == "peft" for source in experts]
    if base is None and any(adapters):
        _check_adapters(merger, experts, adapters)
    template = experts[0] if base is None else base
    parts, ties = [], []
    for t, source in enumerate(experts):
        if base is not None and source.kind == "peft":
            parts.append(_adapter_parts(base, source, t, merger))
        else:
            named, tied = _full_parts(template, source, t)
            parts.append(named)
            ties += tied
    names = list(template.infos)
    _check_coefficients(merger, names)
    outputs = [
        _output(merger, template, base, [p[name] for p in parts], name, experts, dtype)
        for name in names
    ]
    return Plan(merger, base, tuple(experts), tuple(outputs), tuple(ties))


def _what(source: Source, t: int | None) -> str:
    role = "the base" if t is None else f"expert {t}"
    return f"{role} ({source.path.name})"


def _full_parts(
    template: Source, source: Source, t: int
) -> tuple[dict[str, Input], list[tuple[int, str, str]]]:
    """The inputs from a full checkpoint, and tied copies that must be equal."""
    named = {}
    for name, info in template.infos.items():
        stored = name if name in source.infos else source.aliases.get(name)
        if stored is None:
            raise CheckpointError(
                f"{_what(source, t)} has no tensor {name!r}, which "
                f"{template.path.name} has; merge models of one architecture"
            )
        if source.infos[stored].shape != info.shape:
            raise CheckpointError(
                f"{name!r} has shape {source.infos[stored].shape} in "
                f"{_what(source, t)}; expected {info.shape}, as in "
                f"{template.path.name}"
            )
        named[name] = Input(t, stored)
    tied = []
    for name in source.infos:
        if name in template.infos:
            continue
        if name not in template.aliases:
            raise CheckpointError(
                f"{_what(source, t)} has a tensor {name!r} that {template.path.name} "
                "has not; it would be lost. Merge models of one architecture, or "
                "remove it"
            )
        tied.append((t, name, template.aliases[name]))
    return named, tied


def _adapter_parts(
    base: Source, source: Source, t: int, merger: Merger
) -> dict[str, Input]:
    """The inputs from a LoRA adapter: products of factors, zero where it has none."""
    if merger.space == "factors":
        raise CheckpointError(
            f"{_what(source, t)} is a LoRA adapter and the merge works on its factors: "
            "merge the adapters without a base and fold the result, or choose "
            "space='product' to merge the deltas that they stand for"
        )
    pairs = lora_pairs(source, base_config=base.config)
    parts = {name: Input(t, None) for name in base.infos}
    for name, pair in pairs.items():
        if name not in base.infos:
            raise CheckpointError(
                f"{_what(source, t)} targets {name!r}, which the base "
                f"({base.path.name}) has not; is it an adapter of another model?"
            )
        shape = pair.shape(source)
        if shape != base.infos[name].shape:
            raise CheckpointError(
                f"{_what(source, t)}: the LoRA delta for {name!r} has shape {shape}; "
                f"expected {base.infos[name].shape}, the base's"
            )
        parts[name] = Input(t, None, pair)
    return parts


def _check_adapters(
    merger: Merger, experts: Sequence[Source], adapters: list[bool]
) -> None:
    if not all(adapters):
        t = adapters.index(False)
        raise CheckpointError(
            f"{_what(experts[t], t)} is a full model and others are LoRA adapters; "
            "give the base to merge them together"
        )
    if merger.space != "factors":
        raise CheckpointError(
            "merging LoRA adapters without a base gives an adapter, so their factors "
            "are merged each for itself: say so with space='factors', or give the base"
        )
    scales = [
        {
            name: (pair.scale, pair.fan_in_fan_out)
            for name, pair in lora_pairs(s).items()
        }
        for s in experts
    ]
    for t, scale in enumerate(scales):
        for name in scale:
            if name in scales[0] and scale[name] != scales[0][name]:
                raise CheckpointError(
                    f"{name!r} is scaled by {scale[name][0]} in {_what(experts[t], t)} "
                    f"and by {scales[0][name][0]} in expert 0: their factors cannot "
                    "share one alpha / r; merge the products into the base instead"
                )


def _check_coefficients(merger: Merger, names: list[str]) -> None:
    def check(label: str, value: Any) -> Any:
        check_entries(value, names, label=label)
        return value

    map_coefficients(merger, check)


def _output(
    merger: Merger,
    template: Source,
    base: Source | None,
    experts: list[Input],
    name: str,
    sources: Sequence[Source],
    dtype: Any,
) -> Output:
    info = template.infos[name]
    part = None if base is None else Input(None, name)
    inputs = tuple(experts)
    for x in inputs:
        if x.name is not None:
            other = sources[x.source or 0].infos[x.name].dtype
            if _checks.is_merged(other) != _checks.is_merged(info.dtype):
                raise CheckpointError(
                    f"{name!r} is {other} in {_what(sources[x.source or 0], x.source)} "
                    f"and {info.dtype} in {template.path.name}: numbers cannot be "
                    "merged with codes or integers"
                )
    _checks.check_mergeable(name, info.dtype)
    if not _checks.is_merged(info.dtype):
        return Output(info, part, inputs, None)
    out = TensorInfo(name, info.shape, np.dtype(dtype) if dtype else info.dtype)
    if base is not None and all(x.name is None and x.pair is None for x in inputs):
        return Output(out, part, inputs, None)
    program = _leaf.bind(merger, name, info.shape, len(experts))
    return Output(out, part, inputs, program)


def zero_pair(shape: tuple[int, ...], dtype: Any) -> LowRank:
    """A delta of zero, without storing one; of any shape, vectors and scalars too."""
    return LowRank(
        np.zeros((0, *shape[-1:]), dtype), np.zeros((*shape[:-1], 0), dtype), 1.0
    )

"""Making a plan: what each tensor of a merge is made from, from headers alone.

It refuses what does not fit before a weight is read.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxmerge import _checks, _leaf, _side
from jaxmerge._coefficients import check_entries, map_coefficients
from jaxmerge._matrices import CONV1D, CONV1D_MODELS
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.peft import lora_pairs
from jaxmerge.checkpoint.plan import Input, Output, Plan
from jaxmerge.checkpoint.source import Source
from jaxmerge.checkpoint.tensor_info import TensorInfo
from jaxmerge.composition import Partition
from jaxmerge.merger import Merger


def make_plan(
    merger: Merger | Partition,
    base: Source | None,
    experts: Sequence[Source],
    *,
    dtype: Any = None,
    statistics: Sequence[Source] | None = None,
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
      statistics: of each expert, for merges that need some; see
        `jaxmerge.checkpoint.open_statistics`.

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
    merger = _laid_out(merger, template)
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
    plan = Plan(merger, base, tuple(experts), tuple(outputs), tuple(ties))
    return with_statistics(plan, statistics)


def _laid_out(merger: Any, template: Source) -> Any:
    """The merger with the rules for layouts that a model's config tells."""
    kind = (template.config or {}).get("model_type")
    if kind not in CONV1D_MODELS:
        return merger
    if isinstance(merger, Partition):
        mergers = tuple(_laid_out(part, template) for part in merger.mergers)
        return dataclasses.replace(merger, mergers=mergers)
    rules = (*merger.matrices.rules, *CONV1D)
    matrices = dataclasses.replace(merger.matrices, rules=rules)
    return dataclasses.replace(merger, matrices=matrices)


def with_statistics(plan: Plan, statistics: Sequence[Source] | None) -> Plan:
    """The plan with each tensor's statistics among its inputs.

    Raises:
      CheckpointError: if they are missing or do not fit the experts.
    """
    kinds = _side.kinds_needed(plan.merger)
    if not kinds and statistics is None:
        return plan
    kind = " and ".join(kinds)
    if not kinds or statistics is None or len(statistics) != len(plan.experts):
        given = "none" if statistics is None else f"{len(statistics)}"
        needs = f"{kind} statistics of each expert" if kinds else "no statistics"
        raise CheckpointError(
            f"this merge needs {needs}, and {given} were given for {len(plan.experts)} "
            "experts; give as many files as experts to merges such as regmean, and "
            "none to others"
        )
    for t, source in enumerate(statistics):
        for stored in source.infos:
            of, _, name = stored.partition(":")
            if of in kinds and name not in plan.template.infos:
                raise CheckpointError(
                    f"the statistics of expert {t} ({source.path.name}) have an entry "
                    f"{stored!r}, and {plan.template.path.name} has no such tensor: "
                    "are they another model's?"
                )
    outputs = [_with_sides(output, statistics) for output in plan.outputs]
    if not any(output.sides for output in outputs):
        raise CheckpointError(
            f"the statistics ({statistics[0].path.name}, …) hold no {kind} of any "
            "tensor that this merge works on"
        )
    return dataclasses.replace(
        plan, outputs=tuple(outputs), statistics=tuple(statistics)
    )


def _with_sides(output: Output, statistics: Sequence[Source]) -> Output:
    if output.program is None:
        return output
    name = f"{output.program.needs}:{output.info.name}"
    if not any(name in source.infos for source in statistics):
        return output
    shape = _side.shape_needed(output.program, output.info.shape)
    if shape is None:
        problem = _side.problem_of_unused(output.program, output.info.shape)
        if problem is not None:
            raise CheckpointError(f"the statistic {name!r} {problem}")
        return output
    for t, source in enumerate(statistics):
        what = f"the statistics of expert {t} ({source.path.name})"
        if name not in source.infos:
            raise CheckpointError(
                f"{what} have no {name!r}, which others have; all experts need a "
                "statistic, or none"
            )
        if source.infos[name].shape != shape:
            raise CheckpointError(
                f"{what}: {name!r} has shape {source.infos[name].shape}; expected "
                f"{shape}: are they another model's?"
            )
    sides = tuple(Input(t, name, is_side=True) for t in range(len(statistics)))
    return dataclasses.replace(output, sides=sides)


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
    base: Source, source: Source, t: int, merger: Any
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
    merger: Any, experts: Sequence[Source], adapters: list[bool]
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


def _check_coefficients(merger: Any, names: list[str]) -> None:
    def check(label: str, value: Any) -> Any:
        check_entries(value, names, label=label)
        return value

    map_coefficients(merger, check)


def _output(
    merger: Merger | Partition,
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
    program = _leaf.bind(merger.at(name), name, info.shape, len(experts))
    return Output(out, part, inputs, program)

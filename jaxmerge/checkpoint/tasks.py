"""Merges with several models out: a shared delta, and a packed record for each task.

The output is a folder of two safetensors files: `shared.safetensors` holds the delta
that all tasks share, by the base's tensor names; `tasks.safetensors` holds each task's
records as `TASK:NAME` (for EMR, masks of one bit an entry) and the numbers that a task
has over the whole model, as `TASK:`. A task's model is the base plus what the two give.
"""

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxmerge import _checks, _leaf
from jaxmerge._trees import expert_id
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.execute import Progress, execute
from jaxmerge.checkpoint.merge import Report, describe, provenance
from jaxmerge.checkpoint.names import unflatten_names
from jaxmerge.checkpoint.plan import Output, Plan
from jaxmerge.checkpoint.planning import make_plan
from jaxmerge.checkpoint.safetensors import SafetensorsFile
from jaxmerge.checkpoint.sink import open_sink
from jaxmerge.checkpoint.source import PathLike, Source, enter_source, open_source
from jaxmerge.checkpoint.tensor_info import TensorInfo
from jaxmerge.combine.consensus import SignMasks, TallMasks
from jaxmerge.merger import Merger

_RULES = {rule.__name__: rule for rule in (SignMasks, TallMasks)}

SHARED, TASKS = "shared.safetensors", "tasks.safetensors"


def _record_infos(plan: Plan, output: Output) -> list[TensorInfo]:
    """What each task will record of a tensor: shapes from abstract evaluation."""
    program, dtype = output.program, output.info.dtype
    assert program is not None
    shaped = jax.ShapeDtypeStruct((output.info.size,), dtype)
    t = jax.ShapeDtypeStruct((), jnp.int32)
    key = _leaf.ExpertKey()
    record, _ = jax.eval_shape(
        lambda x, t: _leaf.emit(program, x, x, t, key, x), shaped, t
    )
    return [
        TensorInfo(f"{t}:{output.info.name}", record.shape, np.dtype(record.dtype))
        for t in range(len(plan.experts))
    ]


def merge_tasks(
    merger: Merger,
    *,
    base: PathLike | Source,
    experts: Sequence[PathLike | Source],
    out: PathLike,
    key: Any = None,
    ids: Sequence[int | str] | None = None,
    overwrite: bool = False,
    checksums: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Merges checkpoints with a merger that has several models out, streamed.

    Args:
      merger: such as `jaxmerge.emr()`.
      base: the checkpoint that the experts were fine-tuned from.
      experts: the checkpoints to merge.
      out: the folder to write; `load_task` reads one task's model from it.
      key: a typed key, for mergers that draw random numbers.
      ids: what names each expert in its key; positions if None.
      overwrite: whether an existing `out` may be replaced, at the very end.
      checksums: whether the record of the sources hashes all their bytes.
      progress: called after every tensor read.

    Returns:
      A `Report`.

    Raises:
      CheckpointError: as `merge` does.
      ValueError: if the merger has one model out, or its scale is not one number.
    """
    if merger.per_task is None:
        raise ValueError(
            "this merger has one model out; write it with checkpoint.merge"
        )
    _checks.check_key(key)
    _check_scale(merger)
    with contextlib.ExitStack() as stack:
        opened = functools.partial(enter_source, stack)
        base_source, sources = opened(base), [opened(expert) for expert in experts]
        plan = make_plan(merger, base_source, sources)
        merged = [output for output in plan.outputs if output.program is not None]
        # What integers there are stays in the base: only merged tensors are written.
        plan = dataclasses.replace(plan, outputs=tuple(_as_delta(o) for o in merged))
        records = [info for output in merged for info in _record_infos(plan, output)]
        totals: list[Any] = [None] * len(sources)
        numbers = _number_infos(merger, len(sources))
        identities = range(len(sources)) if ids is None else ids
        with open_sink(
            out,
            [*(output.info for output in plan.outputs), *records, *numbers],
            kind="tasks",
            metadata={"jaxmerge": provenance(merger, base_source, sources, checksums)},
            overwrite=overwrite,
        ) as sink:

            def keep(output: Output, t: int, value: Any) -> None:
                record, statistic = value
                sink.write(f"{t}:{output.info.name}", np.asarray(record))
                totals[t] = statistic if totals[t] is None else totals[t] + statistic

            bytes_read = execute(
                plan,
                sink,
                key=key,
                ids=[expert_id(i) for i in identities],
                progress=progress,
                record=keep,
            )
            for t, total in enumerate(totals):
                number = np.asarray(merger.per_task.summarise(total), np.float32)
                sink.write(f"{t}:", number)
            sink.commit()
    written = plan.bytes_written + sum(info.nbytes for info in records)
    return Report(Path(out), "tasks", len(merged), bytes_read, written)


def _as_delta(output: Output) -> Output:
    dtype = np.dtype(_leaf.arithmetic_dtype(output.info.dtype))
    info = TensorInfo(output.info.name, output.info.shape, dtype)
    return dataclasses.replace(output, info=info)


def _number_infos(merger: Merger, num: int) -> list[TensorInfo]:
    statistic = jax.ShapeDtypeStruct((2,), jnp.float32)
    shape = jax.eval_shape(merger.per_task.summarise, statistic).shape
    return [TensorInfo(f"{t}:", shape, np.dtype(np.float32)) for t in range(num)]


def _check_scale(merger: Merger) -> None:
    if not isinstance(describe(merger.scale), (int, float, type(None))):
        raise ValueError(
            "the scale of a merger with several models out has to be one number, which "
            "the folder keeps for all tensors and tasks"
        )


def _rule_of(merger: dict[str, Any], folder: Path) -> Any:
    """The rule that a folder's merger has; its fields matter to the merge alone."""
    name = (merger.get("per_task") or {"type": "SignMasks"})["type"]
    if name not in _RULES:
        raise CheckpointError(
            f"{folder} was written with the rule {name}, which this version does not "
            "know; give it as per_task="
        )
    return _RULES[name]()


def load_task(
    merged: str | os.PathLike, base: PathLike, task: int, *, per_task: Any = None
) -> PyTree:
    """One task's parameters, from a merge with several models out and its base.

    Args:
      merged: the folder that `merge_tasks` wrote.
      base: the base that it was merged with.
      task: the expert's position.
      per_task: the rule that joins shared delta and record; that of the merger which
        the folder names if None, and `SignMasks()` if it names none.

    Returns:
      A tree as `load(base)` gives it, with the base's dtypes.

    Raises:
      CheckpointError: if there is no such task, or the folder's rule is unknown.
    """
    folder = Path(merged)
    params = {}
    with (
        open_source(base) as source,
        SafetensorsFile(folder / SHARED) as shared,
        SafetensorsFile(folder / TASKS) as tasks,
    ):
        if f"{task}:" not in tasks.infos:
            num = sum(name.endswith(":") for name in tasks.infos)
            raise CheckpointError(f"{folder} has tasks 0 to {num - 1}, and no {task}")
        number = jnp.asarray(tasks.read(f"{task}:"))
        merger = json.loads(shared.metadata.get("jaxmerge", "{}")).get("merger", {})
        rule, scale = per_task or _rule_of(merger, folder), merger.get("scale")
        for name, info in source.infos.items():
            array = source.read(name)
            if name in shared.infos:
                delta = jnp.asarray(shared.read(name))
                record = jnp.asarray(tasks.read(f"{task}:{name}"))
                delta = rule.apply(delta, record, number)
                if scale is not None:
                    delta = delta * jnp.asarray(scale, delta.dtype)
                array = (jnp.asarray(array).astype(delta.dtype) + delta).astype(
                    info.dtype
                )
            params[name] = jnp.asarray(array)
    return unflatten_names(params)

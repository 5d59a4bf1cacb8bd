"""Runs a plan: one tensor after another, reading ahead of the arithmetic.

A thread reads what will be needed next into a few reused buffers, which the arithmetic
sees without a copy; another writes what is finished. Tensors of elementwise merges come
in pieces. So memory holds a few pieces, or the state of one tensor, whatever the number
of experts is.
"""

import collections
import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxmerge._random import has_bits_by_index
from jaxmerge._survey import survey, total_rounds
from jaxmerge.checkpoint import _programs
from jaxmerge.checkpoint._merging import Context, expert_key, merge_tensor
from jaxmerge.checkpoint._reading import (
    Progress as Progress,
    Reader,
    reads_of_merge,
    reads_of_survey,
)
from jaxmerge.checkpoint._threads import InOrder
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.plan import Output, Plan
from jaxmerge.checkpoint.sink import Sink

_THREADS = min(4, os.cpu_count() or 1)  # that look into pieces, beside XLA's own
_WRITES_BEHIND = 2

_Progress = Callable[[Progress], None] | None
_Record = Callable[[Output, int, Any], None] | None


def _survey_model(
    plan: Plan, key: Any, ids: Sequence[Any], progress: _Progress
) -> tuple[Any, int]:
    """The merger's statistics over the whole model, and the bytes read for them."""
    merged = [output for output in plan.outputs if output.program is not None]
    read = 0

    def parts(stage: int, before: Any, found: Any) -> Iterator[tuple[int, Any]]:
        nonlocal read
        reader = Reader(plan, reads_of_survey, progress, read)
        with contextlib.closing(reader):
            for output in merged:
                base, free_base = None, None
                if output.base is not None:
                    base, free_base = reader.next(output)
                for t in range(len(output.experts)):
                    expert, free = reader.next(output)
                    statistic = _programs.measure(
                        output.program,
                        expert,
                        base,
                        np.int32(t),
                        expert_key(key, output, ids[t]),
                        before,
                        found[t],
                        stage=stage,
                    )
                    jax.block_until_ready(statistic)
                    free()
                    yield t, statistic
                if free_base is not None:
                    free_base()
            read = reader.bytes_read

    size = sum(output.info.size for output in merged)
    return survey(plan.merger.transforms, len(plan.experts), size, parts), read


def _copy_tensor(context: Context, output: Output) -> np.ndarray:
    """A tensor that is copied: integers, or one that no adapter targets."""
    parts = [part for part in output.experts if part.name is not None]
    parts = parts if output.base is None else [output.base, *parts]
    copied: np.ndarray | None = None
    for part in parts:
        array, free = context.reader.next(output)
        if copied is None:
            copied = np.array(array, copy=True)
        elif not np.array_equal(copied, array):
            raise CheckpointError(
                f"{output.info.name!r} is {output.info.dtype} and differs in expert "
                f"{part.source}: integers are copied, not merged, so all models have "
                "to agree on them"
            )
        free()
    assert copied is not None
    return copied.astype(output.info.dtype)


def check_ties(plan: Plan) -> None:
    """Refuses an expert whose tied tensors are not equal.

    Raises:
      CheckpointError: naming the tensor.
    """
    for t, name, alias in plan.ties:
        source = plan.experts[t]
        stored = alias if alias in source.infos else source.aliases[alias]
        same = np.array_equal(
            source.read(name).view(np.uint8), source.read(stored).view(np.uint8)
        )
        if not same:
            raise CheckpointError(
                f"expert {t} ({source.path.name}) has its own {name!r}, but the result "
                f"ties it to {alias!r} as {plan.template.path.name} does; untie that "
                "model first, or it would be lost"
            )


def _keep_freed_memory() -> None:
    """Lets the C library keep blocks that are freed, for the next of their size.

    glibc returns larger blocks than it has seen freed so far to the system, and the
    first touch of memory from there costs ten times a copy. Nothing is touched here.
    """
    np.empty(31 << 20, np.uint8)


def needs_x64(plan: Plan) -> bool:
    """Whether a tensor is stored in float64, and so is merged in it, or written so."""
    sources = [plan.template, *plan.experts]
    dtypes = {info.dtype for source in sources for info in source.infos.values()}
    dtypes |= {output.info.dtype for output in plan.outputs}
    return np.dtype(np.float64) in dtypes


def _execute_one(
    context: Context,
    output: Output,
    sink: Sink,
    writer: InOrder,
    record: _Record,
) -> None:
    name = output.info.name

    def write(start: int, array: np.ndarray) -> None:
        writer.submit(sink.write_range, name, start, array)
        collections.deque(writer.done(_WRITES_BEHIND), maxlen=0)

    def keep(t: int, value: Any) -> None:
        if record is not None:
            record(output, t, value)

    if output.program is None:
        write(0, _copy_tensor(context, output).reshape(-1))
    else:
        merge_tensor(context, output, write, keep)


def execute(
    plan: Plan,
    sink: Sink,
    *,
    key: Any = None,
    ids: Sequence[Any],
    progress: _Progress = None,
    record: _Record = None,
) -> int:
    """Runs a plan into a sink, which the caller commits.

    Args:
      plan: from `make_plan`.
      sink: takes the tensors.
      key: a typed key, for mergers that draw random numbers.
      ids: each expert's id (uint32).
      progress: called after every tensor read.
      record: called with (output, t, record) for mergers with several models out.

    Returns:
      The number of bytes read.

    Raises:
      CheckpointError: if a tensor is not finite, truncated or does not agree.
    """
    check_ties(plan)
    _keep_freed_memory()
    if key is not None and not has_bits_by_index(key):
        plan = dataclasses.replace(plan, whole=True)
    with contextlib.ExitStack() as stack:
        if needs_x64(plan):
            stack.enter_context(jax.enable_x64(True))
        surveys, surveyed = (), 0
        if total_rounds(plan.merger.transforms):
            surveys, surveyed = _survey_model(plan, key, ids, progress)
        open_ = lambda x: stack.enter_context(contextlib.closing(x))
        reader = open_(Reader(plan, reads_of_merge, progress, surveyed))
        writer, threads = open_(InOrder(1)), open_(InOrder(_THREADS))
        context = Context(plan, key, ids, reader, threads, surveys)
        for output in plan.outputs:
            _execute_one(context, output, sink, writer, record)
            reader.tensors += 1
        collections.deque(writer.done(0), maxlen=0)
    return reader.bytes_read

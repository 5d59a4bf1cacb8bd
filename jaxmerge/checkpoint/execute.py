"""Runs a plan: one tensor and one expert at a time, reading ahead of the arithmetic.

A thread reads the tensors in the order in which they will be needed, into three reused
aligned buffers (a base's, the expert's that is being joined, the next one), which the
arithmetic sees without a copy. Another thread writes what is finished. So memory holds
the state of one tensor, whatever the number of experts.
"""

import contextlib
import dataclasses
import functools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmerge import _leaf
from jaxmerge._leaf import ExpertKey, LeafProgram
from jaxmerge._survey import measure, of_expert, survey
from jaxmerge._trees import LowRank, name_hash
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.plan import Input, Output, Plan, zero_pair
from jaxmerge.checkpoint.safetensors import aligned_empty
from jaxmerge.checkpoint.sink import Sink

_BUFFERS = 3


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is, given to `progress` callbacks after every tensor read.

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


# --- the compiled steps --------------------------------------------------------------


def _finite(x: Any) -> Any:
    """Whether all entries are finite, as one fused floating sum of zeros."""
    if isinstance(x, LowRank):
        return _finite(x.a) & _finite(x.b)
    wide = x.astype(_leaf.arithmetic_dtype(x.dtype))
    return jnp.sum(wide * jnp.zeros_like(wide)) == 0


@functools.partial(jax.jit, static_argnames=("i",))
def _first(
    program: LeafProgram,
    i: int,
    expert: Any,
    base: Any,
    t: Any,
    key: Any,
    stats: Any,
    surveys: Any,
) -> tuple[Any, Any]:
    before = of_expert(surveys, t)
    state = _leaf.lift(program, i, expert, base, t, key, stats, before)
    return state, _finite(expert)


@functools.partial(jax.jit, static_argnames=("i",), donate_argnames=("state",))
def _step(
    program: LeafProgram,
    i: int,
    state: Any,
    expert: Any,
    base: Any,
    t: Any,
    key: Any,
    stats: Any,
    surveys: Any,
) -> tuple[Any, Any]:
    before = of_expert(surveys, t)
    new = _leaf.lift(program, i, expert, base, t, key, stats, before)
    return program.passes[i].join(state, new), _finite(expert)


@functools.partial(jax.jit, static_argnames=("i", "dtype"))
def _finish(
    program: LeafProgram, i: int, state: Any, base: Any, stats: Any, *, dtype: Any
) -> Any:
    return _leaf.finish(program, i, state, base, dtype, stats)


@functools.partial(jax.jit, static_argnames=("i", "dtype", "out_dtype"))
def _finish_and_complete(
    program: LeafProgram,
    i: int,
    state: Any,
    base: Any,
    stats: Any,
    key: Any,
    *,
    dtype: Any,
    out_dtype: Any,
) -> tuple[Any, Any]:
    result = _leaf.finish(program, i, state, base, dtype, stats)
    merged = _leaf.complete(program, result, base, key, out_dtype)
    return merged, _finite(merged)


_emit = jax.jit(_leaf.emit)
_measure = jax.jit(measure, static_argnames=("stage",))


# --- reading ahead -------------------------------------------------------------------


class _Stop(Exception):
    """The consumer went away."""


class ReadAhead:
    """Reads a sequence of inputs in a thread, into a few reused buffers.

    Iterating gives (value, release) in order; `release()` gives the buffer back, after
    which the value must no longer be used.
    """

    def __init__(self, jobs: Iterable[Callable[[np.ndarray], Any]], nbytes: int):
        self._free: queue.Queue[np.ndarray | None] = queue.Queue()
        for _ in range(_BUFFERS):
            self._free.put(aligned_empty(nbytes))
        self._ready: queue.Queue[Any] = queue.Queue()
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(iter(jobs),), daemon=True
        )
        self._thread.start()

    def _run(self, jobs: Iterator[Callable[[np.ndarray], Any]]) -> None:
        try:
            for job in jobs:
                buffer = self._free.get()
                if buffer is None:
                    return
                self._ready.put((job(buffer), buffer, None))
        except (OSError, ValueError, MemoryError) as error:
            self._ready.put((None, None, error))

    def next(self) -> tuple[Any, Callable[[], None]]:
        value, buffer, error = self._ready.get()
        if error is not None:
            raise error
        return value, lambda: self._free.put(buffer)

    def close(self) -> None:
        self._free.put(None)
        self._stopped.set()


class WriteBehind:
    """Writes finished tensors in a thread; an error surfaces at the next call."""

    def __init__(self, sink: Sink):
        self._sink = sink
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._sink.write(*item)
                except (OSError, ValueError) as error:
                    self._error = error

    def write(self, name: str, array: np.ndarray) -> None:
        if self._error is not None:
            raise self._error
        self._queue.put((name, array))

    def close(self) -> None:
        """Waits until everything is written."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        if self._error is not None:
            raise self._error


# --- one run -------------------------------------------------------------------------


class Run:
    """The state of one execution: what is read, what was found, what is written."""

    def __init__(
        self,
        plan: Plan,
        key: Any,
        ids: Sequence[Any],
        progress: Callable[[Progress], None] | None,
    ):
        self.plan = plan
        self.key = key
        self.ids = ids
        self.progress = progress
        self.bytes_read = 0
        self.tensors = 0
        self.bytes_total = plan.bytes_read

    def jobs(self, order: Iterable[tuple[Output, Input]]) -> Iterator[Any]:
        for output, part in order:
            yield functools.partial(self._read, output, part)

    def _read(self, output: Output, part: Input, buffer: np.ndarray) -> Any:
        source = self.plan.source(part)
        if part.pair is not None:
            return part.pair.read(source)
        if part.name is None:
            return zero_pair(output.info.shape, np.float32)
        array = source.read(part.name, out=buffer)
        flat = output.program is not None and not self.keeps_shape(output)
        return array.reshape(-1) if flat else array

    def keeps_shape(self, output: Output) -> bool:
        """Whether the merge needs the tensor's axes; else it sees a flat one."""
        parts = (output.template, *output.experts)
        low_rank = any(p.pair is not None or p.name is None for p in parts)
        return low_rank or _leaf.uses_shape(self.plan.merger)

    def count(self, output: Output, part: Input) -> None:
        self.bytes_read += self.plan._nbytes(part)
        if self.progress is not None:
            self.progress(
                Progress(
                    output.info.name,
                    self.tensors,
                    len(self.plan.outputs),
                    self.bytes_read,
                    self.bytes_total,
                )
            )

    def expert_key(self, output: Output, t: int | None) -> ExpertKey:
        identity = None if t is None else self.ids[t]
        return ExpertKey(self.key, name_hash(output.info.name), identity)

    def reader(self, order: Sequence[tuple[Output, Input]]) -> ReadAhead:
        sizes = [self.plan._nbytes(part) for _, part in order if part.pair is None]
        return ReadAhead(self.jobs(order), max(sizes, default=0))


def _tensor_order(plan: Plan) -> list[tuple[Output, Input]]:
    """Every read of the merge itself, in order."""
    order = []
    rounds = len(plan.merger.passes) + (plan.merger.per_task is not None)
    for output in plan.outputs:
        if output.base is not None:
            order.append((output, output.base))
        if output.program is None:
            present = [x for x in output.experts if x.name is not None]
            order += [(output, part) for part in present]
        else:
            order += [(output, x) for _ in range(rounds) for x in output.experts]
    return order


def _check_finite(ok: Any, plan: Plan, output: Output, part: Input) -> None:
    if not bool(ok):
        source = plan.source(part)
        role = "the base" if part.source is None else f"expert {part.source}"
        raise CheckpointError(
            f"{output.info.name!r} has a NaN or an infinity in {role} "
            f"({source.path.name}); a merge would spread or hide it"
        )


def surveys_of(run: Run) -> tuple[Any, ...]:
    """The merger's statistics over the whole model, read from the experts."""
    plan = run.plan
    merged = [output for output in plan.outputs if output.program is not None]

    def parts(stage: int, before: Any, found: Any) -> Iterator[tuple[int, Any]]:
        order = [
            (output, part)
            for output in merged
            for part in (*([output.base] if output.base else []), *output.experts)
        ]
        reader = run.reader(order)
        with contextlib.closing(reader):
            for output in merged:
                base, free_base = None, _nothing
                if output.base is not None:
                    base, free_base = reader.next()
                    run.count(output, output.base)
                for t, part in enumerate(output.experts):
                    expert, free = reader.next()
                    statistic = _measure(
                        output.program,
                        expert,
                        base,
                        np.int32(t),
                        run.expert_key(output, t),
                        before,
                        found[t],
                        stage=stage,
                    )
                    jax.block_until_ready(statistic)
                    free()
                    run.count(output, part)
                    yield t, statistic
                free_base()

    size = sum(output.info.size for output in merged)
    return survey(plan.merger.transforms, len(plan.experts), size, parts)


def _nothing() -> None:
    """Releases nothing."""


def merge_tensor(
    run: Run, reader: ReadAhead, output: Output, surveys: Any, records: Any
) -> Any:
    """One output tensor, from the reader's next inputs."""
    plan, program = run.plan, output.program
    assert program is not None
    base, free_base = None, _nothing
    if output.base is not None:
        base, free_base = reader.next()
        _check_finite(_finite_base(base), plan, output, output.base)
        run.count(output, output.base)
    template = plan.source(output.template).infos
    storage = output.info.dtype
    if output.template.name is not None:
        storage = template[output.template.name].dtype
    dtype = jnp.dtype(_leaf.arithmetic_dtype(storage))
    stats = None
    last = len(program.passes) - 1
    result = None
    for i in range(len(program.passes)):
        state = None
        for t, part in enumerate(output.experts):
            expert, free = reader.next()
            arguments = (expert, base, np.int32(t), run.expert_key(output, t), stats)
            if state is None:
                state, ok = _first(program, i, *arguments, surveys)
            else:
                state, ok = _step(program, i, state, *arguments, surveys)
            jax.block_until_ready(state)
            _check_finite(ok, plan, output, part)
            free()
            run.count(output, part)
        if i == last and program.per_task is None:
            result, ok = _finish_and_complete(
                program,
                i,
                state,
                base,
                stats,
                run.expert_key(output, None),
                dtype=dtype,
                out_dtype=jnp.dtype(output.info.dtype),
            )
            if not bool(ok):
                raise CheckpointError(
                    f"{output.info.name!r} merges to numbers that {output.info.dtype} "
                    "cannot hold; choose a wider out dtype or a smaller scale"
                )
        else:
            stats = _finish(program, i, state, base, stats, dtype=dtype)
    if program.per_task is not None:
        for t, part in enumerate(output.experts):
            expert, free = reader.next()
            record = _emit(
                program,
                expert,
                base,
                np.int32(t),
                run.expert_key(output, t),
                stats,
                of_expert(surveys, t),
            )
            records(t, jax.block_until_ready(record))
            free()
            run.count(output, part)
        result = stats
    result = jax.block_until_ready(result)
    free_base()
    return result


@jax.jit
def _finite_base(base: Any) -> Any:
    return _finite(base)


def copy_tensor(run: Run, reader: ReadAhead, output: Output) -> np.ndarray:
    """A tensor that is copied: integers, or one that no adapter targets."""
    base, free_base = (None, _nothing)
    if output.base is not None:
        base, free_base = reader.next()
        run.count(output, output.base)
    for part in [x for x in output.experts if x.name is not None]:
        other, free = reader.next()
        run.count(output, part)
        if base is None:
            base, free_base = other, free
            continue
        if not np.array_equal(base, other):
            raise CheckpointError(
                f"{output.info.name!r} is {output.info.dtype} and differs in expert "
                f"{part.source}: integers are copied, not merged, so all models have "
                "to agree on them"
            )
        free()
    assert base is not None
    copied = np.array(base, copy=True)
    free_base()
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


def needs_x64(plan: Plan) -> bool:
    """Whether a tensor is stored in float64, and so is merged in it, or written so."""
    sources = [plan.template, *plan.experts]
    dtypes = {info.dtype for source in sources for info in source.infos.values()}
    dtypes |= {output.info.dtype for output in plan.outputs}
    return np.dtype(np.float64) in dtypes


def execute(
    plan: Plan,
    sink: Sink,
    *,
    key: Any = None,
    ids: Sequence[Any],
    progress: Callable[[Progress], None] | None = None,
    record: Callable[[Output, int, Any], None] | None = None,
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
    run = Run(plan, key, ids, progress)
    with contextlib.ExitStack() as stack:
        if needs_x64(plan):
            stack.enter_context(jax.enable_x64(True))
        surveys = surveys_of(run)
        reader = stack.enter_context(
            contextlib.closing(run.reader(_tensor_order(plan)))
        )
        writer = WriteBehind(sink)
        stack.callback(writer.close)
        for output in plan.outputs:
            if output.program is None:
                merged = copy_tensor(run, reader, output)
            else:

                def keep(t: int, value: Any, output: Output = output) -> None:
                    if record is not None:
                        record(output, t, value)

                merged = merge_tensor(run, reader, output, surveys, keep)
            writer.write(
                output.info.name, np.asarray(merged).reshape(output.info.shape)
            )
            run.tensors += 1
    return run.bytes_read

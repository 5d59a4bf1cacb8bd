"""`merge`: checkpoints in, one checkpoint out, one tensor in memory at a time."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxmerge import _checks
from jaxmerge._side import kinds_needed
from jaxmerge._trees import expert_id
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.execute import Progress, execute
from jaxmerge.checkpoint.plan import Plan
from jaxmerge.checkpoint.planning import make_plan
from jaxmerge.checkpoint.sink import default_kind, open_sink
from jaxmerge.checkpoint.source import PathLike, Source, enter_source
from jaxmerge.checkpoint.statistics import open_statistics
from jaxmerge.composition import Partition
from jaxmerge.merger import Merger


@dataclasses.dataclass(frozen=True)
class Report:
    """What a merge did.

    Attributes:
      out: where the result is.
      kind: its format.
      tensors: how many tensors it has.
      bytes_read: bytes of tensor data read, all passes together.
      bytes_written: bytes of tensor data written.
    """

    out: Path
    kind: str
    tensors: int
    bytes_read: int
    bytes_written: int


def describe(value: Any) -> Any:
    """A merger as plain JSON data: the type and the fields of each of its parts.

    >>> from jaxmerge import average
    >>> describe(average())["combine"]
    {'type': 'WeightedSum', 'normalize': True, 'frame': 'absolute'}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__} | {
            k: describe(v) for k, v in fields.items()
        }
    if isinstance(value, Mapping):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(v) for v in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return np.asarray(value).tolist()


def provenance(
    merger: Merger | Partition,
    base: Source | None,
    experts: Sequence[Source],
    checksums: bool,
    statistics: Sequence[Source] = (),
) -> str:
    """What a result was made from, for its metadata: no times, hosts or paths."""
    sources = [None if base is None else base.identity(checksums)]
    sources += [source.identity(checksums) for source in experts]
    record = {
        "jaxmerge": importlib.metadata.version("jaxmerge"),
        "jax": importlib.metadata.version("jax"),
        "merger": describe(merger),
        "base": sources[0],
        "experts": sources[1:],
    }
    if statistics:
        record["statistics"] = [source.identity(checksums) for source in statistics]
    return json.dumps(record, sort_keys=True)


def merge(
    merger: Merger | Partition,
    *,
    base: PathLike | Source | None = None,
    experts: Sequence[PathLike | Source],
    out: PathLike,
    key: Any = None,
    ids: Sequence[int | str] | None = None,
    dtype: Any = None,
    kind: str | None = None,
    shard_bytes: int = 5_000_000_000,
    overwrite: bool = False,
    checksums: bool = False,
    metadata: Mapping[str, str] | None = None,
    extra_files: Mapping[str, bytes] | None = None,
    statistics: Sequence[PathLike] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Merges checkpoints on disk into one, streamed.

        state = join over t of lift(transform(expert_t - base))
        out   = base + scale * finish(state)

    The same result as `merger(base, experts)` on the loaded models, bit for bit for
    elementwise and exactly selected methods, with one tensor's state in memory.

    Args:
      merger: from a recipe, such as `jaxmerge.ties(density=0.2)`.
      base: the checkpoint that the experts were fine-tuned from: a path in any format
        that `open_source` reads, or a `Source`. None where the merger needs none.
      experts: the checkpoints to merge, at least one; full models or LoRA adapters.
      out: where to write; must not exist unless `overwrite`.
      key: a typed key, for mergers that draw random numbers.
      ids: what names each expert in its key; positions if None.
      dtype: dtype of the result's floating tensors; the base's own if None. The
        arithmetic is in float32 (float64 for float64) whatever it is.
      kind: the format written; what the base (or first expert) is, if None.
      shard_bytes: the most bytes in one file of a Hugging Face folder.
      overwrite: whether an existing `out` may be replaced, at the very end.
      checksums: whether the record of the sources hashes all their bytes.
      metadata: strings to add to the files' metadata.
      extra_files: further files of an output folder, by name.
      statistics: for merges that need some, the statistics file of each expert; those
        beside the experts if None. See `save_statistics`.
      progress: called after every tensor read.

    Returns:
      A `Report`.

    Raises:
      CheckpointError: if a source is damaged, does not fit, or is not finite; nothing
        is then left under `out`.
      ValueError: if a coefficient does not fit.
      OSError: if reading or writing fails.

    >>> import numpy as np, tempfile, jaxmerge
    >>> from jaxmerge import checkpoint
    >>> folder = tempfile.mkdtemp()
    >>> for name, value in [("base", 0.0), ("a", 1.0), ("b", 3.0)]:
    ...     model = {"w": np.full(2, value, np.float32)}
    ...     checkpoint.save(f"{folder}/{name}.npz", model)
    >>> report = checkpoint.merge(
    ...     jaxmerge.task_arithmetic(scale=0.5),
    ...     base=f"{folder}/base.npz",
    ...     experts=[f"{folder}/a.npz", f"{folder}/b.npz"],
    ...     out=f"{folder}/merged.npz",
    ... )
    >>> checkpoint.load(report.out)["w"].tolist()
    [2.0, 2.0]
    """
    _checks.check_key(key)
    with contextlib.ExitStack() as stack:
        opened = functools.partial(enter_source, stack)
        base_source = None if base is None else opened(base)
        sources = [opened(expert) for expert in experts]
        if ids is not None and len(ids) != len(sources):
            raise ValueError(f"{len(ids)} ids were given for {len(sources)} experts")
        sides = open_sides(stack, merger, sources, statistics)
        plan = make_plan(merger, base_source, sources, dtype=dtype, statistics=sides)
        if merger.per_task is not None:
            raise CheckpointError(
                "this merger has several models out; write them with "
                "checkpoint.merge_tasks"
            )
        made_from = provenance(merger, base_source, sources, checksums, sides or ())
        kind = kind or default_kind(out, plan.template)
        return _run(
            plan,
            out,
            kind,
            key=key,
            ids=ids,
            progress=progress,
            metadata={**(metadata or {}), "jaxmerge": made_from},
            shard_bytes=shard_bytes,
            overwrite=overwrite,
            extra_files=extra_files or {},
        )


def open_sides(
    stack: contextlib.ExitStack,
    merger: Merger | Partition,
    sources: Sequence[Source],
    statistics: Sequence[PathLike] | None,
) -> list[Source] | None:
    """The statistics of each expert that a merge needs, which the stack closes."""
    paths = statistics
    if paths is None and kinds_needed(merger):
        paths = [source.path for source in sources]
    if paths is None:
        return None
    if len(paths) != len(sources):
        raise CheckpointError(
            f"{len(paths)} statistics files were given for {len(sources)} experts"
        )
    return [
        stack.enter_context(open_statistics(path, source))
        for path, source in zip(paths, sources, strict=True)
    ]


def _run(
    plan: Plan,
    out: PathLike,
    kind: str,
    *,
    key: Any,
    ids: Sequence[int | str] | None,
    progress: Callable[[Progress], None] | None,
    extra_files: Mapping[str, bytes],
    **options: Any,
) -> Report:
    identities = range(len(plan.experts)) if ids is None else ids
    infos = [output.info for output in plan.outputs]
    template = plan.template
    with open_sink(
        out,
        infos,
        kind=kind,
        sidecars=template.sidecars,
        aliases=template.aliases,
        **options,
    ) as sink:
        for name, content in extra_files.items():
            sink.write_file(name, content)
        bytes_read = execute(
            plan,
            sink,
            key=key,
            ids=[expert_id(i) for i in identities],
            progress=progress,
        )
        sink.commit()
    return Report(Path(out), kind, len(infos), bytes_read, plan.bytes_written)

"""Statistics files: Gram matrices and Fishers of an expert, beside its checkpoint.

One safetensors file for each expert. A tensor is called `KIND:NAME`, NAME that of the
checkpoint's tensor which it is about:

    fisher:NAME   the tensor's shape: mean squared gradients of the log likelihood
    gram:NAME     [*batch, in, in]: the Gram matrix of a matrix's inputs, summed or
                  averaged over examples; of a vector its diagonal, the vector's shape

The metadata's entry `jaxmerge_statistics` is JSON: `version` (1), `model` (a hash of
parts of the checkpoint that tells it from others, or null) and `about`, whatever the
maker wants to say: data, number of examples. The file lies in a checkpoint's folder as
`statistics.safetensors`, or beside a single file as `FILE.statistics.safetensors`.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxmerge import _side
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.folder import STATISTICS
from jaxmerge.checkpoint.safetensors import SafetensorsWriter
from jaxmerge.checkpoint.safetensors_source import SafetensorsSource
from jaxmerge.checkpoint.source import PathLike, Source, open_source
from jaxmerge.checkpoint.tensor_info import TensorInfo

KINDS = ("fisher", "gram")
_ENTRY = "jaxmerge_statistics"
_HASHED = 64  # Entries at either end of a tensor.


def fingerprint(source: Source) -> str:
    """A hash that tells a checkpoint from others of its architecture.

    It is of every tensor's name, dtype, shape, and first and last 64 entries: a few
    reads, whatever the size. A fine-tuned model differs from its base in some of them.

    Args:
      source: an open checkpoint.

    Returns:
      32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, info in sorted(source.infos.items()):
        digest.update(f"{name} {info.dtype} {info.shape}\n".encode())
        for start in {0, max(info.size - _HASHED, 0)}:
            stop = min(start + _HASHED, info.size)
            digest.update(source.read_range(name, start, stop).tobytes())
    return digest.hexdigest()


def statistics_path(checkpoint: PathLike) -> Path:
    """Where the statistics of a checkpoint lie.

    >>> statistics_path("experts/math.safetensors").name
    'math.safetensors.statistics.safetensors'
    """
    path = Path(checkpoint)
    return (
        path / STATISTICS
        if path.is_dir()
        else path.with_name(f"{path.name}.{STATISTICS}")
    )


def save_statistics(
    statistics: Mapping[str, Mapping[str, Any]],
    *,
    model: PathLike,
    path: PathLike | None = None,
    about: Any = None,
    overwrite: bool = False,
) -> Path:
    """Writes the statistics of one expert.

    Args:
      statistics: kind (`"gram"`, `"fisher"`) to a mapping from the model's tensor names
        to arrays; see the module's text for their shapes.
      model: the expert's checkpoint; the file says that it belongs to it.
      path: where to write; beside the checkpoint if None.
      about: anything JSON, such as the data and the number of examples.
      overwrite: whether a file that is there may be replaced.

    Returns:
      The path of the file.

    Raises:
      CheckpointError: if a kind or name is unknown, a number cannot be a statistic, or
        the file exists.
    """
    path = statistics_path(model) if path is None else Path(path)
    if path.exists() and not overwrite:
        raise CheckpointError(f"{path} exists; say overwrite=True to replace it")
    arrays: dict[str, np.ndarray] = {}
    with open_source(model) as source:
        for kind, named in statistics.items():
            _check_kind(kind, named, source)
            arrays |= {f"{kind}:{name}": np.asarray(x) for name, x in named.items()}
        entry = {"version": 1, "model": fingerprint(source), "about": about}
    infos = [TensorInfo(n, x.shape, x.dtype) for n, x in arrays.items()]
    metadata = {_ENTRY: json.dumps(entry, sort_keys=True)}
    partial = path.with_name(f"{path.name}.partial")
    writer = SafetensorsWriter(partial, infos, metadata)
    for name, array in arrays.items():
        writer.write(name, array)
    writer.close()
    partial.replace(path)
    return path


def _check_kind(kind: str, named: Mapping[str, Any], source: Source) -> None:
    if kind not in KINDS:
        raise CheckpointError(f"statistics of kind {kind!r}; expected one of {KINDS}")
    for name, value in named.items():
        if name not in source:
            raise CheckpointError(
                f"{kind} statistics were given for {name!r}, and {source.path} has no "
                "such tensor"
            )
        problem = _side.problem_of(kind, value)
        if problem is not None:
            raise CheckpointError(f"the {kind} of {name!r} {problem}")


def open_statistics(path: PathLike, model: Source | None = None) -> Source:
    """Opens a statistics file for reading tensor by tensor.

    Args:
      path: the file, or the checkpoint that it lies beside.
      model: the expert that it has to belong to, where it says to which it does.

    Returns:
      A `Source` of tensors called `KIND:NAME`; close it, or use it as a context
      manager.

    Raises:
      CheckpointError: if there is no such file, it is in another format, or it belongs
        to another model.
    """
    file = Path(path)
    if not file.name.endswith(STATISTICS) or file.is_dir():
        file = statistics_path(file)
    if not file.is_file():
        raise CheckpointError(
            f"{file} does not exist: {path} has no statistics; write them with "
            "checkpoint.save_statistics"
        )
    source = SafetensorsSource(file, [file], "safetensors")
    entry = source.metadata.get(_ENTRY)
    if entry is None:
        raise CheckpointError(
            f"{file} is no statistics file: its metadata has no {_ENTRY!r}"
        )
    said = json.loads(entry)
    if said.get("version") != 1:
        raise CheckpointError(
            f"{file} is a statistics file of version {said.get('version')}; this is a "
            "reader of version 1"
        )
    owner = said.get("model")
    if model is not None and owner is not None and owner != fingerprint(model):
        raise CheckpointError(
            f"{file} holds the statistics of another model than {model.path}; make "
            "them again, or give each expert its own"
        )
    return source


def load_statistics(path: PathLike) -> dict[str, dict[str, np.ndarray]]:
    """All statistics of a file, in memory.

    Args:
      path: the file, or the checkpoint that it lies beside.

    Returns:
      Kind to name to array: `load_statistics(path)["gram"]` is what a merger in memory
      takes as one expert's statistics.

    Raises:
      CheckpointError: as `open_statistics` does.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    with open_statistics(path) as source:
        for stored in source.infos:
            kind, name = stored.split(":", 1)
            found.setdefault(kind, {})[name] = source.read(stored)
    return found

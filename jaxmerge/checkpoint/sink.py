"""Writing a checkpoint tensor by tensor, in any order, into an atomic output."""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from jaxmerge.checkpoint._source import Source
from jaxmerge.checkpoint.atomic import Staging
from jaxmerge.checkpoint.buffers import near
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.folder import (
    ADAPTER,
    CONFIG,
    INDEX,
    SINGLE,
    read_json,
    state_dtype,
)
from jaxmerge.checkpoint.names import unflatten_names
from jaxmerge.checkpoint.npz import write_npz
from jaxmerge.checkpoint.orbax_directory import write_orbax
from jaxmerge.checkpoint.safetensors import SafetensorsFile, SafetensorsWriter
from jaxmerge.checkpoint.tensor_info import TensorInfo

KINDS = ("huggingface", "safetensors", "npz", "orbax", "peft", "tasks")
_WITH_SIDECARS = ("huggingface", "peft", "tasks")
# transformers refuses a file that does not say which library's tensors it holds.
_FORMAT = {"format": "pt"}


def _split(infos: Sequence[TensorInfo], shard_bytes: int) -> list[list[TensorInfo]]:
    """Cuts the tensors, in their order, into shards of at most so many bytes."""
    shards: list[list[TensorInfo]] = [[]]
    room = shard_bytes
    for info in infos:
        if info.nbytes > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append(info)
        room -= info.nbytes
    return shards


def _index(shards: dict[str, list[TensorInfo]]) -> bytes:
    total = sum(info.nbytes for infos in shards.values() for info in infos)
    weight_map = {i.name: shard for shard, infos in shards.items() for i in infos}
    index = {
        "metadata": {"total_size": total},
        "weight_map": dict(sorted(weight_map.items())),
    }
    return json.dumps(index, indent=2, ensure_ascii=False).encode() + b"\n"


def _copy(sidecars: Sequence[Path], folder: Path) -> None:
    for path in sidecars:
        target = folder / path.name
        if target.exists():
            raise CheckpointError(
                f"two files called {path.name} are to be carried along"
            )
        # Contents only: the copies get today's owner and mode, as the weights do.
        if path.is_dir():
            shutil.copytree(path, target, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(path, target)


def _correct_config(path: Path, infos: Sequence[TensorInfo]) -> None:
    config = read_json(path)
    dtypes = {str(info.dtype) for info in infos if info.floating}
    corrected = state_dtype(config, dtypes)
    if corrected != config:
        text = json.dumps(corrected, indent=2, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")


class Sink:
    """A checkpoint being written; `open_sink` makes one.

    Writes may come from any thread. Used as a context manager it is thrown away unless
    `commit` was called.
    """

    def __init__(
        self,
        staging: Staging,
        kind: str,
        files: dict[str, list[TensorInfo]],
        metadata: dict[str, str],
    ):
        self.out, self.kind = staging.out, kind
        self._staging, self._metadata = staging, metadata
        self._folder = staging.content if kind in _WITH_SIDECARS else staging.scratch
        self._writers = [
            SafetensorsWriter(self._folder / file, infos, metadata)
            for file, infos in files.items()
        ]
        self._holder = {n: writer for writer in self._writers for n in writer.infos}
        self._order = [info for infos in files.values() for info in infos]

    def _writer(self, name: str) -> SafetensorsWriter:
        if name not in self._holder:
            raise CheckpointError(
                f"{self.out} has no place for tensor {name!r}"
                + near(name, self._holder)
            )
        return self._holder[name]

    def write(self, name: str, array: np.ndarray) -> None:
        """Writes a whole tensor.

        Raises:
          CheckpointError: if its name, shape or dtype was not declared, or it is
            written already.
        """
        self._writer(name).write(name, array)

    def write_range(self, name: str, start: int, array: np.ndarray) -> None:
        """Writes a 1-D array as the elements from `start` of the flat tensor."""
        self._writer(name).write_range(name, start, array)

    def write_file(self, name: str, content: bytes) -> None:
        """Puts a small file beside the weights, in place of a sidecar of that name.

        Raises:
          CheckpointError: if the output is a single file, or the name is taken.
        """
        taken = {writer.path.name for writer in self._writers} | {INDEX}
        if self.kind not in _WITH_SIDECARS or name in taken or Path(name).name != name:
            raise CheckpointError(f"{name!r} cannot be put into {self.out}")
        (self._folder / name).write_bytes(content)

    def commit(self) -> None:
        """Completes the output and gives it its name, in one step.

        Raises:
          CheckpointError: if a tensor is missing; the sink can then still be aborted.
        """
        for writer in self._writers:
            writer.close()
        if self.kind not in (*_WITH_SIDECARS, "safetensors"):
            self._convert(self._writers[0].path)
        self._staging.commit()

    def _convert(self, staged: Path) -> None:
        with SafetensorsFile(staged) as file:
            if self.kind == "npz":
                target = self._staging.content
                write_npz(target, self._order, file.read_range, self._metadata)
            else:
                shutil.rmtree(self._staging.content)
                tree = unflatten_names({i.name: file.read(i.name) for i in self._order})
                write_orbax(self._staging.content, tree)
        staged.unlink()

    def abort(self) -> None:
        """Throws away what was written; after a commit it does nothing."""
        self._staging.discard()

    def __enter__(self) -> "Sink":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()


def default_kind(out: str | os.PathLike, like: Source) -> str:
    """The kind of an output, from its name and the checkpoint that it is like.

    A name that ends in .safetensors or .npz is such a file; anything else is a folder:
    Orbax's or an adapter's if `like` is one, and Hugging Face's if not.
    """
    suffix = Path(out).suffix
    if suffix in (".safetensors", ".npz"):
        return suffix[1:]
    return like.kind if like.kind in ("orbax", "peft") else "huggingface"


def _files(
    kind: str, infos: Sequence[TensorInfo], shard_bytes: int
) -> dict[str, list[TensorInfo]]:
    if kind == "huggingface":
        shards = _split(infos, shard_bytes)
        if len(shards) > 1:
            count = f"{len(shards):05d}"
            return {
                f"model-{i:05d}-of-{count}.safetensors": shard
                for i, shard in enumerate(shards, 1)
            }
        return {SINGLE: shards[0]}
    if kind == "tasks":
        # A task's records are called TASK:NAME.
        records = [info for info in infos if re.match(r"\d+:", info.name)]
        shared = [info for info in infos if info not in records]
        return {"shared.safetensors": shared, "tasks.safetensors": records}
    names = {"peft": ADAPTER, "safetensors": "content"}
    return {names.get(kind, "staged.safetensors"): list(infos)}


def open_sink(
    out: str | os.PathLike,
    infos: Sequence[TensorInfo],
    *,
    kind: str,
    metadata: Mapping[str, str] | None = None,
    shard_bytes: int = 5_000_000_000,
    sidecars: Sequence[Path] = (),
    overwrite: bool = False,
    aliases: Mapping[str, str] | None = None,
) -> Sink:
    """Opens an output for writing; it appears under its name when it is committed.

    The disk space of all tensors is taken now. `.npz` and Orbax outputs are collected
    in a safetensors file first and converted by `commit`, which needs their space
    twice; Orbax then holds the whole model in memory. Equal inputs give equal bytes,
    except in an Orbax directory.

    Args:
      out: the file or folder to be. Parents are made.
      infos: the tensors, in the order in which shards are filled.
      kind: `"huggingface"` (a folder with `model.safetensors`, or shards and their
        index), `"safetensors"`, `"npz"`, `"orbax"`, `"peft"`, or `"tasks"` (see
        `merge_tasks`).
      metadata: strings to go with the tensors; Orbax has no place for them.
      shard_bytes: most bytes in a shard, if no tensor alone has more.
      sidecars: files and folders to be copied along; a single file and an Orbax
        directory have no room for them, and they are left out. A `config.json` that
        states another dtype than all floating tensors have is corrected.
      overwrite: whether to replace an OUT that exists, with all that is in it. It stays
        whole until the commit.
      aliases: tied names, noted in the metadata as the reference library does.

    Raises:
      CheckpointError: if OUT exists, `OUT.partial` is in the way, the disk is too full,
        or the tensors cannot be written in that kind of checkpoint.
    """
    if kind not in KINDS:
        raise CheckpointError(f"the kind {kind!r} is none of {', '.join(KINDS)}")
    stored = {info.name for info in infos}
    texts = {**(_FORMAT if kind in _WITH_SIDECARS else {}), **(metadata or {})}
    for alias, name in sorted((aliases or {}).items()):
        if name in stored and alias not in stored:
            texts.setdefault(alias, name)
    files = _files(kind, infos, shard_bytes)
    folder = kind in (*_WITH_SIDECARS, "orbax")
    staging = Staging(out, folder=folder, overwrite=overwrite)
    try:
        sink = Sink(staging, kind, files, texts)
        if kind in _WITH_SIDECARS:
            _copy(sidecars, staging.content)
        if kind == "huggingface" and (staging.content / CONFIG).is_file():
            _correct_config(staging.content / CONFIG, infos)
        if kind == "huggingface" and len(files) > 1:
            (staging.content / INDEX).write_bytes(_index(files))
    except BaseException:
        staging.discard()
        raise
    return sink

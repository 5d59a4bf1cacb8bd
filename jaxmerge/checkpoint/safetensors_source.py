"""Safetensors checkpoints: one file, a Hugging Face folder, or a PEFT adapter."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxmerge.checkpoint._source import Source, file_identity
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.folder import (
    ADAPTER,
    ADAPTER_CONFIG,
    CONFIG,
    SHARD,
    STATISTICS,
    find_sidecars,
    find_weights,
    read_index,
    read_json,
)
from jaxmerge.checkpoint.quantised import refuse_quantised
from jaxmerge.checkpoint.safetensors import SafetensorsFile
from jaxmerge.checkpoint.ties import find_ties

_COMPARED = 1 << 22  # Elements at a time, when a stored head is compared.


class SafetensorsSource(Source):
    """Tensors from one or several safetensors files; see `Source`.

    Args:
      path: the file or folder that the user named.
      files: the files with the weights.
      kind: what it is.
      index: the shards' index, if they have one.
      config: its config, if it has one.
      sidecars: what a merge carries along.
      notes: what a user should be told.

    Raises:
      CheckpointError: if a tensor is in two files or not where the index says, or the
        checkpoint is quantised.
    """

    def __init__(
        self,
        path: Path,
        files: list[Path],
        kind: str,
        *,
        index: Path | None = None,
        config: dict[str, Any] | None = None,
        sidecars: list[Path] | None = None,
        notes: list[str] | None = None,
    ):
        self.path, self.kind, self.config = path, kind, config
        self.sidecars, self.notes = sidecars or [], notes or []
        self._files = [SafetensorsFile(file) for file in files]
        self._holder: dict[str, SafetensorsFile] = {}
        self.metadata: dict[str, str] = {}
        for file in self._files:
            for name in file.infos:
                if name in self._holder:
                    raise CheckpointError(
                        f"{path}: tensor {name!r} is in {self._holder[name].path.name} "
                        f"and in {file.path.name}"
                    )
                self._holder[name] = file
            self.metadata |= file.metadata
        self.infos = {n: file.infos[n] for n, file in self._holder.items()}
        if index is not None:
            self._check_index(index)
        refuse_quantised(str(path), self.infos, config)
        self._find_aliases()

    def _check_index(self, index: Path) -> None:
        weight_map = read_index(index)
        for name, shard in weight_map.items():
            if name not in self._holder or self._holder[name].path.name != shard:
                raise CheckpointError(
                    f"{index} puts tensor {name!r} into {shard}, which does not have "
                    "it; fetch the checkpoint again"
                )
        unlisted = [name for name in self.infos if name not in weight_map]
        if unlisted:
            self.notes.append(
                f"{len(unlisted)} tensors are in the shards and not in the index, "
                f"{unlisted[0]!r} among them; they are read"
            )

    def _find_aliases(self) -> None:
        # The reference library notes tensors that it left out, as they shared memory
        # with another, in the metadata: the name, and whose bytes it had.
        self.aliases: dict[str, str] = {
            name: stored
            for name, stored in self.metadata.items()
            if stored in self.infos and name not in self.infos and name != "format"
        }
        if self.kind == "huggingface":
            self.aliases |= find_ties(list(self.infos), self.config, self._equal)
        for name in self.aliases.keys() & self.infos.keys():
            del self.infos[name]
            self.notes.append(f"{name} is stored, and equals {self.aliases[name]}")

    def _equal(self, a: str, b: str) -> bool:
        x, y = self.infos[a], self.infos[b]
        if (x.shape, x.dtype) != (y.shape, y.dtype):
            return False
        for start in range(0, x.size, _COMPARED):
            stop = min(start + _COMPARED, x.size)
            left = self._holder[a].read_range(a, start, stop).view(np.uint8)
            right = self._holder[b].read_range(b, start, stop).view(np.uint8)
            if not np.array_equal(left, right):
                return False
        return True

    def read_range(
        self, name: str, start: int, stop: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        stored = self.info(name).name
        return self._holder[stored].read_range(stored, start, stop, out)

    def identity(self, checksums: bool = False) -> dict[str, Any]:
        files = [
            file_identity(file.path, file.path.name, checksums, file.header_sha256)
            for file in self._files
        ]
        # The config decides what is tied, so it is part of what was read.
        for path in self.sidecars:
            if path.name in (CONFIG, ADAPTER_CONFIG):
                files.append(file_identity(path, path.name, checksums=True))
        return {"kind": self.kind, "files": files}


def open_safetensors(path: Path) -> SafetensorsSource:
    """A single safetensors file, by itself: what lies beside it is not looked at."""
    shard = SHARD.match(path.name)
    notes = []
    if shard and int(shard[3]) > 1:
        notes.append(
            f"{path.name} is one of {int(shard[3])} shards; the others are not"
        )
    return SafetensorsSource(path, [path], "safetensors", notes=notes)


def open_adapter(folder: Path) -> SafetensorsSource:
    """A PEFT folder: `adapter_config.json` and `adapter_model.safetensors`."""
    if not (folder / ADAPTER).is_file():
        raise CheckpointError(
            f"{folder} has {ADAPTER_CONFIG} and no {ADAPTER}; an adapter saved as a "
            "pickle (adapter_model.bin) has to be converted first"
        )
    return SafetensorsSource(
        folder,
        [folder / ADAPTER],
        "peft",
        config=read_json(folder / ADAPTER_CONFIG),
        sidecars=find_sidecars(folder, extra=[ADAPTER_CONFIG]),
    )


def open_folder(folder: Path) -> SafetensorsSource:
    """A Hugging Face folder, or a PEFT adapter if it has no weights of its own.

    Raises:
      CheckpointError: if there are no weights, or it is not clear which.
    """
    notes = []
    if (folder / ADAPTER_CONFIG).is_file():
        others = (ADAPTER, STATISTICS)
        full = [p for p in folder.glob("*.safetensors*") if p.name not in others]
        if not full:
            return open_adapter(folder)
        notes.append(
            f"{folder.name} has full weights and an adapter; the full weights are used"
        )
    files, index = find_weights(folder)
    config = folder / CONFIG
    return SafetensorsSource(
        folder,
        files,
        "huggingface",
        index=index,
        config=read_json(config) if config.is_file() else None,
        sidecars=find_sidecars(folder),
        notes=notes,
    )

"""What every format looks like to a reader: named tensors, and what goes with them."""

import abc
import hashlib
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from jaxmerge.checkpoint.buffers import near
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.tensor_info import TensorInfo


class Source(abc.ABC):
    """A checkpoint to read from, whatever its format; safe to use from threads.

    Attributes:
      path: the file or folder.
      kind: `"safetensors"`, `"huggingface"`, `"npz"`, `"orbax"` or `"peft"`.
      infos: the stored tensors by name, in the order in which reading is fastest.
      metadata: strings that the files carry (safetensors' `__metadata__`).
      config: `config.json` (or `adapter_config.json`) as it is, or None.
      aliases: for each tied tensor that is not stored, the stored one that it equals.
      sidecars: files and folders that a merge carries along: config, tokenizer, ….
      notes: sentences that a user should be told about how this was read.
    """

    path: Path
    kind: str
    infos: dict[str, TensorInfo]
    metadata: dict[str, str]
    config: dict[str, Any] | None
    aliases: dict[str, str]
    sidecars: list[Path]
    notes: list[str]

    @abc.abstractmethod
    def read_range(
        self, name: str, start: int, stop: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Elements `start` to `stop` of the flat tensor, as a 1-D array.

        Args:
          name: a tensor's name, or an alias.
          start: first element, in row-major order.
          stop: one past the last element.
          out: a contiguous uint8 buffer to read into; the result is a view of it. A
            fresh one, aligned to 64 bytes, if None.

        Raises:
          CheckpointError: if the tensor or the range does not exist or cannot be read.
        """

    @abc.abstractmethod
    def identity(self, checksums: bool = False) -> dict[str, Any]:
        """Which checkpoint this is: `kind`, and name, bytes and hash of each file.

        Nothing in it depends on where or when the files were written.

        Args:
          checksums: whether to read and hash every byte (`sha256`), not only headers.
        """

    def close(self) -> None:
        """Lets go of what the source holds; it is not read from after that."""
        return

    def read(self, name: str, out: np.ndarray | None = None) -> np.ndarray:
        """A whole tensor; see `read_range`."""
        info = self.info(name)
        return self.read_range(name, 0, info.size, out).reshape(info.shape)

    def info(self, name: str) -> TensorInfo:
        """What is stored for a name or an alias.

        Raises:
          CheckpointError: if nothing is.
        """
        stored = self.aliases.get(name, name)
        if stored not in self.infos:
            raise CheckpointError(
                f"{self.path} has no tensor {name!r}" + near(name, self.infos)
            )
        return self.infos[stored]

    def __contains__(self, name: str) -> bool:
        return self.aliases.get(name, name) in self.infos

    def __enter__(self) -> "Source":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def file_identity(
    path: Path, name: str, checksums: bool, header_sha256: str | None = None
) -> dict[str, Any]:
    """Name, bytes and hash of one file, for `Source.identity`."""
    entry: dict[str, Any] = {"name": name, "bytes": path.stat().st_size}
    if header_sha256 is not None:
        entry["header_sha256"] = header_sha256
    if checksums:
        with path.open("rb") as file:
            entry["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return entry

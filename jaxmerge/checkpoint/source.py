"""Opening a checkpoint, whatever it is: `open_source` looks at what is there."""

import contextlib
import os
from pathlib import Path

from jaxmerge.checkpoint._source import Source as Source
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.npz import NpzSource
from jaxmerge.checkpoint.orbax_directory import OrbaxSource, is_orbax
from jaxmerge.checkpoint.safetensors_source import open_folder, open_safetensors

PathLike = str | os.PathLike


def enter_source(stack: contextlib.ExitStack, source: PathLike | Source) -> Source:
    """A source as it is, or a path's, which the stack closes."""
    if isinstance(source, Source):
        return source
    return stack.enter_context(open_source(source))


def open_source(path: PathLike) -> Source:
    """Opens a checkpoint for reading tensor by tensor.

    A file is told by its first bytes: safetensors or .npz. A folder is an Orbax
    checkpoint if Orbax's own files are in it; else a Hugging Face folder if it has
    weights (`model.safetensors`, an index with shards, …); else a PEFT adapter if it
    has `adapter_config.json`. A folder with both is read as full weights, and its
    `notes` say so.

    >>> open_source("no/such/model")
    Traceback (most recent call last):
        ...
    jaxmerge.checkpoint.errors.CheckpointError: no/such/model does not exist

    Args:
      path: a file or folder.

    Returns:
      A `Source`; close it, or use it as a context manager.

    Raises:
      CheckpointError: if there is nothing there, it is in no known format, it is
        damaged, its weights are pickles, or it is quantised.
    """
    path = Path(path)
    if path.is_dir():
        return OrbaxSource(path) if is_orbax(path) else open_folder(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist")
    if not path.is_file():
        raise CheckpointError(f"{path} is neither a file nor a folder")
    with path.open("rb") as file:
        start = file.read(9)
    if start[:2] == b"PK":
        return NpzSource(path)
    if start[8:] == b"{" or path.suffix == ".safetensors":
        return open_safetensors(path)
    raise CheckpointError(
        f"{path} is neither a safetensors nor an .npz file; other formats (pickles, "
        "GGUF, HDF5) have to be converted first"
    )

"""Orbax checkpoints: directories as `orbax.checkpoint` writes them for JAX programs.

Orbax is imported only when such a directory is met. Leaves are restored one at a time,
each as a whole: Orbax gives no ranges of a leaf, so a range costs the leaf (the last
one is kept). A restore walks the whole tree's structure, so a tree of tens of thousands
of leaves is better converted to safetensors once.
"""

import hashlib
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from jaxmerge._trees import canonical_name
from jaxmerge.checkpoint._source import Source, file_identity
from jaxmerge.checkpoint.buffers import check_range, take_buffer
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.tensor_info import TensorInfo

_TREE = "_METADATA"
_MARKS = (_TREE, "_CHECKPOINT_METADATA", "manifest.ocdbt")


def _orbax() -> ModuleType:
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise CheckpointError(
            "Orbax checkpoints need the package orbax-checkpoint: "
            "pip install 'jaxmerge[orbax]'"
        ) from error
    return orbax.checkpoint


def _steps(path: Path) -> list[str]:
    """The steps of a folder that Orbax's CheckpointManager keeps."""
    folders = (child for child in path.iterdir() if child.name.isdecimal())
    return [child.name for child in folders if (child / _MARKS[1]).is_file()]


def is_orbax(path: Path) -> bool:
    """Whether a folder is an Orbax checkpoint, or keeps several as steps."""
    return any((path / mark).is_file() for mark in _MARKS) or bool(_steps(path))


def _tree_folder(path: Path) -> Path:
    """Where the tree is: the folder itself, or the one item in it that is a tree."""
    if (path / _TREE).is_file():
        return path
    if steps := sorted(_steps(path), key=int):
        raise CheckpointError(
            f"{path} keeps the steps {', '.join(steps)}; name one of them, as in "
            f"{path / steps[-1]}"
        )
    items = sorted(child.parent for child in path.glob(f"*/{_TREE}"))
    if len(items) == 1:
        return items[0]
    names = ", ".join(item.name for item in items) or "none"
    raise CheckpointError(
        f"{path} is an Orbax checkpoint with {len(items)} items that are trees "
        f"({names}); name the one that is meant"
    )


class OrbaxSource(Source):
    """An Orbax directory; see `Source`.

    Names are the tree's path entries joined by dots. Python numbers are scalars.

    Args:
      path: the directory, a step's directory, or one item's.

    Raises:
      CheckpointError: if Orbax is not installed, cannot read it, or it holds leaves
        that are not arrays.
    """

    def __init__(self, path: Path):
        self.path, self.kind = path, "orbax"
        self.metadata, self.config, self.aliases = {}, None, {}
        self.sidecars, self.notes = [], []
        self._lock = threading.Lock()
        self._last: tuple[str, np.ndarray] | None = None
        self._folder = _tree_folder(path).absolute()
        self._checkpointer = _orbax().PyTreeCheckpointer()
        described = self._checkpointer.metadata(self._folder).item_metadata
        if described is None:
            raise CheckpointError(f"{path}: Orbax cannot read what is in it")
        leaves, self._structure = jax.tree_util.tree_flatten_with_path(described.tree)
        self.infos: dict[str, TensorInfo] = {}
        for key_path, leaf in leaves:
            name = canonical_name(key_path)
            if getattr(leaf, "dtype", None) is None or leaf.shape is None:
                raise CheckpointError(f"{path}: leaf {name!r} is not an array")
            if name in self.infos:
                raise CheckpointError(f"{path}: two leaves are called {name!r}")
            self.infos[name] = TensorInfo(name, leaf.shape, np.dtype(leaf.dtype))
        self._names = list(self.infos)

    def _restore(self, name: str) -> np.ndarray:
        with self._lock:
            if self._last is None or self._last[0] != name:
                ocp = _orbax()
                wanted = [0 if n == name else ocp.PLACEHOLDER for n in self._names]
                how = ocp.RestoreArgs(restore_type=np.ndarray)
                tree = self._checkpointer.restore(
                    self._folder,
                    args=ocp.args.PyTreeRestore(
                        item=self._structure.unflatten(wanted),
                        restore_args=self._structure.unflatten([how] * len(wanted)),
                    ),
                )
                leaf = jax.tree.leaves(tree)[self._names.index(name)]
                self._last = name, np.asarray(leaf)
            return self._last[1]

    def read_range(
        self, name: str, start: int, stop: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        info = self.info(name)
        check_range(str(self.path), info, start, stop)
        array = self._restore(name)
        if (array.shape, array.dtype) != (info.shape, info.dtype):
            raise CheckpointError(
                f"{self.path}: leaf {name!r} is {array.dtype}{array.shape}, and the "
                f"checkpoint's own description says {info.dtype}{info.shape}"
            )
        view = take_buffer(out, (stop - start) * info.dtype.itemsize).view(info.dtype)
        view[:] = array.reshape(-1)[start:stop]
        return view

    def identity(self, checksums: bool = False) -> dict[str, Any]:
        described = hashlib.sha256((self._folder / _TREE).read_bytes()).hexdigest()
        files = [
            file_identity(
                file,
                file.relative_to(self._folder).as_posix(),
                checksums,
                described if file.name == _TREE else None,
            )
            for file in sorted(self._folder.rglob("*"))
            if file.is_file()
        ]
        return {"kind": self.kind, "files": files}

    def close(self) -> None:
        self._last = None
        self._checkpointer.close()


def write_orbax(path: Path, tree: Any) -> None:
    """Writes a tree of arrays as an Orbax directory, which must not exist.

    Orbax names its files at random and stamps them with the time, so equal trees give
    equal checkpoints but not equal bytes.

    Raises:
      CheckpointError: if Orbax is not installed, or a leaf is empty, which Orbax
        refuses.
    """
    ocp = _orbax()
    for key_path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if np.size(leaf) == 0:
            raise CheckpointError(
                f"tensor {canonical_name(key_path)!r} has no elements, which Orbax "
                "cannot store; write safetensors"
            )
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), tree)

"""Checkpoints as pytrees: `load` and `save`, for models that fit into memory."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxmerge.checkpoint._source import Source
from jaxmerge.checkpoint.buffers import near
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.names import flatten_names, unflatten_names
from jaxmerge.checkpoint.sink import default_kind, open_sink
from jaxmerge.checkpoint.source import open_source
from jaxmerge.checkpoint.tensor_info import TensorInfo

_NAMED_BY_SUFFIX = (".safetensors", ".npz")


def _check_template(source: Source, like: Mapping[str, Any], dtype: Any) -> None:
    """Refuses a checkpoint whose tensors are not those of the tree to fill."""
    missing = [name for name in like if name not in source]
    if missing:
        raise CheckpointError(
            f"{source.path} has no tensor {missing[0]!r}, which the tree has "
            f"({len(missing)} of {len(like)} are missing)"
            + near(missing[0], source.infos)
        )
    # A tree may have a tied head under both names, or under one.
    read = {source.info(name).name for name in like}
    unexpected = [name for name in source.infos if name not in read]
    if unexpected:
        raise CheckpointError(
            f"{source.path} has a tensor {unexpected[0]!r}, which the tree has not "
            f"({len(unexpected)} of {len(source.infos)} are unexpected)"
            + near(unexpected[0], like)
        )
    for name, leaf in like.items():
        info = source.info(name)
        if np.shape(leaf) != info.shape:
            raise CheckpointError(
                f"tensor {name!r} has shape {info.shape} in {source.path}; the tree "
                f"has {np.shape(leaf)}"
            )
        wanted = np.dtype(getattr(leaf, "dtype", info.dtype))
        if wanted != info.dtype and not (dtype is not None and info.floating):
            raise CheckpointError(
                f"tensor {name!r} is {info.dtype} in {source.path}; the tree has "
                f"{wanted}. Give dtype= to cast what is read"
            )


def load(
    path: str | os.PathLike, *, dtype: Any = None, like: PyTree | None = None
) -> PyTree:
    """Reads a whole checkpoint of any format as a pytree.

    Names are split at their dots: `layers.0.kernel` is `["layers"]["0"]["kernel"]` of
    nested dicts; `jaxmerge.checkpoint.names` has the rule for names that cannot be.

    >>> import ml_dtypes, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     params = {"dense": {"kernel": np.ones((2, 3), ml_dtypes.bfloat16)}}
    ...     save(f"{folder}/model", params)
    ...     jax.tree.map(lambda x: (x.shape, str(x.dtype)), load(f"{folder}/model"))
    {'dense': {'kernel': ((2, 3), 'bfloat16')}}

    Args:
      path: whatever `open_source` opens.
      dtype: the dtype for all floating leaves; as stored if None.
      like: a tree to fill (arrays, or `jax.ShapeDtypeStruct`s as `jax.eval_shape`
        gives): the result has its structure. Without it, nested dicts.

    Returns:
      The tree. Leaves are NumPy arrays, exactly what is stored: `jax.device_put` places
      them where they shall be, which JAX without 64-bit types narrows.

    Raises:
      CheckpointError: if it cannot be read, or has not the names, shapes and dtypes of
        `like`; a tied head that is not stored is filled from what it is tied to.
    """
    with open_source(path) as source:
        if like is None:
            names = list(source.infos)
        else:
            template = flatten_names(like)
            _check_template(source, template, dtype)
            names = list(template)
        arrays = {name: source.read(name) for name in names}
        for name in names if dtype is not None else ():
            if source.info(name).floating:
                arrays[name] = arrays[name].astype(dtype)
    if like is None:
        return unflatten_names(arrays)
    return jax.tree.structure(like).unflatten(arrays.values())


def _default_kind(path: str | os.PathLike, donor: Source | None) -> str:
    if donor is not None:
        return default_kind(path, donor)
    suffix = Path(path).suffix
    return suffix[1:] if suffix in _NAMED_BY_SUFFIX else "huggingface"


def save(
    path: str | os.PathLike,
    tree: PyTree,
    *,
    like: str | os.PathLike | None = None,
    kind: str | None = None,
    overwrite: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a pytree of arrays as a checkpoint; it appears whole or not at all.

    Args:
      path: the file or folder to be.
      tree: any pytree of arrays. A leaf's name is its path's entries joined by dots.
      like: a checkpoint whose config, tokenizer and other such files are carried
        along, and whose kind is taken. A leaf that it ties to another is left out.
      kind: `"huggingface"`, `"safetensors"`, `"npz"`, `"orbax"` or `"peft"`; if None,
        by the path's suffix, then by `like`, then `"huggingface"`.
      overwrite: whether to replace what is at `path`.
      metadata: strings to go with the tensors.

    Raises:
      CheckpointError: if two leaves have one name, a leaf is not an array of a dtype
        that a checkpoint can hold, leaves that `like` ties differ, or `path` cannot be
        written.
    """
    leaves = flatten_names(tree)
    donor = None if like is None else open_source(like)
    try:
        aliases = {} if donor is None else donor.aliases
        kept = _without_ties(leaves, aliases)
        infos = [_describe(name, leaf) for name, leaf in kept.items()]
        sink = open_sink(
            path,
            infos,
            kind=kind or _default_kind(path, donor),
            metadata=metadata,
            sidecars=() if donor is None else donor.sidecars,
            overwrite=overwrite,
            aliases=aliases,
        )
        with sink:
            for info in infos:
                sink.write(info.name, np.asarray(kept[info.name]))
            sink.commit()
    finally:
        if donor is not None:
            donor.close()


def _describe(name: str, leaf: Any) -> TensorInfo:
    array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        raise CheckpointError(
            f"leaf {name!r} is an array of keys; save jax.random.key_data of it"
        )
    return TensorInfo(name, tuple(array.shape), np.dtype(array.dtype))


def _without_ties(leaves: dict[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    kept = dict(leaves)
    for alias, stored in aliases.items():
        if alias in kept and stored in kept:
            x, y = np.asarray(kept.pop(alias)), np.asarray(kept[stored])
            same = (x.shape, x.dtype) == (y.shape, y.dtype)
            if not same or x.tobytes() != y.tobytes():
                raise CheckpointError(
                    f"leaf {alias!r} differs from {stored!r}, to which the config ties "
                    "it; a model loaded from this would lose one of them. Save it "
                    "without `like`, or untie it there"
                )
    return kept

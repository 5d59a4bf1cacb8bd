"""Pytrees by name: canonical leaf names, stacked experts, low-rank leaves.

A leaf's canonical name is its path's entries joined by dots, the same for a nested tree
in memory and for a flat checkpoint on disk. Coefficients, keys, errors and files all
speak of leaves by that name.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey
from jaxtyping import Array, PyTree

from jaxmerge._types import coefficient, pytree


def _entry(entry: Any) -> str:
    match entry:
        case DictKey(key=key) | FlattenedIndexKey(key=key):
            return str(key)
        case SequenceKey(idx=index):
            return str(index)
        case GetAttrKey(name=name):
            return name
        case _:
            return str(entry)


def canonical_name(path: Sequence[Any]) -> str:
    """The name of a leaf: its path's entries joined by dots.

    A trailing attribute `value` is left out: it is how `flax.nnx` wraps an array in a
    variable, and the name would otherwise differ from the checkpoint's.

    >>> import jax
    >>> tree = {"layers": [{"kernel": 1.0}]}
    >>> canonical_name(jax.tree_util.tree_flatten_with_path(tree)[0][0][0])
    'layers.0.kernel'
    """
    entries = list(path)
    if len(entries) > 1 and entries[-1] == GetAttrKey("value"):
        entries.pop()
    return ".".join(_entry(entry) for entry in entries)


@pytree
class LowRank:
    r"""A matrix held as two factors, `scale * b @ a`: one LoRA module.

    As an expert's leaf it stands for a delta: no base is subtracted from it.

    Attributes:
      a: `[rank, in]`.
      b: `[out, rank]`.
      scale: `alpha / rank`, or `alpha / sqrt(rank)` for rsLoRA.
    """

    a: Any
    b: Any
    scale: Any = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.b.shape[:-1], self.a.shape[-1])

    @property
    def dtype(self) -> Any:
        return self.b.dtype

    def dense(self, dtype: Any = jnp.float32) -> Array:
        """The product, in `dtype`.

        >>> pair = LowRank(jnp.ones((1, 3)), jnp.ones((2, 1)), 0.5)
        >>> pair.dense().tolist()
        [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]
        """
        b, a = self.b.astype(dtype), self.a.astype(dtype)
        product = jnp.matmul(b, a, precision=jax.lax.Precision.HIGHEST)
        return jnp.asarray(self.scale).astype(dtype) * product


def is_low_rank(x: Any) -> bool:
    """Whether a node is a `LowRank` pair."""
    return isinstance(x, LowRank)


@pytree
class Stacked:
    """Experts as one tree whose leaves have a leading `task` axis; see `stack`."""

    tree: PyTree

    @property
    def num_experts(self) -> int:
        leaves = jax.tree.leaves(self.tree)
        if not leaves:
            raise ValueError("a stack of experts needs at least one leaf")
        return leaves[0].shape[0]


def stack(experts: Sequence[PyTree]) -> Stacked:
    """Stacks models of one structure along a new leading axis, `task`.

    Args:
      experts: models with equal structure, shapes and dtypes; at least one.

    Returns:
      A `Stacked`, accepted wherever experts are.

    Raises:
      ValueError: if there are none, or their structures differ.

    >>> stack([{"w": jnp.zeros(3)}, {"w": jnp.ones(3)}]).tree["w"].shape
    (2, 3)
    """
    if not experts:
        raise ValueError("stack needs at least one expert, and was given none")
    return Stacked(jax.tree.map(lambda *xs: jnp.stack(xs), *experts))


def named_leaves(tree: PyTree, *, low_rank: bool = True) -> dict[str, Any]:
    """The leaves by canonical name, in the tree's order.

    Args:
      tree: any pytree; `None` leaves are no leaves, Python numbers are arrays.
      low_rank: whether a `LowRank` pair is one leaf, or two, `.a` and `.b` (its scale
        is then no leaf: factors are merged, what they are scaled by has to agree).

    Raises:
      ValueError: if two leaves have one canonical name.
    """
    named: dict[str, Any] = {}
    flat = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_low_rank)[0]
    for name, leaf in _expanded(flat, low_rank):
        if name in named:
            raise ValueError(
                f"two leaves are called {name!r}: a key with a dot in it hides the "
                "nesting; rename one of them"
            )
        named[name] = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)[()]
    return named


def _expanded(flat: list[tuple[Any, Any]], low_rank: bool) -> Iterator[tuple[str, Any]]:
    for path, leaf in flat:
        name = canonical_name(path)
        if is_low_rank(leaf) and not low_rank:
            yield factor_name(name, "a"), leaf.a
            yield factor_name(name, "b"), leaf.b
        else:
            yield name, leaf


def factor_name(name: str, factor: str) -> str:
    """The name of a factor of the `LowRank` leaf `name`."""
    return f"{name}.{factor}" if name else factor


def name_hash(name: str) -> np.ndarray:
    """64 bits of BLAKE2b of a name, as two uint32, high word first."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return np.frombuffer(digest, dtype=">u4").astype(np.uint32)


def expert_id(identity: int | str) -> np.uint32:
    """The number folded into an expert's key: its position, or a name's hash."""
    if isinstance(identity, str):
        return np.uint32(name_hash(identity)[1])
    return np.uint32(identity)


@pytree
class TaskModels:
    """Several models out of one merge: what they share, and what each adds.

    Attributes:
      base: the base's parameters.
      shared: name to the delta that all tasks share.
      records: name to a list with one record per task (masks, scales).
      tasks: one pytree of numbers per task, over the whole model.
      per_task: the rule that joins them; has `apply`.
    """

    base: PyTree
    shared: dict[str, Any]
    records: dict[str, list[Any]]
    tasks: list[Any]
    per_task: Any
    scale: Any = coefficient(default=None)

    @property
    def num_tasks(self) -> int:
        return len(self.tasks)

    def params(self, t: int) -> PyTree:
        """The parameters of task `t`, in the base's structure and dtypes.

        Args:
          t: the task's position, `0 <= t < num_tasks`.
        """

        def rebuild(path: Sequence[Any], leaf: Any) -> Any:
            name = canonical_name(path)
            if name not in self.shared:
                return leaf
            delta = self.per_task.apply(
                self.shared[name], self.records[name][t], self.tasks[t]
            )
            if self.scale is not None:
                delta = delta * jnp.asarray(self.scale).astype(delta.dtype)
            return (jnp.asarray(leaf).astype(delta.dtype) + delta).astype(leaf.dtype)

        return jax.tree_util.tree_map_with_path(rebuild, self.base)

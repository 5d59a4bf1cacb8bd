"""Trees and flat names: the invertible map between a checkpoint and a pytree.

A file has tensors with names; a program has a tree. The name of a leaf is its path's
entries joined by dots, and a name is split at its dots into the path of a leaf.

* names -> tree -> names is the identity, for every set of names, whatever dots are in
  them. Where one name is a tensor and also the beginning of another (`"a"` and
  `"a.b"`), the longer one keeps its dots as one key: `{"a": ..., "a.b": ...}`.
* tree -> names -> tree is the identity for nested dicts whose keys are strings without
  dots. Other trees have names too (lists by index, dataclasses by field), and come back
  as dicts, or as they were when `load` is given the tree to fill.
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import PyTree

from jaxmerge._trees import named_leaves
from jaxmerge.checkpoint.errors import CheckpointError


def flatten_names(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by name, in the tree's order.

    >>> list(flatten_names({"layers": [{"kernel": 1.0}, {"kernel": 2.0}]}))
    ['layers.0.kernel', 'layers.1.kernel']

    Raises:
      CheckpointError: if two leaves have one name.
    """
    try:
        return named_leaves(tree, low_rank=False)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def unflatten_names(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A nested dict whose leaves have the given names.

    >>> unflatten_names({"layers.0.bias": 1.0, "layers.0.kernel": 2.0})
    {'layers': {'0': {'bias': 1.0, 'kernel': 2.0}}}
    >>> unflatten_names({"a": 1.0, "a.b": 2.0})
    {'a': 1.0, 'a.b': 2.0}
    """
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        node, prefix, rest = tree, "", name
        while "." in rest:
            part, after = rest.split(".", 1)
            prefix += part
            if prefix in flat:  # A leaf has no children; what follows keeps its dots.
                break
            node = node.setdefault(part, {})
            prefix, rest = prefix + ".", after
        node[rest] = leaf
    return tree

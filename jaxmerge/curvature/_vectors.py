"""Parameter trees as vectors: inner products, sums, rows of vectors, random probes.

Trees are not flattened into one array: every leaf keeps its shape, its dtype and its
sharding, and nothing the size of the model is copied. `rows` are several vectors as one
tree whose leaves have a leading axis.
"""

import functools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import tree_flatten_with_path
from jaxtyping import Array, Float, PyTree

from jaxmerge._trees import canonical_name, name_hash

PROBES = ("rademacher", "normal")


def as_parameters(tree: PyTree) -> PyTree:
    """The tree with array leaves, all of them float32 or float64.

    Raises:
      TypeError: if a leaf is of another dtype; the sentence has its name.
      ValueError: if there is no leaf.
    """
    flat, structure = tree_flatten_with_path(tree)
    if not flat:
        raise ValueError("params has no leaves; curvature needs at least one parameter")
    leaves = []
    for path, leaf in flat:
        name = canonical_name(path) or "params"
        dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.asarray(leaf).dtype
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"{name} is {dtype}: curvature is with respect to floating leaves; "
                "leave this one out of params and let the function close over it"
            )
        if jnp.finfo(dtype).bits < 32:
            raise TypeError(
                f"{name} is {dtype}: eigenvalues computed in 16 bits are noise; cast "
                "params to float32 first"
            )
        leaves.append(jnp.asarray(leaf))
    return jax.tree.unflatten(structure, leaves)


def check_vector(vector: PyTree, like: PyTree) -> None:
    """Refuses a tree that is no vector of the space that `like` is in."""
    got, structure = tree_flatten_with_path(vector)
    expected, of_params = tree_flatten_with_path(like)
    if structure != of_params:
        raise ValueError(
            f"the vector has structure {structure}; expected that of params, "
            f"{of_params}"
        )
    for (path, leaf), (_, want) in zip(got, expected, strict=True):
        if jnp.shape(leaf) != want.shape or jnp.result_type(leaf) != want.dtype:
            raise ValueError(
                f"the vector's {canonical_name(path) or 'only leaf'} is "
                f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}; expected "
                f"{want.dtype}{list(want.shape)}, as in params"
            )


def dimension(tree: PyTree) -> int:
    """The number of entries of all leaves."""
    return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree))


def scalar_dtype(tree: PyTree) -> Any:
    """The dtype of inner products: float64 if any leaf is."""
    wide = any(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(tree))
    return jnp.float64 if wide else jnp.float32


def _total(parts: PyTree, dtype: Any) -> Array:
    leaves = [part.astype(dtype) for part in jax.tree.leaves(parts)]
    return functools.reduce(operator.add, leaves)


def _contract(a: Array, b: Array, axes: Any) -> Array:
    # The default precision of a GPU's dot is TF32: three digits.
    return jnp.tensordot(a, b, axes=axes, precision=jax.lax.Precision.HIGHEST)


def inner(a: PyTree, b: PyTree) -> Array:
    """The inner product of two vectors."""
    parts = jax.tree.map(lambda x, y: _contract(x, y, x.ndim), a, b)
    return _total(parts, scalar_dtype(a))


def norm(a: PyTree) -> Array:
    """The Euclidean norm."""
    return jnp.sqrt(inner(a, a))


def scaled(vector: PyTree, factor: Array) -> PyTree:
    """A vector times a number."""
    return jax.tree.map(lambda x: factor.astype(x.dtype) * x, vector)


def added(vector: PyTree, factor: Array, other: PyTree) -> PyTree:
    """`vector + factor * other`."""
    return jax.tree.map(lambda x, y: x + factor.astype(x.dtype) * y, vector, other)


def zero_rows(like: PyTree, num: int) -> PyTree:
    """`num` zero vectors."""
    return jax.tree.map(lambda x: jnp.zeros((num, *x.shape), x.dtype), like)


def row(rows: PyTree, index: Any) -> PyTree:
    """The vector at one position."""
    return jax.tree.map(lambda x: x[index], rows)


def with_row(rows: PyTree, index: Any, vector: PyTree) -> PyTree:
    """The rows with one replaced."""
    return jax.tree.map(lambda x, y: x.at[index].set(y), rows, vector)


def inner_rows(rows: PyTree, vector: PyTree) -> Float[Array, " row"]:
    """The inner product of every row with a vector."""

    def leaf(x: Array, y: Array) -> Array:
        return _contract(x, y, (tuple(range(1, x.ndim)), tuple(range(y.ndim))))

    return _total(jax.tree.map(leaf, rows, vector), scalar_dtype(vector))


def combine_rows(coefficients: Float[Array, "... row"], rows: PyTree) -> PyTree:
    """The sums of rows times coefficients: a vector, or rows of them."""
    return jax.tree.map(lambda x: _contract(coefficients.astype(x.dtype), x, 1), rows)


def orthogonalised(vector: PyTree, rows: PyTree) -> PyTree:
    """What is left of a vector without its part in the span of orthonormal rows.

    Rows of zeros are ignored. Done twice, which is enough (Giraud, Langou, Rozložník,
    van den Eshof, 2005): after once, cancellation leaves some of the span.
    """
    for _ in range(2):
        part = combine_rows(inner_rows(rows, vector), rows)
        vector = jax.tree.map(jnp.subtract, vector, part)
    return vector


def check_probes(probes: str) -> None:
    """Refuses an unknown distribution of probes."""
    if probes not in PROBES:
        raise ValueError(f"probes is {probes!r}; expected one of {', '.join(PROBES)}")


def random_vector(key: Array, like: PyTree, probes: str) -> PyTree:
    """A vector of independent entries with mean 0 and variance 1.

    A leaf's key is that of its name, so a nested tree and a flat one get equal entries.
    """
    draw = jax.random.rademacher if probes == "rademacher" else jax.random.normal
    flat, structure = tree_flatten_with_path(like)
    leaves = []
    for path, leaf in flat:
        high, low = name_hash(canonical_name(path))
        leaf_key = jax.random.fold_in(jax.random.fold_in(key, high), low)
        leaves.append(draw(leaf_key, leaf.shape, leaf.dtype))
    return jax.tree.unflatten(structure, leaves)

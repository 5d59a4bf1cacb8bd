"""Statistics of an expert from examples: Gram matrices of inputs, diagonal Fishers.

What `regmean`, `lot`, `cat`, `esm` and `fisher` are given of each expert. Both are sums
or means over examples, so batches add up.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxmerge._capture import Product, walk
from jaxmerge._leaf import arithmetic_dtype
from jaxmerge._matrices import Matrices
from jaxmerge._origins import Origin, Source
from jaxmerge._parts import Parts
from jaxmerge._trees import is_low_rank, named_leaves


def gram_matrices(
    function: Callable[..., Any],
    params: PyTree,
    *inputs: Any,
    matrices: Matrices | None = None,
) -> dict[str, Array]:
    r"""The Gram matrices of what a model multiplies its matrices by.

        G = sum_n x_n x_n^T,    x_n the inputs of a matrix, over examples and positions

    The function's own program is walked, whatever it is written in: no hooks, no names
    of layers. It may be compiled, mapped over experts by `vmap`, and used in batches,
    whose results are added. Every position counts, padding too. A `scan` in which
    parameters are is unrolled. The inputs of a convolution, if `matrices` says that its
    kernel is a matrix, are patches: as much memory as its images times its window.

    Args:
      function: `(params, *inputs)` to the model's outputs.
      params: of the expert; a pytree of real arrays.
      inputs: a batch, as the function takes it.
      matrices: which leaves are matrices and how; `Matrices()` if None. The same rule
        as the merger's.

    Returns:
      Leaf name to `[*batch, in, in]` in float32 (float64 where the inputs are), as
      `merger(..., statistics=...)` and `checkpoint.save_statistics` take them.

    Raises:
      ValueError: if a matrix is multiplied by nothing, contracted over other axes than
        its inputs', or used in any other way than as a matrix, as a whole or a cut of
        its stack: what is multiplied by it there cannot be read off.

    >>> params = {"w": jnp.ones((1, 2))}
    >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> gram_matrices(lambda p, x: jnp.tanh(x @ p["w"].T), params, x)["w"].tolist()
    [[10.0, 14.0], [14.0, 20.0]]

    References:
      Jin et al., Dataless Knowledge Fusion by Merging Weights of Language Models, 2023,
      section 3.2.
    """
    params, inputs = jax.tree.map(jnp.asarray, (params, inputs))
    leaves = _leaves(params)
    found = _Grams(leaves, Matrices() if matrices is None else matrices)
    closed = jax.make_jaxpr(function)(params, *inputs)
    values = jax.tree.leaves((params, inputs))
    sources: list[Source] = [
        Origin.whole(name, x.shape) if name in found.parts else None
        for name, x in leaves.items()
    ]
    sources += [None] * (len(values) - len(sources))
    walk(closed.jaxpr, closed.consts, values, sources, found)
    found.check()
    return found.totals


def _leaves(params: PyTree) -> dict[str, Array]:
    """The leaves by name, as many as JAX has."""
    leaves = named_leaves(params)
    for name, leaf in leaves.items():
        if is_low_rank(leaf):
            raise ValueError(
                f"{name} is a LowRank pair; statistics are of arrays: give the "
                "parameters that the model multiplies by"
            )
    return leaves


class _Grams:
    """Adds up the statistics of the products that it is told of."""

    def __init__(self, leaves: dict[str, Any], rule: Matrices):
        self.shapes = {name: jnp.shape(x) for name, x in leaves.items()}
        self.parts: dict[str, Parts] = {}
        for name, shape in self.shapes.items():
            spec = rule.spec(name, shape)
            if spec is not None:
                self.parts[name] = Parts(spec, shape)
                self.parts[name].check(name)
                if jnp.iscomplexobj(leaves[name]):
                    raise ValueError(f"{name} is complex; expected real matrices")
        self.totals: dict[str, Array] = {}

    def lost(self, name: str, primitive: str) -> None:
        raise ValueError(
            f"{name} of shape {self.shapes[name]} is a matrix by its name and shape, "
            f"and the function uses it in a {primitive}, where what it is multiplied "
            f"by cannot be read off; {self._advice(name)}"
        )

    def _advice(self, name: str) -> str:
        return (
            "if it is no matrix, say so with "
            f"matrices=Matrices.by_pattern({{{name!r}: None}}), else give a function "
            "that multiplies by it as it is"
        )

    def multiplied(self, product: Product) -> None:
        origin, parts = product.origin, self.parts[product.origin.name]
        batch, _, inputs = parts.order()
        over, along = dict(product.over), dict(product.along)
        # An axis of one entry comes and goes with reshapes.
        inputs = [a for a in inputs if a in over or parts.shape[a] != 1]
        if set(over) != set(inputs):
            raise ValueError(
                f"{origin.name} of shape {parts.shape} is contracted over axes "
                f"{sorted(over)}, and as a matrix its inputs are axes "
                f"{sorted(inputs)}; say how it is one with "
                f"matrices=Matrices.by_pattern({{{origin.name!r}: "
                "MatrixSpec(out=..., in_=...)})"
            )
        sizes = enumerate(parts.shape)
        cuts = {a for a, size in sizes if origin.extent(a) != size}
        if not {*along, *cuts} <= set(batch):
            self.lost(origin.name, "product of a part of it")
        shared = [a for a in batch if a in along]
        lead, last = [along[a] for a in shared], [over[a] for a in inputs]
        x = product.other
        rest = [i for i in range(x.ndim) if i not in (*lead, *last)]
        x = _wide(jnp.transpose(x, (*lead, *rest, *last)))
        count = math.prod(x.shape[len(lead) : len(lead) + len(rest)])
        x = x.reshape(*x.shape[: len(lead)], count, parts.matrix_shape[1])
        gram = jnp.einsum("...ni,...nj->...ij", jnp.conj(x), x, precision="highest")
        self._add(product, parts, jnp.real(gram))

    def _add(self, product: Product, parts: Parts, gram: Array) -> None:
        """Adds to the part of the stack that was multiplied."""
        origin = product.origin
        batch, _, _ = parts.order()
        there = {axis for axes in origin.axes for axis in axes}
        along = dict(product.along)
        at: list[int | slice] = []
        unseen = []  # axes that the inputs have not: all matrices there see the same
        for axis in batch:
            start, stop = origin.bounds[axis]
            if axis not in there:
                at.append(start)
                continue
            if axis not in along:
                unseen.append(sum(isinstance(x, slice) for x in at))
            at.append(slice(start, stop))
        gram = jnp.expand_dims(gram, unseen)
        shape = (*parts.batch_shape, *gram.shape[-2:])
        total = self.totals.get(origin.name)
        if total is None:
            total = jnp.zeros(shape, gram.dtype)
        dtype = jnp.promote_types(total.dtype, gram.dtype)
        total, gram = total.astype(dtype), gram.astype(dtype)
        self.totals[origin.name] = total.at[tuple(at)].add(gram)

    def check(self) -> None:
        """Refuses a result that would leave a matrix out."""
        for name in self.parts:
            if name not in self.totals:
                raise ValueError(
                    f"{name} of shape {self.shapes[name]} is a matrix by its name and "
                    "shape, and the function multiplies nothing by it; "
                    + self._advice(name)
                )


def _wide(x: Any) -> Array:
    if jnp.iscomplexobj(x):
        return jnp.asarray(x)
    return jnp.asarray(x).astype(arithmetic_dtype(x.dtype))


def diagonal_fisher(
    log_likelihood: Callable[[PyTree, Any], Array],
    params: PyTree,
    examples: Any,
    *,
    batch_size: int | None = None,
) -> dict[str, Array]:
    r"""The diagonal of the empirical Fisher information: mean squared gradients.

        F = 1/n sum_i (d/dtheta log p(y_i | x_i, theta))^2

    Args:
      log_likelihood: `(params, example)` to a scalar; a loss does as well, for signs
        do not count. For the Fisher itself, and not the empirical one, let labels be
        drawn from the model.
      params: of the expert; a pytree of floating-point arrays.
      examples: a pytree with a leading axis of examples.
      batch_size: how many gradients are computed at once; all if None. They are in the
        parameters' dtype, their squares in float32 or wider.

    Returns:
      Leaf name to mean squares of its shape, as `merger(..., statistics=...)` takes
      them.

    Raises:
      ValueError: if there are no examples, the batch size is below 1, or a leaf is not
        of floating-point numbers.

    >>> loss = lambda p, x: p["w"] @ x
    >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> diagonal_fisher(loss, {"w": jnp.zeros(2)}, x)["w"].tolist()
    [5.0, 10.0]

    References:
      Matena, Raffel, Merging Models with Fisher-Weighted Averaging, 2022, section 3.
    """
    params, examples = jax.tree.map(jnp.asarray, (params, examples))
    leaves = _leaves(params)
    for name, leaf in leaves.items():
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{name} is of {leaf.dtype}; a Fisher is of floating-point parameters: "
                "close over the others"
            )
    count = _num_examples(examples)
    size = count if batch_size is None else min(batch_size, count)
    if size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    gradient = jax.vmap(jax.grad(log_likelihood), in_axes=(None, 0))

    def add(sums: Any, some: Any) -> tuple[Any, None]:
        squares = lambda g: jnp.sum(_wide(g) ** 2, axis=0)
        return jax.tree.map(
            lambda s, g: s + squares(g), sums, gradient(params, some)
        ), None

    total = jax.tree.map(lambda x: jnp.zeros_like(_wide(x)), params)
    whole = (count // size) * size
    batches = jax.tree.map(
        lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), examples
    )
    total, _ = jax.lax.scan(add, total, batches)
    if whole < count:
        total, _ = add(total, jax.tree.map(lambda x: x[whole:], examples))
    return named_leaves(jax.tree.map(lambda x: x / count, total))


def _num_examples(examples: Any) -> int:
    sizes = {x.shape[:1] for x in jax.tree.leaves(examples)}
    if len(sizes) != 1 or sizes <= {(), (0,)}:
        raise ValueError(
            "examples is expected to be arrays with one leading axis of examples, the "
            f"same for all and not empty; their leading sizes are {sorted(sizes)}"
        )
    ((count,),) = sizes
    return count

"""Statistics of an expert from examples: Gram matrices of inputs, diagonal Fishers.

What `regmean`, `lot`, `cat`, `esm` and `fisher` are given of each expert. Both are sums
or means over examples, so batches add up.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxmerge._capture import Contraction, Origin, walk
from jaxmerge._leaf import arithmetic_dtype
from jaxmerge._matrices import Matrices
from jaxmerge._parts import Parts
from jaxmerge._trees import canonical_name, named_leaves


def gram_matrices(
    function: Callable[..., Any],
    params: PyTree,
    *inputs: Any,
    matrices: Matrices | None = None,
    gains: bool = False,
) -> dict[str, Array]:
    r"""The Gram matrices of what a model multiplies its matrices by.

        G = sum_n x_n x_n^T,    x_n the inputs of a matrix, over examples and positions

    The function's own program is walked, whatever it is written in: no hooks, no names
    of layers. It may be compiled, mapped over experts by `vmap`, and used in batches,
    whose results are added.

    Args:
      function: `(params, *inputs)` to anything.
      params: of the expert; a pytree of arrays.
      inputs: a batch, as the function takes it.
      matrices: which leaves are matrices and how; `Matrices()` if None. The same rule
        as the merger's.
      gains: whether vectors that multiply something entry by entry are given the sum of
        its squares, `[size]`, as `lot` and `cat` use them.

    Returns:
      Leaf name to `[*batch, in, in]` in float32 (float64 for float64), as
      `Merger(..., statistics=...)` and `checkpoint.save_statistics` take them.

    Raises:
      ValueError: if a matrix is never multiplied by anything, is contracted over other
        axes than its inputs', or goes into control flow (`while_loop`, `cond`).

    >>> params = {"w": jnp.ones((1, 2))}
    >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> gram_matrices(lambda p, x: jnp.tanh(x @ p["w"].T), params, x)["w"].tolist()
    [[10.0, 14.0], [14.0, 20.0]]

    References:
      Jin et al., Dataless Knowledge Fusion by Merging Weights of Language Models, 2023,
      section 3.2.
    """
    rule = Matrices() if matrices is None else matrices
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    leaves = {canonical_name(path): x for path, x in flat}
    found = _Grams(leaves, rule, gains)
    closed = jax.make_jaxpr(function)(params, *inputs)
    values = jax.tree.leaves((params, *inputs))
    origins: list[Origin | None] = [
        Origin(name, tuple(range(jnp.ndim(x)))) for name, x in leaves.items()
    ]
    origins += [None] * (len(values) - len(origins))
    walk(closed.jaxpr, closed.consts, values, origins, found)
    found.check()
    return found.totals


class _Grams:
    """Adds up the statistics of the products that it is told of."""

    def __init__(self, leaves: dict[str, Any], rule: Matrices, gains: bool):
        self.shapes = {name: jnp.shape(x) for name, x in leaves.items()}
        self.parts: dict[str, Parts] = {}
        for name, shape in self.shapes.items():
            spec = rule.spec(name, shape)
            if spec is not None:
                self.parts[name] = Parts(spec, shape)
                self.parts[name].check(name)
        self.gains = gains
        self.totals: dict[str, Array] = {}

    def __call__(self, product: Contraction) -> None:
        name = product.origin.name
        if name in self.parts:
            if product.over:
                self._add_matrix(name, product)
        elif self.gains and len(self.shapes[name]) == 1 and not product.over:
            self._add_gain(name, product)

    def _add(self, name: str, at: Any, shape: tuple[int, ...], value: Array) -> None:
        total = self.totals.get(name)
        total = jnp.zeros(shape, value.dtype) if total is None else total
        self.totals[name] = total.at[at].add(value)

    def _add_gain(self, name: str, product: Contraction) -> None:
        (_, axis), *_ = product.along
        x = _wide(product.other)
        squares = jnp.sum(x * x, axis=[a for a in range(x.ndim) if a != axis])
        self._add(name, (), self.shapes[name], squares)

    def _add_matrix(self, name: str, product: Contraction) -> None:
        parts = self.parts[name]
        batch, _, inputs = parts.order()
        over, along = dict(product.over), dict(product.along)
        fixed = dict(product.origin.at)
        if set(over) != set(inputs) or not {*along, *fixed} <= set(batch):
            raise ValueError(
                f"{name} of shape {self.shapes[name]} is contracted over axes "
                f"{sorted(over)}, and as a matrix its inputs are axes "
                f"{sorted(inputs)}; say how it is one with "
                f"matrices=Matrices.by_pattern({{{name!r}: MatrixSpec(out=..., "
                "in_=...)})"
            )
        shared = [a for a in batch if a in along]
        lead = [along[a] for a in shared]
        last = [over[a] for a in inputs]
        rest = [i for i in range(product.other.ndim) if i not in (*lead, *last)]
        x = _wide(jnp.transpose(product.other, (*lead, *rest, *last)))
        x = x.reshape(*x.shape[: len(lead)], -1, parts.matrix_shape[1])
        gram = jnp.einsum("...ni,...nj->...ij", x, x, precision="highest")
        # An axis that the inputs have not is one over which all see the same ones.
        left = [a for a in batch if a not in fixed]
        gram = jnp.expand_dims(gram, [i for i, a in enumerate(left) if a not in along])
        at = tuple(fixed.get(a, slice(None)) for a in batch)
        shape = (*parts.batch_shape, *gram.shape[-2:])
        self._add(name, at, shape, gram)

    def check(self) -> None:
        """Refuses a result that would leave a matrix out."""
        lost = [name for name in self.parts if name not in self.totals]
        if lost:
            raise ValueError(
                f"{lost[0]} of shape {self.shapes[lost[0]]} is a matrix by its name "
                "and shape, and the function multiplies nothing by it as it is; if it "
                f"is none, say so with matrices=Matrices.by_pattern({{{lost[0]!r}: "
                "None}), else multiply by it before it is changed"
            )


def _wide(x: Any) -> Array:
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
      batch_size: how many gradients are computed at once; all if None.

    Returns:
      Leaf name to mean squares of its shape, as `Merger(..., statistics=...)` takes
      them.

    Raises:
      ValueError: if there are no examples.

    >>> loss = lambda p, x: p["w"] @ x
    >>> x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> diagonal_fisher(loss, {"w": jnp.zeros(2)}, x)["w"].tolist()
    [5.0, 10.0]

    References:
      Matena, Raffel, Merging Models with Fisher-Weighted Averaging, 2022, section 3.
    """
    sizes = {jnp.shape(x)[:1] for x in jax.tree.leaves(examples)}
    if len(sizes) != 1 or sizes <= {(), (0,)}:
        raise ValueError(
            "examples is expected to be arrays with one leading axis of examples, the "
            f"same for all and not empty; their leading sizes are {sorted(sizes)}"
        )
    ((count,),) = sizes
    gradient = jax.grad(log_likelihood)
    size = count if batch_size is None else min(batch_size, count)

    def squares(some: Any) -> Any:
        found = jax.vmap(gradient, in_axes=(None, 0))(params, some)
        return jax.tree.map(lambda g: jnp.sum(_wide(g) ** 2, axis=0), found)

    whole = (count // size) * size
    cut = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), examples)
    first = squares(jax.tree.map(lambda x: x[0], cut))
    total, _ = jax.lax.scan(
        lambda sums, some: (jax.tree.map(jnp.add, sums, squares(some)), None),
        first,
        jax.tree.map(lambda x: x[1:], cut),
    )
    if whole < count:
        rest = squares(jax.tree.map(lambda x: x[whole:], examples))
        total = jax.tree.map(jnp.add, total, rest)
    return named_leaves(jax.tree.map(lambda x: x / count, total))

"""Symmetric linear operators on parameter trees: Hessian, Gauss-Newton, a dense matrix.

None of them is ever written down as a matrix. A product with a vector costs a few
gradients over the data, taken in minibatches, so that a large data set fits.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxmerge._trees import named_leaves
from jaxmerge._types import pytree, static
from jaxmerge.curvature import _vectors


@runtime_checkable
class Operator(Protocol):
    """A symmetric linear map on trees with the structure of `params`.

    Attributes:
      params: a vector of the space; only its structure, shapes and dtypes count.
      dimension: d, the number of entries of a vector.
    """

    @property
    def params(self) -> PyTree: ...
    @property
    def dimension(self) -> int: ...
    def matvec(self, vector: PyTree) -> PyTree: ...


def _num_samples(data: PyTree, what: str) -> int:
    """The common leading axis of all leaves."""
    named = named_leaves(data)
    if not named:
        raise ValueError(
            f"{what} has no arrays, so there is nothing to take batches of; leave out "
            "batch_size, or give the arrays whose leading axis is the samples"
        )
    sizes = {name: jnp.shape(leaf)[:1] for name, leaf in named.items()}
    first = next(iter(sizes.values()))
    for name, size in sizes.items():
        if not size or size[0] == 0:
            raise ValueError(
                f"{what}'s {name} has no leading axis of samples, or none in it"
            )
        if size != first:
            raise ValueError(
                f"{what}'s {name} has {size[0]} samples and another leaf has "
                f"{first[0]}; all need one leading axis"
            )
    return first[0]


def _check_batches(data: PyTree, batch_size: int | None, what: str) -> None:
    if batch_size is None:
        return
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    _num_samples(data, what)


def _check_loss(loss: Callable[..., Any], *arguments: Any) -> None:
    """Refuses a function whose result is no single real number."""
    result = jax.eval_shape(loss, *arguments)
    one = isinstance(result, jax.ShapeDtypeStruct) and result.shape == ()
    if not (one and jnp.issubdtype(result.dtype, jnp.floating)):
        raise ValueError(
            f"the loss returned {result}; expected one floating scalar, the mean over "
            "the samples it was given"
        )


def _batch_mean(
    function: Callable[[Any], PyTree],
    data: PyTree,
    batch_size: int | None,
    like: PyTree,
) -> PyTree:
    """The mean over all samples of a function that is a mean over its own samples.

    Its results are like `like`.
    """
    if batch_size is None:
        return function(data)
    num = _num_samples(data, "data")
    size = min(batch_size, num)
    whole, rest = divmod(num, size)

    def part(start: Any, length: int) -> PyTree:
        cut = lambda x: lax.dynamic_slice_in_dim(jnp.asarray(x), start, length)
        mean = function(jax.tree.map(cut, data))
        return jax.tree.map(lambda x: x * (length / num), mean)

    def step(total: PyTree, start: Any) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, part(start, size)), None

    # A slice a step and not a reshape: no second copy of the data set.
    total = jax.tree.map(jnp.zeros_like, like)
    total, _ = lax.scan(step, total, size * jnp.arange(whole))
    if rest:
        total = jax.tree.map(jnp.add, total, part(whole * size, rest))
    return total


@pytree
class Hessian:
    """The Hessian of a loss; see `hessian_vector_product`."""

    loss: Callable[..., Any] = static()
    params: Any
    data: Any
    batch_size: int | None = static(default=None)

    @property
    def dimension(self) -> int:
        return _vectors.dimension(self.params)

    def matvec(self, vector: PyTree) -> PyTree:
        """The Hessian times a vector."""
        _vectors.check_vector(vector, self.params)

        def product(data: tuple) -> PyTree:
            gradient = jax.grad(lambda params: self.loss(params, *data))
            return jax.jvp(gradient, (self.params,), (vector,))[1]

        return _batch_mean(product, self.data, self.batch_size, self.params)


@pytree
class GaussNewton:
    """The Gauss-Newton matrix of a loss; see `gauss_newton_vector_product`."""

    predict: Callable[[PyTree, Any], Any] = static()
    loss_of_output: Callable[[Any, Any], Any] = static()
    params: Any
    inputs: Any
    targets: Any
    batch_size: int | None = static(default=None)

    @property
    def dimension(self) -> int:
        return _vectors.dimension(self.params)

    def matvec(self, vector: PyTree) -> PyTree:
        """The Gauss-Newton matrix times a vector."""
        _vectors.check_vector(vector, self.params)

        def product(data: tuple) -> PyTree:
            inputs, targets = data
            predict = lambda params: self.predict(params, inputs)
            slope = jax.grad(lambda outputs: self.loss_of_output(outputs, targets))
            outputs, push = jax.jvp(predict, (self.params,), (vector,))
            curved = jax.jvp(slope, (outputs,), (push,))[1]
            return jax.vjp(predict, self.params)[1](curved)[0]

        data = (self.inputs, self.targets)
        return _batch_mean(product, data, self.batch_size, self.params)


@pytree
class Matrix:
    """A symmetric matrix held in full: for tests, and for small spaces.

    Attributes:
      matrix: `(dim, dim)`, float32 or float64. Only its symmetry is taken for granted.

    Example:
      >>> Matrix(jnp.diag(jnp.array([1.0, 2.0]))).matvec(jnp.ones(2)).tolist()
      [1.0, 2.0]
    """

    matrix: Float[Array, "dim dim"] | Any

    @property
    def params(self) -> Array:
        return self.matrix[0]

    @property
    def dimension(self) -> int:
        return self.matrix.shape[-1]

    def matvec(self, vector: PyTree) -> PyTree:
        """The matrix times a vector."""
        _vectors.check_vector(vector, self.params)
        return jnp.matmul(self.matrix, vector, precision=lax.Precision.HIGHEST)


def hessian_vector_product(
    loss: Callable[..., Any], params: PyTree, *data: Any, batch_size: int | None = None
) -> Hessian:
    """The Hessian of a loss at `params`, by its products with vectors.

    `H v = d/dt grad loss(params + t v)` at t = 0, a jvp of the gradient: about the cost
    of two gradients, and their memory.

    Args:
      loss: `loss(params, *data) -> scalar`, a mean over the samples that it is given
        (a sum would come out divided by the number of batches). It is part of the
        program: define it once, for every new function object compiles anew.
      params: where; floating leaves of at least 32 bits, `None` is no leaf.
      *data: pytrees of arrays, passed on to the loss.
      batch_size: how many samples at a time, along the leading axis of every leaf of
        `data`; a smaller last batch counts for its share. None for all at once.

    Returns:
      An operator with `matvec(tree)` and `dimension`; a pytree of params and data, so
      that it can be an argument of a jitted function and be mapped over experts.

    Raises:
      TypeError: if a leaf of params is no float, or has 16 bits.
      ValueError: if the loss is no scalar, or leading axes differ.

    Example:
      >>> loss = lambda params, x: jnp.mean((x @ params["w"]) ** 2) / 2
      >>> params, data = {"w": jnp.zeros(2)}, jnp.array([[1.0, 0.0], [0.0, 3.0]])
      >>> hessian = hessian_vector_product(loss, params, data, batch_size=1)
      >>> hessian.matvec({"w": jnp.ones(2)})["w"].tolist()
      [0.5, 4.5]

    References:
      Pearlmutter, Fast exact multiplication by the Hessian, 1994.
    """
    params = _vectors.as_parameters(params)
    _check_batches(data, batch_size, "data")
    _check_loss(loss, params, *data)
    return Hessian(loss, params, data, batch_size)


def gauss_newton_vector_product(
    predict: Callable[[PyTree, Any], Any],
    loss_of_output: Callable[[Any, Any], Any],
    params: PyTree,
    inputs: Any,
    targets: Any,
    *,
    batch_size: int | None = None,
) -> GaussNewton:
    """The Gauss-Newton matrix `G = Jᵀ L J` at `params`, by its products with vectors.

    J is the Jacobian of the outputs, L the Hessian of the loss in the outputs. G is the
    Hessian without the curvature of the network itself. For a loss convex in the
    outputs it has no negative eigenvalue, and for a softmax with cross-entropy it is
    the Fisher matrix.

    Args:
      predict: `predict(params, inputs) -> outputs`, any pytree of floats.
      loss_of_output: `loss_of_output(outputs, targets) -> scalar`, a mean over samples.
        Both are part of the program: define them once.
      params: as in `hessian_vector_product`.
      inputs: a pytree of arrays with a leading axis of samples.
      targets: likewise.
      batch_size: as in `hessian_vector_product`.

    Returns:
      An operator with `matvec(tree)` and `dimension`, and a pytree.

    Raises:
      TypeError: if a leaf of params is no float, or has 16 bits.
      ValueError: if the loss is no scalar, or leading axes differ.

    Example:
      >>> predict = lambda params, x: x @ params
      >>> loss = lambda outputs, targets: jnp.mean((outputs - targets) ** 2) / 2
      >>> x, y = jnp.array([[1.0, 0.0], [0.0, 3.0]]), jnp.zeros(2)
      >>> matrix = gauss_newton_vector_product(predict, loss, jnp.zeros(2), x, y)
      >>> matrix.matvec(jnp.ones(2)).tolist()
      [0.5, 4.5]

    References:
      Schraudolph, Fast curvature matrix-vector products, 2002.
    """
    params = _vectors.as_parameters(params)
    _check_batches((inputs, targets), batch_size, "(inputs, targets)")
    whole = lambda params, x, y: loss_of_output(predict(params, x), y)
    _check_loss(whole, params, inputs, targets)
    return GaussNewton(predict, loss_of_output, params, inputs, targets, batch_size)

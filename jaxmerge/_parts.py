"""A leaf as the matrices that it holds: cut, stacked, in any layout of its axes.

Matrix methods are written for one matrix `[out, in]`. A leaf that is laid out in
another way, holds a stack of matrices, or several fused along the output, is turned
into parts `[batch, out, in]`, over which the methods are mapped.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._types import MatrixSpec, pytree, static


def _axes(axis: int | tuple[int, ...]) -> tuple[int, ...]:
    return axis if isinstance(axis, tuple) else (axis,)


@pytree
class Parts:
    """The matrices of a leaf of one shape.

    Attributes:
      spec: how it holds them.
      shape: the leaf's.
    """

    spec: MatrixSpec = static()
    shape: tuple[int, ...] = static()

    def order(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """The leaf's axes that are batch, output and input."""
        ndim = len(self.shape)
        out, in_ = (tuple(a % ndim for a in _axes(x)) for x in self._both)
        batch = tuple(a for a in range(ndim) if a not in out and a not in in_)
        return batch, out, in_

    @property
    def _both(self) -> tuple[Any, Any]:
        return self.spec.out, self.spec.in_

    def _size(self, axes: tuple[int, ...]) -> int:
        return math.prod(self.shape[a] for a in axes)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The sizes of the axes over which matrices are stacked."""
        batch, _, _ = self.order()
        return tuple(self.shape[a] for a in batch)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Output and input sizes, before any split."""
        _, out, in_ = self.order()
        return self._size(out), self._size(in_)

    @property
    def cuts(self) -> tuple[int, ...]:
        """The output sizes of the parts."""
        size, split = self.matrix_shape[0], self.spec.split
        if split is None:
            return (size,)
        return split if isinstance(split, tuple) else (size // split,) * split

    @property
    def is_plain(self) -> bool:
        """Whether the leaf is one matrix `[out, in]` already."""
        return (
            len(self.shape) == 2
            and self.order()[1:] == ((0,), (1,))
            and len(self.cuts) == 1
        )

    def check(self, name: str) -> None:
        """Refuses axes and cuts that the leaf has not.

        Raises:
          ValueError: naming the leaf.
        """
        ndim = len(self.shape)
        named = [a for x in self._both for a in _axes(x)]
        if any(not -ndim <= a < 0 for a in named) or len(set(named)) < len(named):
            raise ValueError(
                f"{name} has shape {self.shape}, and its matrix is said to have output "
                f"{self.spec.out} and input {self.spec.in_}; expected different axes "
                f"from -{ndim} to -1"
            )
        if sum(self.cuts) != self.matrix_shape[0]:
            raise ValueError(
                f"{name} has {self.matrix_shape[0]} outputs, which cannot be split "
                f"into {self.spec.split}"
            )

    def of(self, x: Array) -> tuple[Array, ...]:
        """The parts `[batch, out, in]` of an array of the leaf's shape."""
        batch, out, in_ = self.order()
        x = jnp.transpose(x, (*batch, *out, *in_))
        x = x.reshape(math.prod(self.batch_shape), *self.matrix_shape)
        edges = [sum(self.cuts[: i + 1]) for i in range(len(self.cuts) - 1)]
        return tuple(jnp.split(x, edges, axis=1))

    def whole(self, parts: tuple[Array, ...]) -> Array:
        """The inverse of `of`."""
        batch, out, in_ = self.order()
        positions = (*batch, *out, *in_)
        x = jnp.concatenate(parts, axis=1)
        x = x.reshape([self.shape[a] for a in positions])
        return jnp.transpose(x, [positions.index(a) for a in range(x.ndim)])

    def shared(self, x: Array) -> tuple[Array, ...]:
        """What belongs to the inputs, `[*batch, ...]`, the same for all cuts."""
        lead = len(self.batch_shape)
        flat = x.reshape(math.prod(self.batch_shape), *x.shape[lead:])
        return (flat,) * len(self.cuts)

    def keys(self, key: Any) -> tuple[Any, ...] | None:
        """A key of its own for each matrix, or None."""
        if key is None:
            return None
        num = math.prod(self.batch_shape)
        each = jax.random.split(key, num * len(self.cuts))
        return tuple(each[i * num : (i + 1) * num] for i in range(len(self.cuts)))

    def map(self, function: Callable[..., Any], *args: Any) -> tuple[Any, ...]:
        """A function of single matrices over all: for each part its results, stacked.

        Args:
          function: of as many arguments as there are `args`.
          args: for each part a pytree with leading axis batch; or None.
        """
        results = []
        for i in range(len(self.cuts)):
            own = [None if arg is None else arg[i] for arg in args]
            axes = tuple(None if x is None else 0 for x in own)
            results.append(jax.vmap(function, in_axes=axes)(*own))
        return tuple(results)

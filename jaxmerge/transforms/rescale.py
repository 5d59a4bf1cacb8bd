"""Norms of a tensor, and giving one tensor the norm of another without NaN."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxmerge._types import Coef, Leaf, coefficient, pytree


def norm(x: Float[Array, "..."], kind: str) -> Float[Array, ""]:
    """The l1 or l2 norm of a whole tensor, differentiable at zero (with gradient 0).

    Args:
      x: of any shape.
      kind: `"l1"` or `"l2"`. The latter is taken relative to the largest magnitude, so
        that no square over- or underflows.
    """
    if kind == "l1":
        return jnp.sum(jnp.abs(x))
    if kind != "l2":
        raise ValueError(f'a norm is "l1" or "l2", not {kind!r}')
    largest = jnp.max(jnp.abs(lax.stop_gradient(x)), initial=0.0)
    unit = jnp.where(largest > 0, largest, 1.0)
    squares = jnp.sum(jnp.square(x / unit))
    root = jnp.sqrt(jnp.where(largest > 0, squares, 1.0))
    return jnp.where(largest > 0, unit * root, 0.0)


@jax.custom_jvp
def divide(a: Array, b: Array) -> Array:
    """`a / b` with a derivative that does not square b, and so does not overflow."""
    return a / b


@divide.defjvp
def _divide_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (a, b), (da, db) = primals, tangents
    quotient = a / b
    return quotient, (da - quotient * db) / b


def match_norm(
    y: Float[Array, "..."],
    x: Float[Array, "..."],
    kind: str,
    *,
    floor: float = 0.0,
) -> Float[Array, "..."]:
    """Scales y to the norm of x.

        y ||x|| / ||y||

    Args:
      y: what is scaled, of any shape.
      x: whose norm it gets.
      kind: `"l2"`, `"l1"`, or `"none"` for y as it is.
      floor: y is left as it is where either norm is at most this.

    Example:
      >>> import jax.numpy as jnp
      >>> match_norm(jnp.array([1.0, 0.0]), jnp.array([1.0, 3.0]), "l1")
      Array([4., 0.], dtype=float32)
    """
    if kind == "none":
        return y
    target, own = norm(x, kind), norm(y, kind)
    defined = (target > floor) & (own > floor)
    ratio = divide(target, jnp.where(defined, own, 1.0))
    return y * jnp.where(defined, ratio, 1.0)


@pytree
class Scale:
    """Multiplies a delta by a number.

        y = factor * x

    Attributes:
      factor: the number.
    """

    factor: Coef = coefficient(default=1.0)
    elementwise = True

    def __call__(self, delta: Array, leaf: Leaf) -> Array:
        return delta * jnp.asarray(self.factor).astype(delta.dtype)


@pytree
class ScalarControl:
    """What a chain of transforms does to the norm of a delta, and nothing else.

        y = x ||f(x)||_2 / ||x||_2

    with f the chain. A gain that is claimed for the shape of f has to beat it: most of
    what sparsify-and-amplify methods do at usual densities is this scalar.

    Attributes:
      transforms: the chain; transform i sees the key that it would see in a merger.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxmerge._types import Leaf
      >>> ScalarControl((Scale(3.0),))(jnp.array([1.0, -2.0]), Leaf())
      Array([ 3., -6.], dtype=float32)
    """

    transforms: tuple[Any, ...] = ()

    def bind(self, size: int) -> "ScalarControl":
        return dataclasses.replace(
            self,
            transforms=tuple(
                transform.bind(size) if hasattr(transform, "bind") else transform
                for transform in self.transforms
            ),
        )

    def __call__(self, delta: Array, leaf: Leaf) -> Array:
        changed = delta
        for i, transform in enumerate(self.transforms):
            key = None if leaf.key is None else jax.random.fold_in(leaf.key, i)
            changed = transform(changed, dataclasses.replace(leaf, key=key))
        own = norm(delta, "l2")
        return delta * divide(norm(changed, "l2"), jnp.where(own > 0, own, 1.0))

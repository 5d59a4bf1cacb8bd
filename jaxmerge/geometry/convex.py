"""What a convex set is here: its support function.

    h_S(g) = max_{x in S} <g, x>

Everything else follows. The gradient of h is the point of S that lies farthest along g;
the Gaussian width is the mean of h over normal g; sums, hulls and linear images of sets
are sums, maxima and compositions of support functions, exactly.
"""

import abc
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Real = Float[Array, ""]
if TYPE_CHECKING:
    Data = Array
    Number = float | Array
else:
    # JAX unflattens registered dataclasses with placeholders in the data fields, so no
    # run-time type checker may look at them.
    Data = Any
    Number = Any


def norm(x: Array) -> Real:
    """The Euclidean norm of all entries, with gradient zero at zero."""
    square = jnp.sum(x * x)
    some = square > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)


class ConvexSet(abc.ABC):
    """A compact convex set; the base class of all of them.

    Attributes:
      shape: of its points.
      radius: an upper bound on the norm of its points, the least one where that is
        known.
      extreme: whether the support function picks a few coordinates out of all, so that
        the tails of the normal numbers matter.
    """

    extreme = False

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]: ...

    @property
    @abc.abstractmethod
    def radius(self) -> Any: ...

    @abc.abstractmethod
    def _support(self, g: Array) -> Real: ...

    def support(self, g: Array) -> Real:
        """The support function.

        Args:
          g: a direction, of the set's shape.

        Raises:
          ValueError: if g has another shape.
        """
        if jnp.shape(g) != self.shape:
            raise ValueError(
                f"{type(self).__name__} holds points of shape {self.shape}; "
                f"the direction has shape {jnp.shape(g)}"
            )
        return self._support(g)

    def support_point(self, g: Array) -> Array:
        """A point of the set that lies farthest along g: a gradient of `support`.

        Where several do, it is one of them or a mean of them.
        """
        return jax.grad(self.support)(g)

    @property
    def size(self) -> int:
        """The dimension of the space."""
        return math.prod(self.shape)

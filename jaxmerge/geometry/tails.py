"""How heavy the tails of a vector are: moments about zero, and mass in the tails.

Moments are sums over coordinates, so a vector the size of a model is measured a leaf or
a piece at a time: `TailSums` is the accumulator, everything else reads it. All moments
are about zero, as a delta of zero is no change.

Moments tell little about a power law: with an infinite fourth moment the kurtosis of a
sample is as large as the sample lets it be. `hill` looks at the largest magnitudes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxmerge._types import pytree
from jaxmerge.geometry.convex import Data

_POWERS = (0, 1, 2, 4)


def compensated(total: Array, lost: Array, part: Array) -> tuple[Array, Array]:
    """Neumaier's addition: the sum, and what rounding has left out of it so far."""
    # The barrier keeps compilers from simplifying the rounding error to zero.
    new = lax.optimization_barrier(total + part)
    larger = jnp.abs(total) >= jnp.abs(part)
    return new, lost + jnp.where(larger, (total - new) + part, (part - new) + total)


def _ratio(a: Array, b: Array) -> Array:
    """`a / b`, and 0 where b is 0."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1.0), 0.0)


def _power_of_two(largest: Array) -> Array:
    """A power of two within a factor of two below a magnitude; the least one for 0."""
    tiny = float(jnp.finfo(largest.dtype).tiny)
    mantissa, _ = jnp.frexp(jnp.maximum(lax.stop_gradient(largest), tiny))
    return jnp.maximum(largest, tiny) / (2 * mantissa)


@pytree
class TailSums:
    """Sums of powers of magnitudes, which grow piece by piece.

    Magnitudes are taken relative to a power of two near the largest, so that no fourth
    power over- or underflows; additions are compensated.

    Attributes:
      unit: the power of two; it grows with the largest magnitude.
      total: how many elements, and the sums of |x|, x^2 and x^4 in that unit.
      lost: to be added to them.

    Example:
      >>> import jax.numpy as jnp
      >>> sums = TailSums.zero().add(jnp.array([3.0, -4.0])).add(jnp.zeros((2, 2)))
      >>> float(sums.count), float(sums.l1_norm), float(sums.l2_norm)
      (6.0, 7.0, 5.0)
    """

    unit: Data
    total: Data
    lost: Data

    @classmethod
    def zero(cls, dtype: Any = jnp.float32) -> "TailSums":
        """The sums of nothing."""
        zeros = jnp.zeros(len(_POWERS), dtype)
        return cls(_power_of_two(jnp.zeros((), dtype)), zeros, zeros)

    def _in_unit(self, unit: Array) -> "TailSums":
        shrink = self.unit / unit
        factors = jnp.stack([shrink**p for p in _POWERS])
        return TailSums(unit, self.total * factors, self.lost * factors)

    def add(self, x: Array) -> "TailSums":
        """The sums with a tensor's elements added.

        Args:
          x: floats of any shape.

        Raises:
          TypeError: for integers.
        """
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(
                f"the tails of floats are measured, not of {x.dtype}; leave the leaf "
                "out, or convert it"
            )
        magnitudes = jnp.abs(x.astype(self.total.dtype))
        largest = jnp.max(magnitudes, initial=0.0)
        unit = jnp.maximum(self.unit, _power_of_two(largest))
        z = magnitudes / unit
        square = z * z
        sums = [jnp.sum(z), jnp.sum(square), jnp.sum(square * square)]
        size = np.float32(x.size)  # with its remainder: more than 2^24 is not exact
        rest = jnp.zeros_like(self.lost).at[0].set(x.size - int(size))
        part = jnp.stack([jnp.full_like(sums[0], size), *sums])
        here = self._in_unit(unit)
        return TailSums(unit, *compensated(here.total, here.lost + rest, part))

    def join(self, other: "TailSums") -> "TailSums":
        """The sums of both; pieces may be summed anywhere and joined."""
        unit = jnp.maximum(self.unit, other.unit)
        a, b = self._in_unit(unit), other._in_unit(unit)
        return TailSums(unit, *compensated(a.total, a.lost + b.lost, b.total))

    @property
    def _sums(self) -> tuple[Array, ...]:
        sums = self.total + self.lost
        return tuple(sums[..., i] for i in range(len(_POWERS)))

    @property
    def count(self) -> Array:
        """How many elements there are, zeros included."""
        return self._sums[0]

    @property
    def l1_norm(self) -> Array:
        """The sum of magnitudes."""
        return self.unit * self._sums[1]

    @property
    def l2_norm(self) -> Array:
        """The Euclidean norm."""
        return self.unit * jnp.sqrt(self._sums[2])

    @property
    def root_mean_square(self) -> Array:
        """The Euclidean norm over the root of the dimension."""
        count, _, square, _ = self._sums
        return self.unit * jnp.sqrt(_ratio(square, count))

    @property
    def kurtosis(self) -> Array:
        """`d sum x^4 / (sum x^2)^2`: 3 for normal numbers, 1 if |x| is constant."""
        count, _, square, fourth = self._sums
        return _ratio(count * fourth, square * square)

    @property
    def participation_ratio(self) -> Array:
        """`(sum x^2)^2 / (d sum x^4)`, the reciprocal of the kurtosis."""
        count, _, square, fourth = self._sums
        return _ratio(square * square, count * fourth)

    @property
    def sparsity_ratio(self) -> Array:
        """`(sum |x|)^2 / (d sum x^2)`: 2 / pi for normal numbers, 1 / d for a spike."""
        count, absolute, square, _ = self._sums
        return _ratio(absolute * absolute, count * square)


def float_leaves(tree: PyTree) -> list[Array]:
    """The leaves as arrays, at least one."""
    leaves = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = jnp.asarray(leaf)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            name = jax.tree_util.keystr(path) or "the vector"
            raise TypeError(
                f"{name} is {array.dtype}; the tails of floats are measured, leave "
                "other leaves out"
            )
        leaves.append(array)
    if not leaves:
        raise ValueError("the tree has no leaves, and so no tails; give a vector")
    return leaves


def tail_sums(tree: PyTree) -> TailSums:
    """The sums over all leaves of a tree; in float64 if a leaf is, else in float32.

    Args:
      tree: of floats.

    Raises:
      TypeError: if a leaf has no floats.
      ValueError: if there is no leaf.
    """
    leaves = float_leaves(tree)
    wide = any(leaf.dtype == jnp.float64 for leaf in leaves)
    sums = TailSums.zero(jnp.float64 if wide else jnp.float32)
    for leaf in leaves:
        sums = sums.add(leaf)
    return sums


def kurtosis(tree: PyTree) -> Float[Array, ""]:
    r"""The fourth moment in units of the second, about zero.

        d sum x^4 / (sum x^2)^2

    Args:
      tree: an array or a tree of floats.

    Returns:
      From 1 (constant magnitudes) to d (a single spike); 3 for normal numbers; 0 for
      zeros.

    Example:
      >>> import jax.numpy as jnp
      >>> float(kurtosis({"a": jnp.array([1.0, -1.0]), "b": jnp.zeros(2)}))
      2.0
    """
    return tail_sums(tree).kurtosis


def participation_ratio(tree: PyTree) -> Float[Array, ""]:
    r"""The share of coordinates that carry a vector; the reciprocal of the kurtosis.

        (sum x^2)^2 / (d sum x^4)

    Args:
      tree: an array or a tree of floats.

    Returns:
      From 1/d to 1; 1/3 for normal numbers; 0 for zeros.

    Example:
      >>> import jax.numpy as jnp
      >>> float(participation_ratio(jnp.array([0.0, 2.0, -2.0, 0.0])))
      0.5
    """
    return tail_sums(tree).participation_ratio


def sparsity_ratio(tree: PyTree) -> Float[Array, ""]:
    r"""How flat magnitudes are, by their two norms.

        (|x|_1 / |x|_2)^2 / d

    Its root times sqrt(2/pi) is the width of the vector's box at unit norm, over
    sqrt(d).

    Args:
      tree: an array or a tree of floats.

    Returns:
      From 1/d to 1; 2/pi for normal numbers; 0 for zeros.

    Example:
      >>> import jax.numpy as jnp
      >>> float(sparsity_ratio(jnp.array([0.0, 2.0, -2.0, 0.0])))
      0.5
    """
    return tail_sums(tree).sparsity_ratio


def tail_mass(
    tree: PyTree, multiples: Any, *, reference: PyTree | None = None
) -> Float[Array, "..."]:
    r"""The share of coordinates beyond multiples of a root mean square.

        |{j : |x_j| > m rms(reference)}| / d

    With the vector before a map as the reference, it is the absolute tail mass after
    it, which amplifying alone makes larger; with the vector itself, a measure of shape.

    Args:
      tree: an array or a tree of floats.
      multiples: m, a number or an array of them.
      reference: whose root mean square is the unit; the tree itself if None.

    Returns:
      Shares, of the shape of `multiples`.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([0.0, 0.0, 0.0, 2.0])
      >>> tail_mass(x, jnp.array([1.0, 3.0])).tolist()
      [0.25, 0.0]
      >>> float(tail_mass(4 * x, 3.0, reference=x))
      0.25
    """
    unit = tail_sums(tree if reference is None else reference).root_mean_square
    shape = jnp.shape(multiples)
    limits = jnp.asarray(multiples).astype(unit.dtype).reshape(-1) * unit
    leaves = float_leaves(tree)
    size = max(sum(leaf.size for leaf in leaves), 1)
    total = lost = jnp.zeros_like(limits)
    for leaf in leaves:
        magnitudes = jnp.abs(leaf.astype(unit.dtype))
        share = lambda limit, m=magnitudes: jnp.sum((m > limit).astype(m.dtype)) / size
        total, lost = compensated(total, lost, lax.map(share, limits))
    return (total + lost).reshape(shape)

"""What a reparameterization of task vectors covers, against what it keeps of them.

Four sets that experts span, of increasing freedom, and their Gaussian widths: the hull
of the experts (mixing whole experts), the box of one (masking and flipping its
coordinates), the box of all (at each coordinate the largest of any expert), and the
cross-polytope of one (editing a single coordinate).

Every width is homogeneous: doubling a vector doubles its width. So a map that amplifies
seems to cover more, whatever its shape. `compare` measures each map beside its scalar
control, the same vectors times the number that gives them the map's norm.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import erfc
from jaxtyping import Array, Float, PyTree

from jaxmerge._types import PRNGKey, pytree
from jaxmerge.geometry.convex import Data
from jaxmerge.geometry.estimate import Estimate
from jaxmerge.geometry.gram import GramSum, cosines
from jaxmerge.geometry.spans import Hull
from jaxmerge.geometry.tails import TailSums, compensated
from jaxmerge.geometry.widths import gaussian_width
from jaxmerge.histograms import high_histogram

_HALF_NORMAL = math.sqrt(2 / math.pi)
_OCTAVE = 128  # magnitudes with equal sixteen high bits are within 1/128
_BINS = 24 * _OCTAVE + 1  # what is 2^-24 of the largest adds nothing to a maximum
_NODES = np.polynomial.legendre.leggauss(8)
_PIECES, _END = 24, 9.5


def largest_product(histogram: Float[Array, "65536"]) -> Float[Array, ""]:
    r"""The mean of the largest `a_j |g_j|`: the width of a weighted cross-polytope.

        E max_j a_j |g_j| = int_0^inf 1 - prod_j erf(t / (a_j sqrt(2))) dt

    Args:
      histogram: how many weights a have each value of the high sixteen bits, as
        `histograms.high_histogram` counts them. The width is exact to 0.4 %, which is
        how far a weight is from the middle of its bin at most.
    """
    some = histogram > 0
    top = jnp.max(jnp.where(some, jnp.arange(histogram.size), 0))
    first = jnp.maximum(top + 1 - _BINS, 1)  # zeros, in bin 0, add nothing
    counts = lax.dynamic_slice(histogram, (first,), (_BINS,))
    bits = (first + jnp.arange(_BINS)).astype(jnp.uint32) << np.uint32(16)
    weights = lax.bitcast_convert_type(bits | np.uint32(1 << 15), jnp.float32)
    unit = lax.bitcast_convert_type(top.astype(jnp.uint32) << np.uint32(16), np.float32)
    unit = jnp.where(unit > 0, unit, 1.0)
    relative = jnp.where(counts > 0, weights / unit, 1.0)

    half = _END / _PIECES / 2
    centers = half * (2 * np.arange(_PIECES)[:, None] + 1)
    nodes = jnp.asarray((centers + half * _NODES[0]).ravel(), jnp.float32)
    measure = jnp.asarray(np.tile(half * _NODES[1], _PIECES), jnp.float32)

    def outside(t: Array) -> Array:
        beyond = erfc(t / relative * np.float32(math.sqrt(0.5)))
        return -jnp.expm1(
            jnp.sum(jnp.where(counts > 0, counts, 0) * jnp.log1p(-beyond))
        )

    width = unit * jnp.sum(measure * lax.map(outside, nodes, batch_size=16))
    return jnp.where(top > 0, width, 0.0)


@pytree
class Coverage:
    """Gaussian widths of what T task vectors of d entries span.

    Attributes:
      dimension: d.
      norm: the root mean square of the vectors' Euclidean norms.
      gram: the vectors' Gram matrix.
      hull: of their convex hull; it knows the vectors by their Gram matrix only.
      box: of a vector with any signs and masks, `sqrt(2/pi) |x|_1`; the mean.
      union_box: of the box of all, `sqrt(2/pi) sum_j max_t |x_tj|`.
      cross_polytope: of `conv{+-x_j e_j}`, `E max_j |x_j g_j|`; the mean.
    """

    dimension: Data
    norm: Data
    gram: Data
    hull: Estimate
    box: Data
    union_box: Data
    cross_polytope: Data

    @property
    def cosine(self) -> Float[Array, ""]:
        """The mean cosine between two of the vectors; 0 for one."""
        num = self.gram.shape[0]
        between = jnp.sum(cosines(self.gram)) - num
        return between / max(num * (num - 1), 1)

    @property
    def expected_maximum(self) -> Float[Array, ""]:
        """The mean over coordinates of `max_t |x_tj|`, at root mean square 1.

        At most `T / sqrt(2 T - 1)` for independent experts of one law.
        """
        return self.normalized().union_box / _HALF_NORMAL

    def normalized(self) -> "Coverage":
        """At unit norm, in units that do not grow with d.

        Boxes are divided by the norm and sqrt(d), the hull by the norm; the
        cross-polytope is divided by the norm and multiplied by sqrt(d).
        """
        unit = jnp.where(self.norm > 0, 1 / jnp.where(self.norm > 0, self.norm, 1), 0)
        root = jnp.sqrt(self.dimension)
        return Coverage(
            self.dimension,
            self.norm * unit,
            self.gram * jnp.square(unit),
            self.hull * unit,
            self.box * unit / root,
            self.union_box * unit / root,
            self.cross_polytope * unit * root,
        )


@pytree
class CoverageSums:
    """What coverage is computed from, as sums over coordinates.

    Attributes:
      gram: the sum for the Gram matrix.
      experts: each vector's tail sums.
      largest: the tail sums of `max_t |x_tj|`.
      histogram: of each vector's magnitudes.
    """

    gram: GramSum
    experts: TailSums
    largest: TailSums
    histogram: Data

    @classmethod
    def zero(cls, num: int) -> "CoverageSums":
        """The empty sums for `num` vectors."""
        empty = TailSums.zero()
        return cls(
            GramSum.zero(num),
            jax.tree.map(lambda x: jnp.broadcast_to(x, (num, *x.shape)), empty),
            empty,
            jnp.zeros((num, 1 << 16)),
        )

    def add(self, rows: Float[Array, "T *shape"]) -> "CoverageSums":
        """The sums with some coordinates of all vectors added.

        Args:
          rows: a stacked leaf, or a piece of one, with fewer than 2^32 elements a
            vector.
        """
        flat = rows.reshape(rows.shape[0], -1).astype(jnp.float32)
        counts = lax.map(high_histogram, flat)
        return CoverageSums(
            self.gram.add(flat),
            jax.vmap(TailSums.add)(self.experts, flat),
            self.largest.add(jnp.max(jnp.abs(flat), axis=0)),
            self.histogram + counts.astype(jnp.float32),
        )

    def coverage(self, *, key: PRNGKey, num_samples: int) -> Coverage:
        """The widths.

        Args:
          key: a typed key, for the hull.
          num_samples: how many directions the hull is seen from, at least two.
        """
        gram, norms = self.gram.value, self.experts.l2_norm
        hull = Hull.from_gram(gram)
        polytopes = lax.map(largest_product, self.histogram)
        return Coverage(
            dimension=self.largest.count,
            norm=jnp.sqrt(jnp.mean(jnp.square(norms))),
            gram=gram,
            hull=gaussian_width(hull, key=key, num_samples=num_samples),
            box=_HALF_NORMAL * jnp.mean(self.experts.l1_norm),
            union_box=_HALF_NORMAL * self.largest.l1_norm,
            cross_polytope=jnp.mean(polytopes),
        )


def _stacked(experts: Sequence[PyTree] | Array) -> list[Array]:
    """The leaves of all experts, each with a leading axis of experts."""
    if isinstance(experts, jax.Array):
        return [experts]
    if not experts:
        raise ValueError("no experts were given; coverage needs at least one")
    trees = [jax.tree_util.tree_flatten_with_path(tree)[0] for tree in experts]
    stacked = []
    for leaves in zip(*trees, strict=True):
        shapes = {jnp.shape(leaf) for _, leaf in leaves}
        if len(shapes) > 1:
            path = jax.tree_util.keystr(leaves[0][0])
            raise ValueError(f"{path} has shapes {sorted(shapes)}; expected one shape")
        stacked.append(jnp.stack([jnp.asarray(leaf) for _, leaf in leaves]))
    return stacked


def coverage(
    experts: Sequence[PyTree] | Array, *, key: PRNGKey, num_samples: int
) -> Coverage:
    """The Gaussian widths of what task vectors span.

    Args:
      experts: T task vectors, trees of floats of one structure; or their rows, an
        array `(T, d)`. For vectors that do not fit in memory add their pieces to
        `CoverageSums`.
      key: a typed key, for the hull.
      num_samples: how many directions the hull is seen from, at least two.

    Raises:
      ValueError: with no experts, or if a leaf's shapes differ.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> rows = jnp.array([[3.0, 0.0], [0.0, 4.0]])
      >>> found = coverage(rows, key=jax.random.key(0), num_samples=2)
      >>> round(float(found.union_box), 3), round(float(found.box), 3)
      (5.585, 2.793)
    """
    leaves = _stacked(experts)
    sums = CoverageSums.zero(leaves[0].shape[0])
    for rows in leaves:
        sums = sums.add(rows)
    return sums.coverage(key=key, num_samples=num_samples)


@pytree
class Comparison:
    """A map of task vectors beside a scalar that changes their norms as much.

    Attributes:
      coverage: after the map.
      control: of the vectors before the map, each times a number such that its norm is
        as after it. Only what exceeds it is an effect of the map's shape.
      fidelity: the cosine of each vector with itself before the map, `(T,)`.
      norm_ratio: its norm after over before, `(T,)`; 0 for zeros.
      kurtosis: after the map, `(T,)`.
      participation_ratio: after the map, `(T,)`.
    """

    coverage: Coverage
    control: Coverage
    fidelity: Data
    norm_ratio: Data
    kurtosis: Data
    participation_ratio: Data


def _compare(
    transform: Callable[[Any, Any], Array], leaves: list[Array], **sampling: Any
) -> Comparison:
    num = leaves[0].shape[0]
    after = control = CoverageSums.zero(num)
    before = after.experts
    product = lost = jnp.zeros(num)
    for rows in leaves:
        changed = lax.map(lambda x: transform(*x), (rows, jnp.arange(num)))
        axes = tuple(range(1, rows.ndim))
        products = rows.astype(jnp.float32) * changed.astype(jnp.float32)
        product, lost = compensated(product, lost, jnp.sum(products, axis=axes))
        before = jax.vmap(TailSums.add)(before, rows)
        after = after.add(changed)
    norms, changed_norms = before.l2_norm, after.experts.l2_norm
    some = norms > 0
    ratio = jnp.where(some, changed_norms / jnp.where(some, norms, 1.0), 0.0)
    for rows in leaves:
        factors = ratio.reshape(-1, *(1,) * (rows.ndim - 1))
        control = control.add(rows.astype(jnp.float32) * factors)
    both = norms * changed_norms
    cosine = jnp.where(both > 0, (product + lost) / jnp.where(both > 0, both, 1), 0)
    return Comparison(
        after.coverage(**sampling),
        control.coverage(**sampling),
        fidelity=cosine,
        norm_ratio=ratio,
        kurtosis=after.experts.kurtosis,
        participation_ratio=after.experts.participation_ratio,
    )


def compare(
    transforms: Mapping[str, Callable[[Any, Any], Array]],
    experts: Sequence[PyTree] | Array,
    *,
    key: PRNGKey,
    num_samples: int,
) -> dict[str, Comparison]:
    """Coverage, fidelity and tails of maps of task vectors, each beside its control.

    Args:
      transforms: by name, functions of a leaf of one expert's delta and the expert's
        position (to draw random numbers of its own: `fold_in(key, t)`), traced once.
      experts: as for `coverage`.
      key: a typed key, for the hulls; the same directions for all.
      num_samples: how many directions the hulls are seen from, at least two.

    Raises:
      ValueError: with no experts, or if a leaf's shapes differ.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> rows = jax.random.normal(jax.random.key(0), (4, 500))
      >>> maps = {"double": lambda delta, t: 2 * delta}
      >>> one = compare(maps, rows, key=jax.random.key(1), num_samples=2)["double"]
      >>> float(one.coverage.union_box - one.control.union_box)
      0.0
    """
    leaves = _stacked(experts)
    return {
        name: _compare(transform, leaves, key=key, num_samples=num_samples)
        for name, transform in transforms.items()
    }

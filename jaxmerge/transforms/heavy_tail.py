"""Heavy-tailed reparameterizations: a delta's magnitudes moved to another law.

Every map here is odd, keeps the order of magnitudes, maps 0 to 0, and commutes with
scaling, f(c x) = c f(x). With `match` it also keeps the delta's norm, so that its
effect is one of shape alone: widths and every linear measure of reach are homogeneous,
and a map that only amplifies is compared fairly with `ScalarControl`.

Parameters are coefficients: one compiled program sweeps them.

References:
  The reparameterizations, the coverage they buy and the optimal one are
  reconstructions: the papers on heavy-tailed merging publish sparsify-and-amplify,
  `TrimRescale`, alone.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._types import Coef, Leaf, coefficient, pytree, static
from jaxmerge.transforms._domains import check_each
from jaxmerge.transforms.quantiles import (
    LAST,
    extended,
    log_survival,
    median_magnitude,
    stable_quantile,
    standardize,
    student_quantile,
)
from jaxmerge.transforms.rescale import divide, match_norm
from jaxmerge.transforms.sparsify import KeepLargest

_MEDIAN = 0.6744897501960817


def _reshape(
    delta: Array, shape: Callable[[Array], Array], scale: str, match: str
) -> Array:
    """`sign(x) unit shape(|x| / unit)`, at the norm of x."""
    z, unit = standardize(delta, scale)
    return match_norm(jnp.sign(delta) * unit * extended(shape, z), delta, match)


def _like(value: Coef, z: Array) -> Array:
    return jnp.asarray(value).astype(z.dtype)


@pytree
class TrimRescale:
    """Keeps the entries of largest magnitude and restores the delta's norm.

        y = m x ||x|| / ||m x||,    m the mask of the floor(density n) largest

    With `match="density"` it is the sparsify-and-amplify step of RHT. The shape is that
    of a trimmed normal law: kurtosis 3.1 at density 0.7, 6.4 at 0.2, 11.6 at 0.1.

    Attributes:
      density: the share that is kept, in (0, 1].
      count: how many entries are kept; set by `bind`.
      match: the norm that is restored, `"l2"` or `"l1"`; `"density"` divides by the
        density; `"none"`.

    Example:
      >>> import jax.numpy as jnp
      >>> TrimRescale(0.5)(jnp.array([3.0, 4.0]), Leaf())
      Array([0., 5.], dtype=float32)
    """

    density: Coef = coefficient(default=1.0)
    count: Coef = coefficient(default=None)
    match: str = static(default="l2")

    def bind(self, size: int) -> "TrimRescale":
        bound = KeepLargest(self.density).bind(size)
        return dataclasses.replace(self, count=bound.count)

    def __call__(self, delta: Array, leaf: Leaf) -> Array:
        by_density = self.match == "density"
        trim = KeepLargest(
            self.density, count=self.count, rescale="density" if by_density else "none"
        )
        return match_norm(
            trim(delta, leaf), delta, "none" if by_density else self.match
        )


@pytree
class StudentTail:
    """Gives a delta of normal shape the quantiles of Student's t.

        y = sign(x) unit t_nu^-1(Phi(|x| / unit))

    Attributes:
      degrees_of_freedom: nu, at least 1 (a smaller traced one is as 1); moments of
        order nu and more grow with the tensor. Infinity is the identity.
        Differentiable.
      scale: the unit: `"robust"`, `"rms"`, or `"rank"`; see `quantiles.standardize`.
        Where all experts have a few outliers in common, only `"rank"` keeps them from
        growing without bound and aligning the experts.
      match: the norm that is restored, `"l2"`, `"l1"` or `"none"`.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([-2.0, -1.0, 0.0, 1.0, 2.0])
      >>> StudentTail(3.0)(x, Leaf()).round(2)
      Array([-2.05, -0.89,  0.  ,  0.89,  2.05], dtype=float32)
    """

    degrees_of_freedom: Coef = coefficient(default=3.0)
    scale: str = static(default="robust")
    match: str = static(default="l2")

    def shape(self, z: Array) -> Array:
        return student_quantile(z, self.degrees_of_freedom)

    def __call__(self, delta: Array, leaf: Leaf) -> Array:
        check_each(
            self.degrees_of_freedom,
            "degrees_of_freedom",
            lambda nu: nu >= 1,
            "a number of at least 1",
        )
        return _reshape(delta, self.shape, self.scale, self.match)


@pytree
class SignedPower:
    """Raises magnitudes to a power.

        y = sign(x) |x|^power

    Powers compose: power p after power q is power p q. At zeros the gradient is 0, also
    for powers below 1.

    Attributes:
      power: above 0; above 1 makes tails heavier. Differentiable.
      match: the norm that is restored, `"l2"` or `"l1"`; `"none"` restores the largest
        magnitude.

    Example:
      >>> import jax.numpy as jnp
      >>> SignedPower(2.0, match="none")(jnp.array([-1.0, 4.0]), Leaf())
      Array([-0.25,  4.  ], dtype=float32)
    """

    power: Coef = coefficient(default=2.0)
    match: str = static(default="l2")

    def shape(self, z: Array) -> Array:
        positive = z > 0
        powers = jnp.power(jnp.where(positive, z, 1.0), _like(self.power, z))
        return jnp.where(positive, powers, 0.0)

    def __call__(self, delta: Array, leaf: Leaf) -> Array:
        check_each(self.power, "power", lambda p: p > 0, "a number above 0")
        magnitudes = jnp.abs(delta)
        unit = jnp.max(magnitudes, initial=0.0)
        unit = jnp.where(unit > 0, unit, 1.0)
        y = jnp.sign(delta) * unit * self.shape(divide(magnitudes, unit))
        return match_norm(y, delta, self.match)


@pytree
class TukeyH:
    """Stretches magnitudes as Tukey's h distribution does.

        y = sign(x) unit z exp(h z^2 / 2),    z = |x| / unit

    The moment of order k of a normal delta stays finite if h < 1 / k.

    Attributes:
      h: from 0, the identity, to 1. Differentiable.
      scale: the unit: `"robust"`, `"rms"`, or `"rank"`; see `quantiles.standardize`.
      match: the norm that is restored, `"l2"`, `"l1"` or `"none"`.

    References:
      Goerg, The Lambert Way to Gaussianize Heavy-Tailed Data with the Inverse of
      Tukey's h Transformation as a Special Case, 2015, equation 5.
    """

    h: Coef = coefficient(default=0.2)
    scale: str = static(default="robust")
    match: str = static(default="l2")

    def shape(self, z: Array) -> Array:
        return z * jnp.exp(0.5 * _like(self.h, z) * jnp.square(z))

    def inverse(self) -> "TukeyHInverse":
        """Undoes this map up to the norm, if its scale is `"robust"`."""
        if self.scale != "robust":
            raise ValueError(
                f"TukeyH with scale={self.scale!r} has no inverse that knows its unit; "
                'use scale="robust"'
            )
        return TukeyHInverse(self.h, self.match)

    def __call__(self, delta: Array, leaf: Leaf) -> Array:
        check_each(self.h, "h", lambda h: (h >= 0) & (h <= 1), "a number in [0, 1]")
        return _reshape(delta, self.shape, self.scale, self.match)


@pytree
class TukeyHInverse:
    """Makes the tails of a delta lighter: the inverse of `TukeyH`.

        y = sign(x) unit z exp(-W(h z^2) / 2),    z = |x| / unit

    with W Lambert's function and the unit such that the median of y is that of a normal
    law of spread `unit`, which is the unit that `TukeyH` had.

    Attributes:
      h: from 0, the identity, to 1. Differentiable.
      match: the norm that is restored, `"l2"`, `"l1"` or `"none"`.

    References:
      Goerg, The Lambert Way to Gaussianize Heavy-Tailed Data with the Inverse of
      Tukey's h Transformation as a Special Case, 2015, equation 6.
    """

    h: Coef = coefficient(default=0.2)
    match: str = static(default="l2")

    def shape(self, z: Array) -> Array:
        h = _like(self.h, z)
        # Beyond LAST the map of TukeyH is a line, and so is its inverse.
        w = jnp.minimum(_lambert(h * jnp.square(z)), h * LAST**2)
        return z * jnp.exp(-0.5 * w)

    def __call__(self, delta: Array, leaf: Leaf) -> Array:
        check_each(self.h, "h", lambda h: (h >= 0) & (h <= 1), "a number in [0, 1]")
        stretched = _MEDIAN * jnp.exp(0.5 * _MEDIAN**2 * _like(self.h, delta))
        median = median_magnitude(delta) if delta.size else jnp.ones_like(stretched)
        _, rms = standardize(delta, "rms")
        unit = jnp.where(median > 0, median / stretched, rms)
        y = jnp.sign(delta) * unit * self.shape(divide(jnp.abs(delta), unit))
        return match_norm(y, delta, self.match)


def _lambert(q: Array) -> Array:
    """Lambert's W for q >= 0, the solution of w exp(w) = q, by Halley's method."""
    log_q = jnp.log(jnp.where(q > 1, q, 2.0))
    w = jnp.where(q > 3, log_q - jnp.log(jnp.maximum(log_q, 0.5)), jnp.log1p(q))
    for _ in range(6):
        # f = w - q exp(-w), whose terms do not overflow.
        scaled = q * jnp.exp(-w)
        step = (w - scaled) / (1.0 + w)
        w = w - step / (1.0 - 0.5 * step * (w + 2.0) / (1.0 + w))
    return w


@pytree
class ParetoTail:
    """Gives a delta of normal shape the quantiles of a Pareto law.

        y = sign(x) unit ((1 - u)^(-1 / alpha) - 1),    u = P(|N(0, 1)| < |x| / unit)

    Attributes:
      alpha: the tail's exponent, at least 0.5; moments of order alpha and more grow
        with the tensor. Differentiable.
      kind: `"lomax"`, as above, continuous at 0; `"pareto"` without the `- 1`: no
        magnitudes near 0, a jump at 0, and 0 itself to 0.
      scale: the unit: `"robust"`, `"rms"`, or `"rank"`; see `quantiles.standardize`.
      match: the norm that is restored, `"l2"`, `"l1"` or `"none"`.
    """

    alpha: Coef = coefficient(default=3.0)
    kind: str = static(default="lomax")
    scale: str = static(default="robust")
    match: str = static(default="l2")

    def shape(self, z: Array) -> Array:
        if self.kind not in ("lomax", "pareto"):
            raise ValueError(f'kind is {self.kind!r}; expected "lomax" or "pareto"')
        log_magnitude = -log_survival(z) / _like(self.alpha, z)
        return (
            jnp.exp(log_magnitude)
            if self.kind == "pareto"
            else jnp.expm1(log_magnitude)
        )

    def __call__(self, delta: Array, leaf: Leaf) -> Array:
        check_each(self.alpha, "alpha", lambda a: a >= 0.5, "a number of at least 0.5")
        return _reshape(delta, self.shape, self.scale, self.match)


@pytree
class LaplaceTail:
    """Gives a delta of normal shape the quantiles of Laplace's law.

        y = -sign(x) unit log(1 - u),    u = P(|N(0, 1)| < |x| / unit)

    Attributes:
      scale: the unit: `"robust"`, `"rms"`, or `"rank"`; see `quantiles.standardize`.
      match: the norm that is restored, `"l2"`, `"l1"` or `"none"`.
    """

    scale: str = static(default="robust")
    match: str = static(default="l2")

    def shape(self, z: Array) -> Array:
        return -log_survival(z)

    def __call__(self, delta: Array, leaf: Leaf) -> Array:
        return _reshape(delta, self.shape, self.scale, self.match)


@pytree
class AlphaStableTail:
    """Gives a delta of normal shape the quantiles of a symmetric stable law.

        y = sign(x) unit q(u),    log E exp(i t q) = -|t|^alpha

    Attributes:
      alpha: the exponent: 1 (Cauchy), or from 1.01 to 2 (normal). Static, with a table
        built on the host for each value: far quantiles depend on it without smoothness
        near 2.
      scale: the unit: `"robust"`, `"rms"`, or `"rank"`; see `quantiles.standardize`.
      match: the norm that is restored, `"l2"`, `"l1"` or `"none"`.

    References:
      Zolotarev, One-dimensional Stable Distributions, 1986, theorem 2.2.3.
    """

    alpha: float = static(default=1.5)
    scale: str = static(default="robust")
    match: str = static(default="l2")

    def shape(self, z: Array) -> Array:
        return stable_quantile(z, self.alpha)

    def __call__(self, delta: Array, leaf: Leaf) -> Array:
        check_each(
            self.alpha,
            "alpha",
            lambda a: (a == 1) | ((a >= 1.01) & (a <= 2)),
            "1, or a number in [1.01, 2]",
        )
        return _reshape(delta, self.shape, self.scale, self.match)


@pytree
class CoverageOptimal:
    """The shape of given norm whose largest of T draws is largest in expectation.

        y = sign(x) unit sqrt(2 T - 1) u^(T - 1),    u = P(|N(0, 1)| < |x| / unit)

    By Cauchy-Schwarz, among magnitudes of unit mean square E max of T independent ones
    is at most T / sqrt(2 T - 1), which these attain: their tails end, with kurtosis
    about T. It covers most of the box that T independent experts span; that is no claim
    on accuracy.

    Attributes:
      num_experts: T, at least 1; the merge's number of experts if None. Differentiable.
      scale: the unit: `"robust"`, `"rms"`, or `"rank"`; see `quantiles.standardize`.
      match: the norm that is restored, `"l2"`, `"l1"` or `"none"`.

    References:
      Hartley and David, Universal bounds for mean range and extreme observation, 1954.
      The use for merging is a reconstruction.
    """

    num_experts: Coef = coefficient(default=None)
    scale: str = static(default="robust")
    match: str = static(default="l2")

    def shape(self, z: Array) -> Array:
        t = _like(self.num_experts, z)
        survival = jnp.exp(log_survival(z))
        within = jnp.where(z > 0, 1.0 - survival, 1.0)
        small = jnp.where(survival < 0.5, survival, 0.0)
        log_u = jnp.where(survival < 0.5, jnp.log1p(-small), jnp.log(within))
        return jnp.where(
            z > 0, jnp.sqrt(2.0 * t - 1.0) * jnp.exp((t - 1.0) * log_u), 0.0
        )

    def __call__(self, delta: Array, leaf: Leaf) -> Array:
        num = leaf.num_experts if self.num_experts is None else self.num_experts
        check_each(num, "num_experts", lambda t: t >= 1, "a number of at least 1")
        shape = dataclasses.replace(self, num_experts=num).shape
        return _reshape(delta, shape, self.scale, self.match)

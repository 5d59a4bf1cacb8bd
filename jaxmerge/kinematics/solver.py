"""One solver for every threshold: where a nondecreasing function reaches zero.

A threshold is the number of experts T, taken as a real number, at which something that
grows with T (used codimension, covered dimension, missing gain) reaches its limit. The
upper end of the bracket is doubled until the sign changes, the bracket is bisected to
the last bit, and two Newton steps polish. Everything is branch-free, so it runs under
`jit` and `vmap`; derivatives come from the implicit function theorem,

    dT*/dp = - (df/dp) / (df/dT)    at    f(T*, p) = 0,

and so cost one evaluation, whatever the number of steps.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxmerge._types import pytree, static

Function = Callable[[Array, Any], Array]

# 2**64 experts are infinitely many; 100 halvings exhaust float64 from any bracket.
_DOUBLINGS = 64
_HALVINGS = 100


@pytree
class Threshold:
    """A number of experts, how well it is known, and which question it answers.

    Attributes:
      value: the threshold as a real number; inf where it is never reached (or not
        within the experts given), NaN where an input was.
      integer: the same as a whole number of experts, rounded as the definition says; in
        the dtype of `value`, because it may be inf.
      lower: lower end of an interval around `value`; what kind, the definition says.
      upper: its upper end.
      residual: what is left of the equation at `value`; at the largest T tried, where
        the threshold is infinite.
      converged: whether a finite threshold was found and its equation is not flat
        there; the derivatives of a flat one are infinite.
      definition: the question, by name.
      needed: what went in, and where each comes from.
    """

    value: Any
    integer: Any
    lower: Any
    upper: Any
    residual: Any
    converged: Any
    definition: str = static()
    needed: tuple[str, ...] = static()

    @property
    def saturated(self) -> Any:
        """Whether the threshold is finite, so that more experts than it are too many.

        Example:
          >>> t = Threshold(*map(jnp.asarray, (2.5, 2.0, 2.0, 3.0, 0.0, True)), "", ())
          >>> bool(t.saturated)
          True
        """
        return jnp.isfinite(self.value)


@pytree
class Root:
    """Where a function reaches zero.

    Attributes:
      value: the root; inf where there is none, NaN where the function is NaN.
      residual: the function's value there.
      converged: whether there is a root, and the function is not flat there.
    """

    value: Any
    residual: Any
    converged: Any


def _passed(function: Function, last: bool, count: Array, args: Any) -> Array:
    value = function(count, args)
    return value > 0 if last else value >= 0


# The loops' bodies are the same objects for the same function, so that calls outside of
# `jit` do not compile them anew.
@functools.lru_cache(maxsize=32)
def _steps(function: Function, last: bool) -> tuple[Callable, Callable]:
    def double(_: Any, state: tuple[Array, Array, Any]) -> tuple[Array, Array, Any]:
        """Doubles the upper end until it is past the root; the old end is the lower."""
        low, high, args = state
        past = _passed(function, last, high, args)
        return jnp.where(past, low, high), jnp.where(past, high, 2 * high), args

    def halve(_: Any, state: tuple[Array, Array, Any]) -> tuple[Array, Array, Any]:
        low, high, args = state
        middle = low + (high - low) / 2
        past = _passed(function, last, middle, args)
        return jnp.where(past, low, middle), jnp.where(past, middle, high), args

    return double, halve


def _newton(
    function: Callable[[Array], Array], root: Array, low: Array, high: Array
) -> Array:
    """One Newton step, kept where it stays in the bracket and does not do worse."""
    value, slope = jax.jvp(function, (root,), (jnp.ones_like(root),))
    step = root - value / jnp.where(slope > 0, slope, jnp.ones_like(slope))
    better = (slope > 0) & (step >= low) & (step <= high)
    return jnp.where(better & (jnp.abs(function(step)) <= jnp.abs(value)), step, root)


def monotone_root(
    function: Function,
    args: Any,
    *,
    lower: Any,
    upper: Any,
    last: bool = False,
) -> Root:
    """Where a nondecreasing function of one number reaches zero.

        T* = inf { T >= lower : f(T, args) >= 0 },    or, with `last`,
        T* = sup { T >= lower : f(T, args) <= 0 }

    The two differ only where f stays at zero for a while. If f is at or past zero at
    `lower`, then `lower` is the answer and does not depend on `args`.

    Args:
      function: takes an array of numbers T and `args`, returns f elementwise.
      args: a pytree; derivatives are taken with respect to it (of any order, forward
        and reverse), not to what `function` closes over.
      lower: lower end of the bracket, a float array of any shape.
      upper: a first guess of the upper end, of the same shape and dtype, larger; it is
        doubled up to 64 times.
      last: which end of a stretch of zeros is wanted.

    Returns:
      The root, with `value = inf` and `converged = False` where the sign never changes.
      A flat function has an infinite derivative at its root and `converged = False`.

    Example:
      >>> f = lambda t, a: a * t - 3.0
      >>> root = lambda a: monotone_root(
      ...     f, a, lower=jnp.zeros(()), upper=jnp.ones(())
      ... ).value
      >>> float(root(jnp.array(0.5))), float(jax.grad(root)(jnp.array(0.5)))
      (6.0, -12.0)
      >>> float(root(jnp.array(0.0)))
      inf
    """
    lower, upper = lax.stop_gradient((jnp.asarray(lower), jnp.asarray(upper)))
    frozen = lax.stop_gradient(args)

    def at(count: Array) -> Array:
        return function(count, frozen)

    double, halve = _steps(function, last)
    at_lower = _passed(function, last, lower, frozen)
    low, high, _ = lax.fori_loop(0, _DOUBLINGS, double, (lower, upper, frozen))
    found = _passed(function, last, high, frozen)
    largest = high
    low, high, _ = lax.fori_loop(0, _HALVINGS, halve, (low, high, frozen))
    root = low if last else high
    for _ in range(2):
        root = _newton(at, root, low, high)
    root = jnp.where(at_lower, lower, root)
    inside = found & ~at_lower

    def solve_tangent(linear: Callable[[Array], Array], tangent: Array) -> Array:
        # A constant (no root, or the lower end) has no derivative to propagate.
        slope = linear(jnp.ones_like(root))
        return tangent * jnp.where(inside, 1 / slope, jnp.zeros_like(slope))

    root = lax.custom_root(
        lambda count: function(count, args), root, lambda _, x: x, solve_tangent
    )
    _, slope = jax.jvp(at, (lax.stop_gradient(root),), (jnp.ones_like(root),))
    infinity = jnp.full_like(root, jnp.inf)
    value = jnp.where(found, root, infinity)
    residual = at(lax.stop_gradient(jnp.where(found, root, largest)))
    value = jnp.where(jnp.isnan(residual), jnp.full_like(root, jnp.nan), value)
    steep = (slope > 0) & jnp.isfinite(1 / slope)
    return Root(value, residual, found & (steep | at_lower) & jnp.isfinite(residual))


def _nearly_whole(value: Array) -> tuple[Array, Array]:
    whole = jnp.round(value)
    scale = jnp.maximum(jnp.abs(value), jnp.ones_like(value))
    near = jnp.abs(value - whole) <= 16 * jnp.finfo(value.dtype).eps * scale
    return whole, near | ~jnp.isfinite(value)


def whole_below(value: Array) -> Array:
    """The largest whole number of at most a value; rounding errors do not count.

    Example:
      >>> whole_below(jnp.array([7.77, 7.9999995, 8.0, jnp.inf]))
      Array([ 7.,  8.,  8., inf], dtype=float32)
    """
    whole, near = _nearly_whole(value)
    return lax.stop_gradient(jnp.where(near, whole, jnp.floor(value)))


def whole_above(value: Array) -> Array:
    """The smallest whole number of at least a value; rounding errors do not count.

    Example:
      >>> whole_above(jnp.array([7.23, 8.000001, 8.0, jnp.inf]))
      Array([ 8.,  8.,  8., inf], dtype=float32)
    """
    whole, near = _nearly_whole(value)
    return lax.stop_gradient(jnp.where(near, whole, jnp.ceil(value)))

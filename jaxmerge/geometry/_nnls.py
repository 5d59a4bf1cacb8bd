"""Nonnegative least squares in terms of a Gram matrix, with a certificate.

    min over a >= 0 of  a^T K a / 2 - b^T a

Rounds of accelerated projected gradient steps find which entries are positive; Newton
steps on those (the polish) are then exact up to rounding. A problem's last round is the
one after which the optimality conditions hold up to rounding, which is its certificate;
a batch of problems runs for as many rounds as its hardest one.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve
from jaxtyping import Array

from jaxmerge._types import pytree
from jaxmerge.geometry.convex import Data

_STEPS = 30  # gradient steps in a round
_ROUNDS = 40
_POLISHES = 3  # at the end of each
_ROUNDING = 1  # units of rounding that the certificate allows


@pytree
class NonnegativeSolution:
    """The solution of a nonnegative least squares problem.

    Attributes:
      coefficients: a, at least 0.
      certified: whether the value is within rounding of the optimum, by duality.
    """

    coefficients: Data
    certified: Data


def _times(matrix: Array, vector: Array) -> Array:
    return jnp.matmul(matrix, vector, precision=lax.Precision.HIGHEST)


def _newton_step(gram: Array, b: Array, a: Array, ridge: Array) -> Array:
    """To where the gradient on the positive entries of `a` vanishes.

    That is the nearest such point, up to a ridge, so that singular problems do not
    throw it far away; its derivatives are those of the solution.
    """
    free = a > 0
    block = jnp.where(free[:, None] & free[None, :], gram, 0.0)
    block = block + jnp.diag(jnp.where(free, ridge, 1.0))
    residual = jnp.where(free, b - _times(gram, a), 0.0)
    return cho_solve((jnp.linalg.cholesky(block), True), residual)


def _polish(gram: Array, b: Array, a: Array, ridge: Array) -> Array:
    """A few Newton steps, each as far as no entry becomes negative.

    An entry that stops a step becomes zero. The value never falls.
    """

    def one(_: Any, a: Array) -> Array:
        step = _newton_step(gram, b, a, ridge)
        falls = step < 0
        room = jnp.where(falls, a / jnp.where(falls, -step, 1.0), jnp.inf)
        reach = jnp.minimum(jnp.min(room), 1.0)
        return jnp.where(room <= reach, 0.0, jnp.maximum(a + reach * step, 0.0))

    return lax.fori_loop(0, _POLISHES, one, a)


def _is_optimal(gram: Array, b: Array, a: Array) -> Array:
    """Whether the Karush-Kuhn-Tucker conditions hold up to rounding."""
    residual = b - _times(gram, a)
    violation = jnp.where(a > 0, jnp.abs(residual), residual)
    scale = jnp.sum(a) + jnp.max(jnp.maximum(b, 0.0))
    return jnp.max(violation) <= _ROUNDING * jnp.finfo(gram.dtype).eps * scale


def _gradient_steps(gram: Array, b: Array, step: Array, state: tuple) -> tuple:
    def one(_: Any, state: tuple) -> tuple:
        a, ahead, momentum = state
        new = jnp.maximum(ahead - step * (_times(gram, ahead) - b), 0.0)
        restart = jnp.sum((ahead - new) * (new - a)) > 0
        grown = 0.5 * (1 + jnp.sqrt(1 + 4 * momentum * momentum))
        momentum = jnp.where(restart, 1.0, momentum)
        grown = jnp.where(restart, 1.0, grown)
        pull = jnp.where(restart, 0.0, (momentum - 1) / grown)
        return new, new + pull * (new - a), grown

    return lax.fori_loop(0, _STEPS, one, state)


def _step_and_ridge(gram: Array) -> tuple[Array, Array]:
    """From the extreme eigenvalues, which bound those of every block."""
    values = jnp.linalg.eigvalsh(gram)
    largest = jnp.where(values[-1] > 0, values[-1], 1.0)
    rounding = 4 * gram.shape[0] * jnp.finfo(gram.dtype).eps
    return 0.99 / largest, rounding + 2 * jnp.maximum(-values[0], 0.0)


def _search(gram: Array, b: Array, step: Array, ridge: Array) -> tuple[Array, Array]:
    """A solution and whether it is certified, for a Gram matrix of unit diagonal."""

    def one_round(state: tuple) -> tuple:
        count, a, ahead, momentum, _ = state
        a, ahead, momentum = _gradient_steps(gram, b, step, (a, ahead, momentum))
        polished = _polish(gram, b, a, ridge)
        done = _is_optimal(gram, b, polished)
        # Momentum is of use only where the polish changed nothing.
        moved = jnp.any(polished != a)
        ahead = jnp.where(moved, polished, ahead)
        momentum = jnp.where(moved, 1.0, momentum)
        a = polished
        return count + 1, a, ahead, momentum, done

    zero = jnp.zeros_like(b)
    one = jnp.ones_like(b[0])
    start = (jnp.int32(0), zero, zero, one, _is_optimal(gram, b, zero))
    unsolved = lambda state: (state[0] < _ROUNDS) & ~state[-1]
    _, a, _, _, certified = lax.while_loop(unsolved, one_round, start)
    return a, certified


def nonnegative_least_squares(gram: Array, b: Array) -> NonnegativeSolution:
    """Minimises a^T K a / 2 - b^T a over a >= 0.

    Args:
      gram: K, positive semidefinite, `(T, T)`; rows of zeros are allowed.
      b: in the range of K, `(T,)`.

    Returns:
      The solution. It is differentiable in both arguments: implicitly, on the entries
      that are positive.

    Example:
      >>> gram, b = jnp.array([[4.0, 0.0], [0.0, 1.0]]), jnp.array([2.0, -1.0])
      >>> nonnegative_least_squares(gram, b).coefficients.round(4)
      Array([0.5, 0. ], dtype=float32)

    References:
      Beck and Teboulle, A fast iterative shrinkage-thresholding algorithm, 2009.
      O'Donoghue and Candès, Adaptive restart for accelerated gradient schemes, 2015.
    """
    diagonal = jnp.diag(gram)
    some = diagonal > 0
    scale = jnp.where(some, lax.rsqrt(jnp.where(some, diagonal, 1.0)), 0.0)
    unit, b = gram * scale[:, None] * scale[None, :], b * scale
    fixed = lax.stop_gradient((unit, b))
    step, ridge = _step_and_ridge(fixed[0])
    found, certified = _search(*fixed, step, ridge)
    # One polish more is there for its derivatives only.
    smooth = jnp.maximum(found + _newton_step(unit, b, found, ridge), 0.0)
    solution = smooth + lax.stop_gradient(found - smooth)
    return NonnegativeSolution(solution * scale, certified)

r"""The merging scaling law as objects: a curve in k, and the joint law in N and k.

    E[L | k]    = floor + amplitude / (k + offset)
    E[L | N, k] = L* + B N^-beta + A0 N^-gamma / (k + b)

The same classes hold the rivals of the law, whose dependence on k is another one, and
its variance law. Fields are numbers or arrays; with JAX arrays in them a law runs under
`jit`, `vmap` and `grad`, with plain numbers it computes in float64 on the host.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmerge._types import pytree, static
from jaxmerge.laws._numbers import numbers


class Form(NamedTuple):
    """How the tail of a loss depends on k.

    Attributes:
      tail: from k and the form's parameter to a number that falls with k.
      bounds: of the parameter in a fit; None where there is none.
      formula: for people.
      has_floor: whether the tail vanishes as k grows, so that there is a floor.
    """

    tail: Callable[[Any, Any], Any]
    bounds: tuple[float, float] | None
    formula: str
    has_floor: bool = True


def _module(x: Any) -> Any:
    return jnp if isinstance(x, jax.Array) else np


FORMS: Mapping[str, Form] = {
    "offset": Form(lambda k, b: 1 / (k + b), (0.0, 100.0), "A / (k + b)"),
    "inverse": Form(lambda k, _: 1 / k, None, "A / k"),
    "power": Form(lambda k, p: k ** (-p), (1e-3, 20.0), "A k^-p"),
    "exponential": Form(
        lambda k, c: _module(k).exp(-c * (k - 1)), (1e-4, 20.0), "A exp(-c (k - 1))"
    ),
    "logarithm": Form(lambda k, _: -_module(k).log(k), None, "-A log k", False),
}
"""The law, `"offset"`, and its rivals, by name."""


def check_form(form: str) -> None:
    """Refuses an unknown form."""
    if form not in FORMS:
        raise ValueError(f"form is {form!r}; expected one of {', '.join(FORMS)}")


@pytree
class Curve:
    r"""The expected loss of a merge of k experts.

        E[L | k] = floor + amplitude / (k + offset) + rise k / (k + half)

    The floor is that of an unlimited population of exchangeable experts: a pool of M
    ends above it, at k = M.

    Attributes:
      floor: L_inf, the loss as k grows (less `rise`).
      amplitude: A, at least 0.
      offset: b, above -1; a rival's one parameter.
      rise: D of the bounded term, for series that turn up; 0 for the law itself.
      half: q of the bounded term: after how many experts half of it is there.
      form: `"offset"`, the law, or the name of a rival in `FORMS`.

    Example:
      >>> curve = Curve(floor=0.5, amplitude=0.2, offset=1.0)
      >>> [float(x) for x in curve([1, 3])]
      [0.6, 0.55]

    References:
      Model Merging Scaling Laws in Large Language Models, 2025, eq. 3 and App. J.3.
    """

    floor: Any
    amplitude: Any
    offset: Any = 0.0
    rise: Any = 0.0
    half: Any = 1.0
    form: str = static(default="offset")

    def __call__(self, k: Any) -> Any:
        """The expected loss.

        Args:
          k: how many experts, any shape that the fields broadcast with.
        """
        floor, amplitude, offset, rise, half, k = numbers(
            self.floor, self.amplitude, self.offset, self.rise, self.half, k
        )
        tail = FORMS[self.form].tail(k, offset)
        return floor + amplitude * tail + rise * k / (k + half)

    def gain(self, k: Any) -> Any:
        """What expert k + 1 brings, L(k) - L(k + 1): about A / k^2 of the law.

        Args:
          k: how many experts there are already.
        """
        (k,) = numbers(k)
        return self(k) - self(k + 1)


@pytree
class JointLaw:
    r"""The merging scaling law in the size of the model and the number of experts.

        E[L | N, k] = floor + B N^-beta + A0 N^-gamma / (k + b)

    Also the law of the variance over subsets, with V* for the floor.

    Attributes:
      floor: L*, the loss of an infinite model and infinitely many experts.
      size_amplitude: B, at least 0.
      size_exponent: beta, at least 0.
      amplitude: A0, at least 0.
      amplitude_exponent: gamma; close to 0 in the paper, that is, tails are as long in
        large models as in small ones.
      offset: b, shared by all sizes; a rival's one parameter.
      form: `"offset"`, the law, or the name of a rival in `FORMS`.

    Example:
      >>> law = JointLaw(0.2, 0.1, 0.5, 0.06, 0.0, 0.0)
      >>> float(law(4.0, 3))
      0.27

    References:
      Model Merging Scaling Laws in Large Language Models, 2025, eqs. 1 and 4.
    """

    floor: Any
    size_amplitude: Any
    size_exponent: Any
    amplitude: Any
    amplitude_exponent: Any
    offset: Any = 0.0
    form: str = static(default="offset")

    def __call__(self, size: Any, k: Any) -> Any:
        """The expected loss.

        Args:
          size: N, in the unit of the fit; broadcasts with `k`.
          k: how many experts.
        """
        return self.at(size)(k)

    def at(self, size: Any) -> Curve:
        """The curve in k of models of one size, or of several at once.

        Args:
          size: N, in the unit of the fit.
        """
        floor, big, beta, amplitude, gamma, size = numbers(
            self.floor,
            self.size_amplitude,
            self.size_exponent,
            self.amplitude,
            self.amplitude_exponent,
            size,
        )
        return Curve(
            floor=floor + big * size ** (-beta),
            amplitude=amplitude * size ** (-gamma),
            offset=self.offset,
            form=self.form,
        )


@pytree
class FinitePool:
    r"""The variance over subsets that are drawn without replacement from a pool.

        Var[L | k] = amplitude (1 / k - 1 / M)

    Exact for a linear loss. It is zero at k = M, where there is one subset, and falls
    by (M - 1) k / (M - k) from 1 to k: at M = 9 and k = 8 64 times, not 8.

    Attributes:
      amplitude: c^2 g^T S g of a linear loss, with S the pool's covariance.
      pool: M.

    Example:
      >>> variance = FinitePool(amplitude=1.0, pool=9)
      >>> round(float(variance(1) / variance(8)))
      64

    References:
      Cochran, Sampling Techniques, 1977, Thm. 2.2. A derivation of ours for merges:
      the paper's law, V* + A / (k + b), is that of an unlimited population.
    """

    amplitude: Any
    pool: Any

    def __call__(self, k: Any) -> Any:
        """The variance over subsets of k.

        Args:
          k: how many experts, at most M.
        """
        amplitude, pool, k = numbers(self.amplitude, self.pool, k)
        return amplitude * (1 / k - 1 / pool)

"""How the bound scales with steps, learning rate, batch, data and experts.

The best length of training, exponents at any point (slopes of the bound's own terms in
the logarithm of each setting), and a law with nonnegative coefficients for sweeps. All
are reconstructions: the scaling laws of Li and others (2026) are not public.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxmerge._types import pytree
from jaxmerge.kinematics._inputs import as_floats
from jaxmerge.stability.recursions import expert_l2_stability
from jaxmerge.stability.spec import (
    SPEC_FIELDS,
    ExpertSpec,
    ProblemStats,
    check_stats,
    resolve,
)

# What each term of the law is, with u = eta K, and the sign with which it enters.
LAW_TERMS = {
    "start": +1,  # 1
    "descent": -1,  # u
    "curvature": +1,  # u^2
    "drift": +1,  # u^3
    "noise": +1,  # eta u / (b N)
    "drift_noise": +1,  # eta u^2 / b
    "stability": +1,  # sqrt(eta u / (b n) (1 + b K / n)) / N
}


def best_length(stats: ProblemStats) -> Array:
    """How far to train, where the small-step bound is smallest: u* = eta K*.

        u* = g0 / (4 L sqrt(g0^2 + zeta_0^2)) <= 1 / (4 L)

    A reconstruction: the minimum of -u g0^2 / 2 + (8/3) L^2 u^3 (g0^2 + zeta_0^2), the
    descent and the drift. Noise and stability are left out; the bound is conservative,
    so that risk may fall long after.

    Args:
      stats: `smoothness`, `gradient` and `heterogeneity` count.

    Returns:
      u*, a scalar: a learning rate times a number of steps. 0 where there is no
      gradient at the base.

    Raises:
      ValueError: if a concrete constant is out of range.

    Example:
      >>> stats = ProblemStats(1.0, 5.8, 6.0, 4.5, 1.5, 1.5, 3.4)
      >>> f"{best_length(stats):.3f}"
      '0.217'
    """
    check_stats(stats)
    gradient, heterogeneity, smoothness = as_floats(
        stats.gradient, stats.heterogeneity, stats.smoothness
    )
    some = gradient > 0
    ratio = gradient / jnp.where(some, gradient + heterogeneity, 1.0)
    value = jnp.sqrt(jnp.where(some, ratio, 1.0)) / (4 * smoothness)
    return jnp.where(some, value, 0.0)


def best_steps(spec: ExpertSpec, stats: ProblemStats) -> Array:
    """Each expert's number of steps at `best_length`: K_i* = u* / eta_i.

    Args:
      spec: `learning_rate` counts.
      stats: as in `best_length`.

    Returns:
      `(task,)`, real numbers; below 1, a single step is too long.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> spec = ExpertSpec(jnp.array([0.02, 0.01]), 8, 100, 64)
      >>> stats = ProblemStats(1.0, 5.8, 6.0, 4.5, 1.5, 1.5, 3.4)
      >>> [f"{k:.1f}" for k in best_steps(spec, stats)]
      ['10.8', '21.7']
    """
    return best_length(stats) / resolve(spec, stats, None, None).learning_rate


def stability_exponents(
    spec: ExpertSpec, stats: ProblemStats, *, convex: bool = False
) -> dict[str, Array]:
    """By which power of each setting an expert's stability grows, here.

        d log delta_i^2 / d log knob

    Within an epoch about eta^2 K / (b n), beyond it (eta K / n)^2, where the batch
    drops out. A reconstruction: slopes of `expert_l2_stability`.

    Args:
      spec: where.
      stats: as in `expert_l2_stability`.
      convex: likewise.

    Returns:
      For each field of the spec, `(task,)`; infinite where the stability is.

    Raises:
      ValueError: if a concrete number is out of range.

    Example:
      >>> import jax
      >>> spec = ExpertSpec(1e-4, 1, 100, 1e6)
      >>> stats = ProblemStats(1.0, 2.0, 3.0, 3.0, 0.0, 0.0, 1.0)
      >>> slopes = jax.jit(stability_exponents)(spec, stats)
      >>> {name: round(float(slope[0]), 2) for name, slope in slopes.items()}
      {'batch_size': -1.0, 'learning_rate': 2.01, 'samples': -1.0, 'steps': 1.02}
    """
    problem = resolve(spec, stats, None, None)
    fields = {name: getattr(problem, name) for name in SPEC_FIELDS}
    fixed = dataclasses.replace(
        stats, noise=problem.noise, gradient_norms=problem.gradient_norms
    )

    def logarithm(shifts: dict[str, Array]) -> tuple[Array, Array]:
        scaled = {name: x * jnp.exp(shifts[name]) for name, x in fields.items()}
        value = expert_l2_stability(ExpertSpec(**scaled), fixed, convex=convex)
        return jnp.sum(jnp.log(value)), value

    zeros = {name: jnp.zeros_like(x) for name, x in fields.items()}
    slopes, value = jax.grad(logarithm, has_aux=True)(zeros)
    return {name: jnp.where(jnp.isinf(value), jnp.inf, x) for name, x in slopes.items()}


@pytree
class ScalingLaw:
    """A law of the excess risk in the settings of training.

        risk = c_0 - c_1 u + c_2 u^2 + c_3 u^3 + c_4 eta u / (b N) + c_5 eta u^2 / b
               + c_6 sqrt(eta u (1 + b K / n) / (b n)) / N,    u = eta K,  all c >= 0

    Attributes:
      coefficients: c, `(7,)`, in the order of `LAW_TERMS`.
      residual: the root of the mean squared error on the sweep it was fitted to.
    """

    coefficients: Any
    residual: Any

    def terms(self, spec: ExpertSpec, num_experts: Any) -> dict[str, Array]:
        """Each term, with its sign, for settings that all experts share."""
        columns = _law_columns(
            spec.learning_rate, spec.batch_size, spec.steps, spec.samples, num_experts
        )
        return {
            name: sign * self.coefficients[at] * columns[at]
            for at, (name, sign) in enumerate(LAW_TERMS.items())
        }

    def __call__(self, spec: ExpertSpec, num_experts: Any) -> Array:
        """The risk that the law predicts, of the settings' common shape."""
        return sum(self.terms(spec, num_experts).values(), jnp.zeros(()))


def _law_columns(eta: Any, b: Any, steps: Any, n: Any, num: Any) -> list[Any]:
    u = eta * steps
    spread = (eta * u * (1 + b * steps / n) / (b * n)) ** 0.5 / num
    return [0 * u + 1, u, u**2, u**3, eta * u / (b * num), eta * u**2 / b, spread]


def fit_scaling_law(sweep: Mapping[str, Any]) -> ScalingLaw:
    """Fits the law to a measured sweep, by nonnegative least squares.

    The signs are those of the bound, so that a term that the sweep does not support is
    0 and not negative. A reconstruction in its terms; a fit tells what it was shown.

    Args:
      sweep: columns `learning_rate`, `batch_size`, `steps`, `samples`, `num_experts`
        and `risk`, numbers or `(point,)`; settings that all experts share.

    Returns:
      The law. It is a pytree, so that its prediction can be mapped and differentiated.

    Raises:
      ValueError: if a column is missing, is not finite, or is too short.

    Example:
      >>> steps = np.arange(1.0, 13.0)
      >>> sweep = dict(learning_rate=0.1, batch_size=8, samples=64, num_experts=4)
      >>> risk = 2 - 0.5 * (0.1 * steps) + 0.1 * (0.1 * steps) ** 3
      >>> law = fit_scaling_law({**sweep, "steps": steps, "risk": risk})
      >>> spec = ExpertSpec(0.1, 8, 20.0, 64)
      >>> f"{law(spec, 4):.2f}, {abs(law.residual):.4f}"
      '1.80, 0.0000'

    References:
      Lawson, Hanson, Solving Least Squares Problems, 1974, chapter 23.
    """
    names = (*SPEC_FIELDS, "num_experts", "risk")
    missing = [name for name in names if name not in sweep]
    if missing:
        raise ValueError(
            f"the sweep has no {missing[0]!r}; expected {', '.join(names)}"
        )
    columns = np.broadcast_arrays(
        *(np.asarray(sweep[name], np.float64) for name in names)
    )
    for name, column in zip(names, columns, strict=True):
        if not np.all(np.isfinite(column)):
            row = int(np.flatnonzero(~np.isfinite(column))[0])
            raise ValueError(f"{name} in row {row} of the sweep is not finite")
        if name != "risk" and not np.all(column > 0):
            row = int(np.flatnonzero(column <= 0)[0])
            raise ValueError(f"{name} in row {row} of the sweep is not positive")
    *settings, risk = (np.ravel(column) for column in columns)
    if len(risk) < 4:
        raise ValueError(f"the sweep has {len(risk)} points; a law needs at least 4")
    signs = np.array(list(LAW_TERMS.values()), np.float64)
    eta, b, steps, n, num = settings
    design = signs * np.stack(_law_columns(eta, b, steps, n, num), axis=1)
    return _nonnegative_fit(design, risk)


def _nonnegative_fit(design: np.ndarray, risk: np.ndarray) -> ScalingLaw:
    # Importing scipy.optimize takes longer than most of what people do here.
    from scipy.optimize import nnls

    # Columns differ by many powers of ten.
    scale = np.linalg.norm(design, axis=0)
    found, distance = nnls(design / scale, risk)
    residual = distance / np.sqrt(len(risk))
    return ScalingLaw(jnp.asarray(found / scale), jnp.asarray(residual))

r"""The excess risk of a merged model, term by term: a reconstruction.

    E[F(x_m) - min F]  <=  E[f(x_m) - min f]  +  E[F(x_m) - f(x_m)]
                           optimisation          generalisation

for x_m = x_0 + sum alpha_i (x_i - x_0), experts trained by SGD from one base, F the
risk and f the training loss. The framework is that of Li and others (2026), of which
the abstract is public and the theorems are not; statements and constants here are ours.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxmerge._checks import check_values
from jaxmerge._types import pytree
from jaxmerge.kinematics._inputs import Numbers, as_floats
from jaxmerge.stability.recursions import Recursions, check_convex, recursions
from jaxmerge.stability.spec import ExpertSpec, Problem, ProblemStats, resolve

TERMS = (
    "start_gap",
    "descent",
    "training_heterogeneity",
    "drift",
    "noise",
    "long_step",
    "stability",
    "stability_squared",
)


@pytree
class Measured:
    """What was measured, in place of its bound; None where nothing was.

    Attributes:
      optimisation: E f(x_m) - min f.
      gradient_square: G^2, the mean of |grad l(x_m; z_ij)|^2 over all samples, weighted
        by p.
      drifts: the mean of |x_{i,k} - x_0|^2 over steps k < K, `(task,)`.
      stabilities: delta_i^2, `(task,)`; see `measure_stability`.
    """

    optimisation: Any = None
    gradient_square: Any = None
    drifts: Any = None
    stabilities: Any = None


@pytree
class BoundTerms:
    """A bound of the excess risk; each term a scalar, infinite where it overflows.

    Attributes:
      start_gap: f(x_0) - min f.
      descent: -(A / 2) g0^2, what the first-order term gains.
      training_heterogeneity: A chi^2 zeta_0^2, for coefficients times training lengths
        that do not match the target weights.
      drift: A L^2 sum w_i d_i, for gradients that change on the way (over-training).
      noise: L sum alpha_i^2 eta_i^2 K_i sigma_i^2 / b_i.
      long_step: (L A^2 - A / 2)_+ sum w_i (2 G0_i^2 + 2 L^2 d_i).
      stability: G Delta.
      stability_squared: L Delta^2 / 2.
      optimisation: the sum of the first six, or what was measured.
      generalisation: the sum of the last two.
      total: both.
      rising: whether a little less training of all experts would lower the bound. From
        there on it follows its worst case, and no longer the risk.
      vacuous: whether the bound says nothing: it is not finite, not below `start_gap`
        (what it says of the base itself), or rising.
      length: A = sum alpha_i eta_i K_i.
      shares: w_i = alpha_i eta_i K_i / A, `(task,)`.
      chi_squared: sum (p_i - w_i)^2 / p_i.
      drifts: d_i, `(task,)`.
      stabilities: delta_i^2, `(task,)`.
      gradient_square: G^2.
      stability_square: Delta^2 = sum p_i alpha_i^2 delta_i^2.
    """

    start_gap: Any
    descent: Any
    training_heterogeneity: Any
    drift: Any
    noise: Any
    long_step: Any
    stability: Any
    stability_squared: Any
    optimisation: Any
    generalisation: Any
    total: Any
    rising: Any
    vacuous: Any
    length: Any
    shares: Any
    chi_squared: Any
    drifts: Any
    stabilities: Any
    gradient_square: Any
    stability_square: Any


def sqrt(x: Array) -> Array:
    """The square root, with derivative 0 at 0."""
    some = x > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, x, 1.0)), 0.0)


def generalisation_bound(
    gradient_square: Numbers, stability_square: Numbers, smoothness: Numbers
) -> Array:
    """From stability to generalisation, for smooth losses that need not be Lipschitz.

        E[F(x_m) - f(x_m)] <= G Delta + L Delta^2 / 2

    A reconstruction. It rests on exchangeability, the descent lemma and Young's
    inequality with the best parameter, G / Delta.

    Args:
      gradient_square: G^2, the mean of a sample's squared gradient at x_m.
      stability_square: Delta^2, the mean of |x_m(S) - x_m(S with z_ij replaced)|^2.
      smoothness: L, of each sample's loss.

    Returns:
      The bound, of the common shape.

    Raises:
      ValueError: if a concrete number is negative or NaN.

    Example:
      >>> float(generalisation_bound(4.0, 0.25, 2.0))
      1.25

    References:
      Lei, Ying, Fine-grained analysis of stability and generalization for stochastic
      gradient descent, 2020, Theorem 2.
    """
    for name, value in (
        ("gradient_square", gradient_square),
        ("stability_square", stability_square),
        ("smoothness", smoothness),
    ):
        check_values(name, value, lambda x: x >= 0, "numbers of at least 0")
    squares = as_floats(gradient_square, stability_square, smoothness)
    return sqrt(squares[0]) * sqrt(squares[1]) + squares[2] * squares[1] / 2


def _chi_squared(shares: Array, weights: Array) -> Array:
    some = weights > 0
    ratio = (weights - shares) ** 2 / jnp.where(some, weights, 1.0)
    return jnp.sum(jnp.where(some, ratio, jnp.where(shares > 0, jnp.inf, 0.0)))


def _optimisation_terms(
    problem: Problem, drifts: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The terms of the optimisation error, and what they are made of."""
    lengths = problem.coefficients * problem.learning_rate * problem.steps
    length = jnp.sum(lengths)
    some = length > 0
    shares = jnp.where(
        some, lengths / jnp.where(some, length, 1.0), problem.target_weights
    )
    chi_squared = _chi_squared(shares, problem.target_weights)
    curvature = problem.smoothness**2
    spread = jnp.sum(shares * drifts)
    noises = problem.coefficients * problem.learning_rate * lengths * problem.noise
    gradients = jnp.sum(shares * problem.gradient_norms)
    surplus = jnp.maximum(problem.smoothness * length**2 - length / 2, 0.0)
    terms = {
        "start_gap": problem.gap,
        "descent": -length * problem.gradient / 2,
        "training_heterogeneity": length * chi_squared * problem.heterogeneity,
        "drift": length * curvature * spread,
        "noise": problem.smoothness * jnp.sum(noises / problem.batch_size),
        "long_step": surplus * (2 * gradients + 2 * curvature * spread),
    }
    return terms, {"length": length, "shares": shares, "chi_squared": chi_squared}


def check_measured(measured: Measured | None) -> Measured:
    """Refuses concrete measurements that are none; None is nothing measured."""
    measured = Measured() if measured is None else measured
    for name, value in vars(measured).items():
        if value is not None:
            check_values(
                name,
                value,
                lambda x: (x >= 0) & np.isfinite(x),
                "finite numbers of at least 0",
            )
    return measured


def _measured_or(value: Any, bound: Array, name: str) -> Array:
    if value is None:
        return bound
    if np.shape(value) not in ((), bound.shape):
        raise ValueError(
            f"the measured {name} has shape {np.shape(value)}; expected {bound.shape}"
        )
    return jnp.broadcast_to(jnp.asarray(value).astype(bound.dtype), bound.shape)


def _assemble(problem: Problem, found: Recursions, measured: Measured) -> BoundTerms:
    drifts = _measured_or(measured.drifts, found.drifts, "drifts")
    stabilities = _measured_or(measured.stabilities, found.stabilities, "stabilities")
    terms, parts = _optimisation_terms(problem, drifts)
    optimisation = sum(terms.values(), jnp.zeros_like(problem.gap))
    optimisation = _measured_or(measured.optimisation, optimisation, "optimisation")
    weights, alphas = problem.target_weights, problem.coefficients
    stability_square = jnp.sum(weights * alphas**2 * stabilities)
    gradient_square = _measured_or(
        measured.gradient_square,
        2 * problem.smoothness * jnp.maximum(optimisation, 0.0)
        + problem.merged_heterogeneity
        + jnp.sum(weights * problem.noise),
        "gradient_square",
    )
    terms["stability"] = sqrt(gradient_square) * sqrt(stability_square)
    terms["stability_squared"] = problem.smoothness * stability_square / 2
    generalisation = terms["stability"] + terms["stability_squared"]

    # Where a recursion overflowed, its terms are infinite and have no slope.
    def lost(by_task: Array, is_measured: bool) -> Array:
        used = found.overflow & (by_task > 0)
        return jnp.zeros((), bool) if is_measured else jnp.any(used)

    drift_lost = lost(parts["shares"] * parts["length"], measured.drifts is not None)
    stability_lost = lost(alphas, measured.stabilities is not None)
    opt_lost = drift_lost & (measured.optimisation is None)
    gradient_lost = opt_lost & (measured.gradient_square is None)
    gain_lost = stability_lost | (gradient_lost & (stability_square > 0))
    infinite = lambda where, x: jnp.where(where, jnp.inf, x)
    terms["drift"] = infinite(drift_lost, terms["drift"])
    terms["long_step"] = infinite(
        drift_lost & (terms["long_step"] > 0), terms["long_step"]
    )
    terms["stability"] = infinite(gain_lost, terms["stability"])
    terms["stability_squared"] = infinite(stability_lost, terms["stability_squared"])
    optimisation = infinite(opt_lost, optimisation)
    generalisation = infinite(gain_lost, generalisation)
    total = optimisation + generalisation
    return BoundTerms(
        **terms,
        **parts,
        optimisation=optimisation,
        generalisation=generalisation,
        total=total,
        rising=jnp.zeros((), bool),
        vacuous=~(total < problem.gap),
        drifts=drifts
        if measured.drifts is not None
        else infinite(found.overflow, drifts),
        stabilities=stabilities
        if measured.stabilities is not None
        else infinite(found.overflow, stabilities),
        gradient_square=infinite(gradient_lost, gradient_square),
        stability_square=infinite(stability_lost, stability_square),
    )


def excess_risk_bound(
    spec: ExpertSpec,
    stats: ProblemStats,
    *,
    coefficients: Numbers = None,
    target_weights: Numbers = None,
    convex: bool = False,
    measured: Measured | None = None,
) -> BoundTerms:
    r"""A bound of the merged model's excess risk, with each of its terms.

        optimisation   <= gap - (A/2) g0^2 + A chi^2 zeta_0^2 + A L^2 sum w_i d_i
                          + L sum alpha_i^2 eta_i^2 K_i sigma_i^2 / b_i
                          + (L A^2 - A/2)_+ sum w_i (2 G0_i^2 + 2 L^2 d_i)
        generalisation <= G Delta + L Delta^2 / 2,
        A = sum alpha_i eta_i K_i,   w_i = alpha_i eta_i K_i / A,
        G^2 = 2 L optimisation + zeta_m^2 + sum p_i sigma_i^2

    A reconstruction (R1, R2). It rests on the descent lemma at the base, on Jensen's
    inequality over experts, `drift`, `expert_l2_stability` and `generalisation_bound`.
    It is a worst case over smooth losses: it rises with K long before the risk does.

    Args:
      spec: how experts were trained.
      stats: constants of their losses.
      coefficients: alpha_i, `(task,)` or one number, at least 0; by default the target
        weights (the average). One number lambda is task arithmetic.
      target_weights: p_i, positive, of sum 1; by default 1 / N.
      convex: whether losses are convex; then all eta_i are at most 2 / L.
      measured: what was measured, in place of its bound.

    Returns:
      The terms. Works under `jit` and `vmap`, with derivatives of both modes in every
      number, finite ones also where the bound overflows (there they are 0).

    Raises:
      ValueError: if a concrete number is out of range, or numbers of experts differ.

    Example:
      >>> spec = ExpertSpec(0.02, 8, jnp.array([8.0, 8.0, 8.0, 8.0]), 64)
      >>> stats = ProblemStats(1.0, 5.8, 6.2, 5.7, 0.5, 0.5, 3.4)
      >>> bound = jax.jit(excess_risk_bound)
      >>> found = bound(spec, stats)
      >>> f"{found.total:.2f}", bool(found.vacuous)
      ('3.00', False)
      >>> long = ExpertSpec(0.02, 8, jnp.full(4, 100.0), 64)
      >>> bool(bound(long, stats).vacuous)
      True

    References:
      Li et al., Understanding Model Merging: A Unified Generalization Framework for
      Heterogeneous Experts, 2026 (the decomposition and the kind of terms). Wang et
      al., Tackling the objective inconsistency problem in heterogeneous federated
      optimization, 2020 (chi^2).
    """
    if convex:
        check_convex(spec, stats)
    problem = resolve(spec, stats, coefficients, target_weights)
    known = check_measured(measured)

    def stretched(factor: Array) -> tuple[Array, BoundTerms]:
        longer = dataclasses.replace(problem, steps=factor * problem.steps)
        terms = _assemble(longer, recursions(longer, convex=convex), known)
        return terms.total, terms

    one = jnp.ones_like(problem.gap)
    _, slope, terms = jax.jvp(stretched, (one,), (one,), has_aux=True)
    rising = slope > 0
    return dataclasses.replace(terms, rising=rising, vacuous=terms.vacuous | rising)

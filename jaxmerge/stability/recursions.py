r"""How far SGD drifts, and how far one replaced sample moves it: reconstructions.

The generalisation framework for model merging of Li and others (2026) is public in
part; its theorems are not. These two lemmas are ours, with explicit constants. Both are
linear recursions with constant coefficients, so that they have a closed form: no loop,
any number of steps at one cost, derivatives in forward and reverse mode, and in the
number of steps too.

With a = (1 + 1/K)(1 + eta L)^2, or 1 + 1/K where losses are convex and eta <= 2/L:

    d_{k+1}     = a d_k + (1 + K) eta^2 G0^2 + eta^2 sigma^2 / b
    delta_{k+1} = a delta_k + (4 eta^2 / (b n)) (1 + b K / n) g_k^2
    g_k^2       = sigma^2 + 2 G0^2 + 2 L^2 d_k

from d_0 = delta_0 = 0; d_k bounds E|x_k - x_0|^2, and delta_K the square of the L2
stability.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxmerge._checks import is_concrete
from jaxmerge._types import pytree
from jaxmerge.stability.spec import ExpertSpec, Problem, ProblemStats, resolve


@pytree
class Recursions:
    """Both recursions, at their end; finite also where they overflow.

    Attributes:
      drifts: the mean of d_k over k < K, `(task,)`.
      last_drifts: d_K, `(task,)`.
      stabilities: delta_K, `(task,)`.
      overflow: where they say nothing, `(task,)`: too large for the dtype, or a step
        too long for convexity to help.
    """

    drifts: Any
    last_drifts: Any
    stabilities: Any
    overflow: Any


def check_convex(spec: ExpertSpec, stats: ProblemStats) -> None:
    """Refuses steps with which gradient descent expands even where it is convex."""
    if is_concrete(spec.learning_rate) and is_concrete(stats.smoothness):
        curvature = np.asarray(spec.learning_rate, np.float64) * np.asarray(
            stats.smoothness, np.float64
        )
        if np.any(curvature > 2 * (1 + 1e-6)):
            raise ValueError(
                f"learning_rate * smoothness is {curvature.max():.3g}; the convex form "
                "needs at most 2 (leave out convex=True)"
            )


def recursions(problem: Problem, *, convex: bool) -> Recursions:
    """The closed forms of both recursions, for a resolved problem."""
    steps, rate = problem.steps, problem.learning_rate
    curved = rate * problem.smoothness
    growth = jnp.log1p(1 / steps)  # log a
    if not convex:
        growth = growth + 2 * jnp.log1p(curved)
    # Half of what the dtype holds, so that products of two such numbers are finite.
    limit = 0.5 * float(np.log(float(jnp.finfo(steps.dtype).max)))
    overflow = ~(growth * steps <= limit)
    if convex:
        overflow = overflow | (curved > 2 * (1 + 1e-6))
    growth = jnp.where(overflow, limit / steps, growth)
    # a - 1 is at least 1/K, so that nothing cancels that should not.
    excess = jnp.expm1(growth)
    total = jnp.expm1(growth * steps) / excess  # sum of a^k over k < K
    mean = jnp.maximum((total - steps) / (steps * excess), 0.0)
    mixed = jnp.maximum(
        (steps * jnp.exp(growth * (steps - 1)) - total) / excess, 0.0
    )  # sum over k < K of a^(K-1-k) (a^k - 1) / (a - 1)
    squares = rate * rate
    push = (1 + steps) * squares * problem.gradient_norms
    push = push + squares * problem.noise / problem.batch_size
    hits = (4 * squares / (problem.batch_size * problem.samples)) * (
        1 + problem.batch_size * steps / problem.samples
    )
    start = problem.noise + 2 * problem.gradient_norms
    later = 2 * problem.smoothness**2 * push
    return Recursions(
        push * mean, push * total, hits * (start * total + later * mixed), overflow
    )


def _resolved(
    spec: ExpertSpec, stats: ProblemStats, convex: bool
) -> tuple[Problem, Recursions]:
    if convex:
        check_convex(spec, stats)
    problem = resolve(spec, stats, None, None)
    return problem, recursions(problem, convex=convex)


def drift(spec: ExpertSpec, stats: ProblemStats, *, convex: bool = False) -> Array:
    """A bound of each expert's mean squared distance from the base while training.

        d_i = (1/K) sum_{k<K} d_k >= (1/K) sum_{k<K} E|x_{i,k} - x_0|^2

    A reconstruction; it rests on the smoothness of losses and on Young's inequality
    with parameter 1/K, for any eta L K.

    Args:
      spec: of the experts.
      stats: `smoothness`, `noise` and `gradient_norms` count.
      convex: whether losses are convex; then eta <= 2 / L, and a = 1 + 1/K.

    Returns:
      `(task,)`; infinite where it overflows.

    Raises:
      ValueError: if a concrete number is out of range, or numbers of experts differ.

    Example:
      >>> spec = ExpertSpec(0.1, 4, jnp.array([1.0, 2.0]), 100)
      >>> stats = ProblemStats(1.0, 2.0, 3.0, 3.0, 0.0, 0.0, 1.0)
      >>> [f"{d:.4f}" for d in drift(spec, stats)]
      ['0.0000', '0.0475']

    References:
      Karimireddy et al., SCAFFOLD: stochastic controlled averaging for federated
      learning, 2020, Lemma 8 (the bound of client drift that this one follows).
    """
    _, found = _resolved(spec, stats, convex)
    return jnp.where(found.overflow, jnp.inf, found.drifts)


def expert_l2_stability(
    spec: ExpertSpec, stats: ProblemStats, *, convex: bool = False
) -> Array:
    """A bound of each expert's squared on-average L2 stability, delta_i^2.

        delta_i^2 >= (1/n_i) sum_j E|x_{i,K}(S) - x_{i,K}(S with sample j replaced)|^2

    A reconstruction for minibatch SGD without convexity; it rests on the expansion of a
    gradient step and on Young's inequality with parameter n / (b K). For small eta L K
    it is `small_step_stability`: eta^2 K / (b n) within an epoch, (eta K / n)^2 beyond.

    Args:
      spec: of the experts.
      stats: `smoothness`, `noise` and `gradient_norms` count.
      convex: whether losses are convex; then eta <= 2 / L, and steps do not expand.

    Returns:
      `(task,)`; infinite where it overflows.

    Raises:
      ValueError: if a concrete number is out of range, or numbers of experts differ.

    Example:
      >>> spec = ExpertSpec(0.1, jnp.array([4.0, 8.0]), 1, 100)
      >>> stats = ProblemStats(1.0, 2.0, 3.0, 3.0, 0.0, 0.0, 1.0)
      >>> [f"{d:.2e}" for d in expert_l2_stability(spec, stats)]
      ['8.32e-04', '4.32e-04']

    References:
      Hardt, Recht, Singer, Train faster, generalize better: stability of stochastic
      gradient descent, 2016. Lei, Ying, Fine-grained analysis of stability and
      generalization for stochastic gradient descent, 2020, Definition 4.
    """
    _, found = _resolved(spec, stats, convex)
    return jnp.where(found.overflow, jnp.inf, found.stabilities)


def small_step_drift(spec: ExpertSpec, stats: ProblemStats) -> Array:
    """The drift where eta L K <= 1/2: a bound in powers of eta and K.

        d_i <= 2 K eta^2 sigma^2 / b + (8/3) K^2 eta^2 G0^2

    A reconstruction, at least as large as `drift` in that range and infinite beyond it.

    Args:
      spec: of the experts.
      stats: as in `drift`.

    Returns:
      `(task,)`.

    Example:
      >>> spec = ExpertSpec(0.1, 4, jnp.array([2.0, 6.0]), 100)
      >>> stats = ProblemStats(1.0, 2.0, 3.0, 3.0, 0.0, 0.0, 1.0)
      >>> [f"{d:.2f}" for d in small_step_drift(spec, stats)]
      ['0.34', 'inf']
    """
    p = resolve(spec, stats, None, None)
    length = p.learning_rate * p.steps
    value = 2 * length * p.learning_rate * p.noise / p.batch_size
    value = value + (8 / 3) * length**2 * p.gradient_norms
    # A rounding beyond 1/2 is still 1/2.
    return jnp.where(length * p.smoothness <= 0.5 * (1 + 1e-5), value, jnp.inf)


def small_step_stability(spec: ExpertSpec, stats: ProblemStats) -> Array:
    """The leading term of `expert_l2_stability` for small eta L K.

        delta_i^2 ~ (4 e eta^2 K / (b n)) (1 + b K / n) (sigma^2 + 2 G0^2) e^(2 eta L K)

    A reconstruction and an approximation, no bound: the gradient is that of the base.

    Args:
      spec: of the experts.
      stats: as in `expert_l2_stability`.

    Returns:
      `(task,)`.

    Example:
      >>> spec = ExpertSpec(0.001, 4, jnp.array([10.0, 1000.0]), 100)
      >>> stats = ProblemStats(1.0, 2.0, 3.0, 3.0, 0.0, 0.0, 1.0)
      >>> [f"{d:.2e}" for d in small_step_stability(spec, stats)]
      ['3.11e-06', '6.59e-02']
    """
    p = resolve(spec, stats, None, None)
    squares = p.learning_rate**2
    epochs = p.batch_size * p.steps / p.samples
    lead = 4 * float(np.e) * squares * p.steps / (p.batch_size * p.samples)
    growth = jnp.exp(2 * p.learning_rate * p.smoothness * p.steps)
    return lead * (1 + epochs) * (p.noise + 2 * p.gradient_norms) * growth

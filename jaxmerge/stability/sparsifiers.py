r"""What masks do to the bound: computed, never asserted; reconstructions (R4).

A mask of updates that does not look at the data contracts differences, so the
generalisation term falls. But it contracts the descent as well, and rescaling by 1 / q
turns the contraction into its opposite: whether a sparsifier tightens the bound depends
on the numbers, and here they are. For a mask that is known, put what it leaves of the
gradients (`gradient_statistics`) into `ProblemStats`.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from jaxmerge._checks import check_values
from jaxmerge._types import pytree
from jaxmerge.kinematics._inputs import Numbers, as_floats
from jaxmerge.stability.bound import (
    BoundTerms,
    Measured,
    excess_risk_bound,
    sqrt,
)
from jaxmerge.stability.recursions import recursions
from jaxmerge.stability.spec import ExpertSpec, ProblemStats, resolve


@pytree
class SparsifierEffect:
    """The bound without a sparsifier and with it.

    Attributes:
      before: the terms without it.
      after: the terms with it; `optimisation` has `extra_loss` in it.
      extra_loss: what the variance of the masks adds to the loss, at most.
      stability_factor: what it multiplies Delta^2 by.
      generalisation_change: after minus before; 0 where both are infinite.
      total_change: after minus before; negative where it tightens the bound.
      tightens: whether the total falls.
    """

    before: Any
    after: Any
    extra_loss: Any
    stability_factor: Any
    generalisation_change: Any
    total_change: Any
    tightens: Any


def dropout_variance_loss(
    squared_norms: Numbers,
    keep_rate: Numbers,
    curvature: Numbers,
    coefficients: Numbers,
    *,
    rescale: bool,
) -> Array:
    """What independent random masks of task vectors cost in loss, at most.

        (L / 2) ((1 - q) / q) sum alpha_i^2 |tau_i|^2       with rescaling by 1 / q
        (L / 2) q (1 - q)     sum alpha_i^2 |tau_i|^2       without

    above the loss at the masks' mean. A reconstruction (R4): the descent lemma at the
    mean. Equal for diagonal quadratics, where `curvature` 1 and squared norms in the
    metric of the Hessian, sum h_c tau_c^2, give the loss itself.

    Args:
      squared_norms: |tau_i|^2, `(task,)` or one number.
      keep_rate: q, in (0, 1].
      curvature: L.
      coefficients: alpha_i, `(task,)` or one number.
      rescale: whether what is kept is divided by q, as DARE does.

    Returns:
      A scalar.

    Raises:
      ValueError: if q is out of range.

    Example:
      >>> norms = jnp.array([4.0, 4.0])
      >>> float(dropout_variance_loss(norms, 0.5, 1.0, 0.5, rescale=True))
      1.0

    References:
      Yu et al., Language Models are Super Mario: absorbing abilities from homologous
      models as a free lunch, 2024 (DARE).
    """
    _check_rate(keep_rate)
    squares, rate, curvature, alphas = as_floats(
        squared_norms, keep_rate, curvature, coefficients
    )
    spread = (1 - rate) / rate if rescale else rate * (1 - rate)
    return curvature / 2 * spread * jnp.sum(alphas**2 * squares)


def _check_rate(keep_rate: Any) -> None:
    check_values(
        "keep_rate", keep_rate, lambda x: (x > 0) & (x <= 1), "a share in (0, 1]"
    )


def random_mask_effect(
    spec: ExpertSpec,
    stats: ProblemStats,
    keep_rate: Numbers,
    *,
    rescale: bool,
    squared_norms: Numbers = None,
    coefficients: Numbers = None,
    target_weights: Numbers = None,
    convex: bool = False,
    measured: Measured | None = None,
) -> SparsifierEffect:
    r"""The bound of a merge whose task vectors lose entries at random.

        without rescaling   training as with coefficients q alpha,   Delta^2 times q
        with rescaling      training as it was,                      Delta^2 times 1 / q

    and `dropout_variance_loss` added to either. A reconstruction (R4); masks are drawn
    independently of the data, one for each expert, and the same for both of the data
    sets that stability compares. So masks alone shrink the generalisation term and the
    gain of training alike; with rescaling the generalisation term grows.

    Args:
      spec: how experts were trained.
      stats: constants of their losses.
      keep_rate: q, in (0, 1].
      rescale: whether what is kept is divided by q.
      squared_norms: E|tau_i|^2, `(task,)` or one number; by default their bound.
      coefficients: as in `excess_risk_bound`, as are the rest.
      target_weights: p_i.
      convex: whether losses are convex.
      measured: drifts and stabilities of training, if they were measured.

    Returns:
      Both bounds, and what changed.

    Raises:
      ValueError: if q is out of range, or something was measured that masks change.

    Example:
      >>> spec = ExpertSpec(0.02, 8, jnp.full(4, 8.0), 64)
      >>> stats = ProblemStats(1.0, 5.8, 6.2, 5.7, 0.5, 0.5, 3.4)
      >>> import jax
      >>> dare = jax.jit(random_mask_effect, static_argnames="rescale")
      >>> found = dare(spec, stats, 0.5, rescale=True)
      >>> f"{found.generalisation_change:+.3f}, {found.total_change:+.3f}"
      '+0.015, +0.057'
    """
    measured = Measured() if measured is None else measured
    if measured.optimisation is not None or measured.gradient_square is not None:
        raise ValueError(
            "optimisation and gradient_square were measured without masks; measure "
            "them with masks and use excess_risk_bound, or leave them out"
        )
    _check_rate(keep_rate)
    options: dict[str, Any] = {
        "target_weights": target_weights,
        "convex": convex,
        "measured": measured,
    }
    problem = resolve(spec, stats, coefficients, target_weights)
    (rate,) = as_floats(keep_rate)
    rate, alphas = rate.astype(problem.gap.dtype), problem.coefficients
    before = excess_risk_bound(spec, stats, coefficients=alphas, **options)
    trained = before
    if not rescale:
        trained = excess_risk_bound(spec, stats, coefficients=rate * alphas, **options)
    if squared_norms is None:
        found = recursions(problem, convex=convex)
        squared_norms = jnp.where(
            found.overflow & (alphas > 0), jnp.inf, found.last_drifts
        )
    extra = dropout_variance_loss(
        squared_norms, rate, problem.smoothness, alphas, rescale=rescale
    )
    # Differences are masked, not scaled: the variance of the mask comes on top.
    after = _with_masks(trained, problem.smoothness, extra, 1 / rate)
    return SparsifierEffect(
        before=before,
        after=after,
        extra_loss=extra,
        stability_factor=1 / rate if rescale else rate,
        generalisation_change=_change(after.generalisation, before.generalisation),
        total_change=_change(after.total, before.total),
        tightens=after.total < before.total,
    )


def _change(after: Array, before: Array) -> Array:
    both = jnp.isinf(after) & jnp.isinf(before)
    finite = lambda x: jnp.where(both, 0.0, x)
    return finite(after) - finite(before)


def _with_masks(
    terms: BoundTerms, smoothness: Array, extra: Array, factor: Array
) -> BoundTerms:
    """Terms with a loss on top, and with Delta^2 times a factor."""
    optimisation = terms.optimisation + extra
    # G^2 depends on the optimisation error by 2 L times its positive part.
    finite = jnp.isfinite(terms.optimisation)
    known = jnp.where(finite, terms.optimisation, 0.0)
    rise = jnp.maximum(known + extra, 0.0) - jnp.maximum(known, 0.0)
    gradient_square = terms.gradient_square + 2 * smoothness * rise
    square = factor * terms.stability_square
    stability = sqrt(gradient_square) * sqrt(square)
    stability = jnp.where(square > 0, stability, 0.0)
    generalisation = stability + smoothness * square / 2
    total = optimisation + generalisation
    return dataclasses.replace(
        terms,
        optimisation=optimisation,
        generalisation=generalisation,
        total=total,
        stability=stability,
        stability_squared=smoothness * square / 2,
        stabilities=factor * terms.stabilities,
        gradient_square=gradient_square,
        stability_square=square,
        vacuous=~(total < terms.start_gap) | terms.rising,
    )

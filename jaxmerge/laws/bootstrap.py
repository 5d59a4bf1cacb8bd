"""Intervals by refitting: what other data of the same kind would have given."""

import dataclasses

import jax
import numpy as np

from jaxmerge._checks import check_key
from jaxmerge._types import PRNGKey
from jaxmerge.laws._separable import solve
from jaxmerge.laws.fit import Fit
from jaxmerge.laws.guards import Caution

KINDS = ("residual", "normal")


def bootstrap(
    fit: Fit, key: PRNGKey, *, num_draws: int = 200, kind: str = "residual"
) -> Fit:
    """Adds refits to data drawn anew, from which `interval` and plans then take theirs.

        y* = law + e*,    refitted from the optimum, bounds included

    Args:
      fit: from `fit_curve` or `fit_joint`.
      key: a typed key.
      num_draws: how many refits, at least 20.
      kind: `"residual"`: e* are residuals, scaled by their weights and drawn with
        replacement, inflated for the parameters that were fitted; `"normal"`: e* are
        normal with the measured variances over subsets, divided by the counts. Means
        of nested subsets are not independent; either kind takes them for it.

    Returns:
      The fit with `draws`.

    Raises:
      ValueError: if there are no more points than parameters, or no variances.

    Example:
      >>> from jaxmerge.laws import Curve, curve_points, fit_curve
      >>> k = np.arange(1, 10)
      >>> noise = 1e-3 * np.random.default_rng(0).standard_normal(9)
      >>> fit = fit_curve(curve_points(k, Curve(0.5, 0.2, 0.3)(k) + noise))
      >>> low, high = bootstrap(fit, jax.random.key(0), num_draws=50).interval("floor")
      >>> low < 0.5 < high
      True

    References:
      Efron, Tibshirani, An Introduction to the Bootstrap, 1993, section 9.5.
    """
    check_key(key)
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
    if num_draws < 20:
        raise ValueError(f"num_draws is {num_draws}; expected at least 20")
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    errors = _errors(fit, rng, num_draws, kind)
    start = fit.values[: len(fit.model.theta)]
    draws = []
    for error in errors:
        problem = fit.model.problem(fit.fitted + error, fit.weights)
        found = solve(problem, starts=[start], tolerance=1e-8)
        draws.append(np.concatenate([found.theta, found.linear]))
    made = np.stack(draws)
    cautions = fit.cautions
    for name in fit.model.theta:
        share = np.mean(made[:, fit.names.index(name)] == _upper(fit, name))
        if share > 0.05:
            text = (
                f"{name} was on its upper bound in {share:.0%} of the refits; its "
                "interval is cut off there"
            )
            cautions = (*cautions, Caution("interval_cut", text))
    return dataclasses.replace(fit, draws=made, cautions=cautions)


def _upper(fit: Fit, name: str) -> float:
    return float(fit.model.upper[fit.model.theta.index(name)])


def _errors(fit: Fit, rng: np.random.Generator, num: int, kind: str) -> np.ndarray:
    points = len(fit.points)
    if kind == "normal":
        variance = fit.points.variance / fit.points.count
        if not np.all(np.isfinite(variance)):
            raise ValueError("some points have no variance; kind='residual' needs none")
        return rng.standard_normal((num, points)) * np.sqrt(variance)
    # As many points as parameters leave no residuals to draw from.
    degrees = points - len(fit.names)
    if degrees < 1:
        raise ValueError(
            f"{points} points and {len(fit.names)} parameters leave no residuals to "
            "draw from; measure more k, or give kind='normal' with variances"
        )
    root = np.sqrt(np.where(fit.weights > 0, fit.weights, np.inf))
    scaled = fit.residuals * np.sqrt(fit.weights) * np.sqrt(points / degrees)
    return rng.choice(scaled, (num, points)) / root

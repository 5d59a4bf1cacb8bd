"""Fitting the scaling law and its rivals, with errors, bounds and what to beware of.

Fits run on the host, in float64: they are small, and done once.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from jaxmerge.laws import guards
from jaxmerge.laws._models import EXPONENT_BOUNDS, Model, curve_model, joint_model
from jaxmerge.laws._numbers import Real, Reals
from jaxmerge.laws._separable import Problem, Solution, solve
from jaxmerge.laws.curves import FORMS, Curve, check_form
from jaxmerge.laws.guards import Caution
from jaxmerge.laws.tables import Points

WEIGHTS = ("k", "none", "count", "variance")


@dataclasses.dataclass(frozen=True)
class Fit:
    """A fitted law and how well it is known.

    Attributes:
      law: a `Curve` or `JointLaw`.
      names: of the parameters.
      values: of the parameters, `(parameter,)`.
      covariance: of the parameters, from the Jacobian at the optimum; NaN in the rows
        of parameters on a bound, whose distribution is not normal.
      active: parameters on a bound, by name: `"lower"` or `"upper"`.
      r_squared: share of variance explained, each point counting alike.
      r_squared_weighted: the same with the fit's weights.
      aicc: Akaike's criterion, corrected for few points; lower is better, +inf if there
        are too few to correct for.
      points: what was fitted.
      weights: of the squared residuals, `(point,)`.
      cautions: what to beware of.
      model: the family, for refits.
      draws: parameters of bootstrap refits, `(draw, parameter)`, or None.
    """

    law: Any
    names: tuple[str, ...]
    values: np.ndarray
    covariance: np.ndarray
    active: Mapping[str, str]
    r_squared: float
    r_squared_weighted: float
    aicc: float
    points: Points
    weights: np.ndarray
    cautions: tuple[Caution, ...]
    model: Model
    draws: np.ndarray | None = None

    @property
    def fitted(self) -> np.ndarray:
        """The law at the points."""
        return _predict(self.law, self.points)

    @property
    def residuals(self) -> np.ndarray:
        """What was measured less the law, `(point,)`."""
        return self.points.mean - self.fitted

    @property
    def stderr(self) -> np.ndarray:
        """Standard errors of the parameters; NaN of those on a bound."""
        return np.sqrt(np.diagonal(self.covariance))

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """An interval for a parameter: of bootstrap draws if there are, else Student's.

        Args:
          name: of the parameter.
          level: of confidence, in (0, 1).
        """
        i = self.names.index(name)
        if self.draws is not None:
            low, high = np.quantile(
                self.draws[:, i], [0.5 - level / 2, 0.5 + level / 2]
            )
            return float(low), float(high)
        free = max(len(self.points) - len(self.names), 1)
        half = float(stats.t.ppf(0.5 + level / 2, free) * self.stderr[i])
        return float(self.values[i]) - half, float(self.values[i]) + half

    def laws(self) -> list[Any]:
        """A law for each bootstrap draw; only the fitted one if there are none."""
        if self.draws is None:
            return [self.law]
        return [self.model.law(values) for values in self.draws]


def _predict(law: Any, points: Points) -> np.ndarray:
    if isinstance(law, Curve):
        return np.asarray(law(points.k))
    return np.asarray(law(points.size, points.k))


def with_cautions(fit: Fit, cautions: Sequence[Caution]) -> Fit:
    """A fit with further cautions; each is kept once."""
    return dataclasses.replace(
        fit, cautions=tuple(dict.fromkeys((*fit.cautions, *cautions)))
    )


def weights_of(points: Points, weights: str | Reals) -> np.ndarray:
    """Weights of squared residuals.

    Args:
      points: what is fitted.
      weights: `"k"` (the paper's: variances fall as 1 / k), `"none"`, `"count"` (of
        subsets), `"variance"` (the measured variance of each mean), or numbers.

    Raises:
      ValueError: if they are unknown, negative or all zero.
    """
    if isinstance(weights, str):
        if weights not in WEIGHTS:
            raise ValueError(
                f"weights is {weights!r}; expected numbers or one of "
                f"{', '.join(WEIGHTS)}"
            )
        given = {
            "k": points.k,
            "none": np.ones(len(points)),
            "count": points.count,
            "variance": points.count / points.variance,
        }[weights]
    else:
        given = np.asarray(weights, np.float64)
    if given.shape != points.k.shape:
        raise ValueError(
            f"there are {given.size} weights for {len(points)} points; give one each"
        )
    if not (np.all(np.isfinite(given) & (given >= 0)) and given.max() > 0):
        raise ValueError(
            f"the weights are {given.tolist()}; expected finite numbers of at least 0"
            + (
                " (a variance takes several subsets, not all equal)"
                if isinstance(weights, str) and weights == "variance"
                else ""
            )
        )
    return given


def finished(model: Model, points: Points, weights: np.ndarray, found: Solution) -> Fit:
    """A fit from what the solver found."""
    values = np.concatenate([found.theta, found.linear])
    law = model.law(values)
    edges = dict(zip(model.theta, model.upper, strict=True))
    active = {
        name: "upper" if edges.get(name) == value and value != 0 else "lower"
        for name, value, on in zip(model.names, values, found.on_bound, strict=True)
        if on
    }
    num, free = len(points), len(values)
    squares = float(np.sum(weights * found.residuals**2))
    return Fit(
        law=law,
        names=model.names,
        values=values,
        covariance=_covariance(model, values, found.on_bound, weights, squares),
        active=active,
        r_squared=r_squared(points.mean, found.residuals, np.ones(num)),
        r_squared_weighted=r_squared(points.mean, found.residuals, weights),
        aicc=_aicc(weights, squares, free),
        points=points,
        weights=weights,
        cautions=(
            *guards.points_cautions(points),
            *guards.law_cautions(points, law, active),
        ),
        model=model,
    )


def _covariance(
    model: Model,
    values: np.ndarray,
    on_bound: np.ndarray,
    weights: np.ndarray,
    squares: float,
) -> np.ndarray:
    result = np.full((len(values), len(values)), np.nan)
    degrees = len(weights) - len(values)
    if degrees < 1 or on_bound.all():
        return result
    free = np.flatnonzero(~on_bound)
    jacobian = np.sqrt(weights)[:, None] * model.jacobian(values)[:, free]
    # Columns of one length, so that the rank is seen whatever the units.
    length = np.linalg.norm(jacobian, axis=0)
    length = np.where(length > 0, length, 1.0)
    scaled = jacobian / length
    if np.linalg.matrix_rank(scaled, tol=1e-10) < len(free):
        return result  # Not identified: no error would be large enough.
    inverse = np.linalg.inv(scaled.T @ scaled) / np.outer(length, length)
    result[np.ix_(free, free)] = inverse * squares / degrees
    return result


def r_squared(y: np.ndarray, residuals: np.ndarray, weights: np.ndarray) -> float:
    """The share of the weighted variance that is explained."""
    spread = np.sum(weights * (y - np.average(y, weights=weights)) ** 2)
    left = np.sum(weights * residuals**2)
    return float(1 - left / spread) if spread > 0 else float(left == 0)


def _aicc(weights: np.ndarray, squares: float, parameters: int) -> float:
    """`n log(RSS / n) + 2 p + 2 p (p + 1) / (n - p - 1)`; the noise counts in p."""
    num, p = len(weights), parameters + 1
    if num - p - 1 <= 0:
        return np.inf
    # A constant factor of the weights must not matter.
    scaled = squares / np.exp(np.mean(np.log(weights[weights > 0])))
    return float(
        num * np.log(max(scaled / num, 1e-300))
        + 2 * p
        + 2 * p * (p + 1) / (num - p - 1)
    )


def fit_curve(
    points: Points,
    *,
    form: str = "offset",
    weights: str | Reals = "k",
    offset_bounds: tuple[Real, Real] = (0.0, 100.0),
    offset_grid: Reals | None = None,
    bounded: bool = False,
) -> Fit:
    """Fits the curve in k, `floor + A / (k + b)`, by weighted least squares.

    Args:
      points: of one size, at two k or more; with two, b is held at 0.
      form: the law, `"offset"`, or a rival.
      weights: of the squared residuals; see `weights_of`.
      offset_bounds: of b. At least 0 is a convention, not a theorem.
      offset_grid: the only values of b that are tried, as in the paper's App. J.
      bounded: whether to add the term D k / (k + q), for series that turn up.

    Returns:
      The fit, with cautions.

    Raises:
      ValueError: if there is a single k, several sizes, or an option is unknown.

    Example:
      >>> from jaxmerge.laws import Curve, curve_points
      >>> k = [1, 2, 4, 8]
      >>> fit = fit_curve(curve_points(k, Curve(0.5, 0.2, 1.0)(k)))
      >>> [round(float(x), 6) for x in (fit.law.floor, fit.law.amplitude)]
      [0.5, 0.2]

    References:
      Model Merging Scaling Laws in Large Language Models, 2025, section 3.1.
    """
    check_form(form)
    if len(points.sizes) > 1:
        raise ValueError(
            f"the points have {len(points.sizes)} sizes; fit one size, or fit_joint"
        )
    distinct = len(np.unique(points.k))
    if distinct < 2:
        at = f"k = {points.k[0]:g}" if len(points) else "no k at all"
        raise ValueError(f"losses are there at {at} only; a curve takes two or more k")
    held = distinct < 3 and FORMS[form].bounds is not None
    if held and form != "offset":
        raise ValueError(f"a curve of form {form!r} takes losses at three k or more")
    w = weights_of(points, weights)
    if held:
        offset_bounds, offset_grid = (0.0, 0.0), (0.0,)
    model = curve_model(points, form, offset_bounds, bounded)
    if offset_grid is not None and form == "offset" and not bounded:
        found = _on_grid(model, model.problem(points.mean, w), np.asarray(offset_grid))
    else:
        found = solve(model.problem(points.mean, w))
    fit = finished(model, points, w, found)
    if held:
        text = "with losses at two k the offset is not told; it is held at 0"
        fit = dataclasses.replace(
            fit, cautions=(*fit.cautions, Caution("offset_held", text))
        )
    return fit


def _on_grid(model: Model, problem: Problem, grid: np.ndarray) -> Solution:
    best = min(grid, key=lambda b: problem.cost(np.array([b])))
    theta = np.array([best])
    linear, _ = problem.linear(theta)
    residuals = problem.y - model.columns(theta) @ linear
    at_end = best in (grid.min(), grid.max())
    return Solution(theta, linear, residuals, np.append(at_end, linear == 0))


def fit_joint(
    points: Points,
    *,
    form: str = "offset",
    weights: str | Reals = "k",
    offset_bounds: tuple[Real, Real] = (0.0, 100.0),
    exponent_bounds: tuple[Real, Real] = EXPONENT_BOUNDS,
) -> Fit:
    """Fits the joint law, `L* + B N^-beta + A0 N^-gamma / (k + b)`.

    Variable projection over (beta, gamma, b) from several starts; the other three
    parameters are linear and at least 0 (L* is free).

    Args:
      points: of three sizes or more, at three k or more.
      form: the law, `"offset"`, or a rival.
      weights: of the squared residuals; see `weights_of`.
      offset_bounds: of b.
      exponent_bounds: of beta and gamma.

    Returns:
      The fit, with cautions.

    Raises:
      ValueError: if sizes are missing or too few, or an option is unknown.

    Example:
      >>> import numpy as np
      >>> from jaxmerge.laws import JointLaw, curve_points
      >>> size, k = np.meshgrid([0.5, 3.0, 14.0], [1.0, 2.0, 4.0])
      >>> law = JointLaw(0.2, 0.1, 0.4, 0.05, 0.0, 0.5)
      >>> found = fit_joint(curve_points(k, law(size, k), size=size)).law
      >>> round(found.size_exponent, 5), round(found.offset, 5)
      (0.4, 0.5)

    References:
      Model Merging Scaling Laws in Large Language Models, 2025, eq. 1, section 3.1.
    """
    check_form(form)
    if not np.all(points.size > 0):
        raise ValueError("some points have no size; a joint law needs N of every point")
    if len(points.sizes) < 3 or len(np.unique(points.k)) < 3:
        raise ValueError(
            f"there are {len(points.sizes)} sizes and {len(np.unique(points.k))} k; a "
            "joint law takes three of each (fit_curve takes one size)"
        )
    w = weights_of(points, weights)
    model = joint_model(points, form, offset_bounds, exponent_bounds)
    return finished(model, points, w, solve(model.problem(points.mean, w)))

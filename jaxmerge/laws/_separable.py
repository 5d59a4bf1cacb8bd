"""Weighted least squares of a model that is linear in most of its parameters.

    minimise over theta and c:   sum_i w_i (y_i - sum_j c_j phi_j(x_i; theta))^2

For a given theta the best c is a linear problem, with or without c >= 0, so that only
theta has to be searched: variable projection (Golub, Pereyra, 1973). The search starts
from several points, and a last step moves everything together. Where a parameter ends
next to a bound it is put on it, if the fit is not worse for that: an optimizer that
keeps off its bounds would report 1e-12 for what is 0.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares, nnls

Basis = Callable[[np.ndarray], np.ndarray]
"""From theta to the columns `(point, linear)`."""

_TOLERANCE = 1e-15
_NEAR = 1e-3  # of the distance between its bounds: a parameter that may be on one
_WORSE = 1e-8  # relative rise of the cost that is not worse


class Solution(NamedTuple):
    """A minimum.

    Attributes:
      theta: the parameters that enter nonlinearly.
      linear: those that enter linearly.
      residuals: `y - fitted`, without weights.
      on_bound: which of theta, then of linear, lie on a bound.
    """

    theta: np.ndarray
    linear: np.ndarray
    residuals: np.ndarray
    on_bound: np.ndarray


class Problem(NamedTuple):
    """What is fitted.

    Attributes:
      basis: the columns.
      y: the data, `(point,)`.
      weights: of the squared residuals, `(point,)`.
      lower: of theta.
      upper: of theta.
      nonnegative: which linear parameters are at least 0.
    """

    basis: Basis
    y: np.ndarray
    weights: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    nonnegative: np.ndarray

    def linear(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best linear parameters, and the weighted residuals."""
        root = np.sqrt(self.weights)
        columns = root[:, None] * self.basis(theta)
        # Columns of one length: NNLS judges by absolute sizes.
        length = np.linalg.norm(columns, axis=0)
        length = np.where(length > 0, length, 1.0)
        # A free parameter is the difference of two that are not negative.
        signs = np.concatenate([np.ones(len(length)), -np.ones(sum(~self.nonnegative))])
        index = np.concatenate(
            [np.arange(len(length)), np.flatnonzero(~self.nonnegative)]
        )
        scaled = columns / length
        if np.all(~self.nonnegative):
            found = np.linalg.lstsq(scaled, root * self.y, rcond=None)[0]
        else:
            parts, _ = nnls(scaled[:, index] * signs, root * self.y)
            found = np.zeros(len(length))
            np.add.at(found, index, signs * parts)
        return found / length, root * self.y - scaled @ found

    def cost(self, theta: np.ndarray) -> float:
        """The weighted sum of squares at the best linear parameters."""
        return float(np.sum(self.linear(theta)[1] ** 2))


def _starts(problem: Problem, per_axis: int) -> list[np.ndarray]:
    """A grid inside the bounds, dense near the lower one, where laws have theirs."""
    share = (np.arange(per_axis) + 0.5) / per_axis
    axes = [
        low + (high - low) * share**3
        for low, high in zip(problem.lower, problem.upper, strict=True)
    ]
    return [np.asarray(point) for point in itertools.product(*axes)]


def _search(
    problem: Problem, start: np.ndarray, free: np.ndarray, tolerance: float
) -> np.ndarray:
    """Theta of a local minimum, of which only the free entries move."""
    if not free.any():
        return start

    def residuals(moving: np.ndarray) -> np.ndarray:
        theta = start.copy()
        theta[free] = moving
        return problem.linear(theta)[1]

    low, high = problem.lower[free], problem.upper[free]
    inside = np.clip(start[free], low + 1e-9 * (high - low), high - 1e-9 * (high - low))
    found = least_squares(
        residuals,
        inside,
        bounds=(low, high),
        x_scale=np.maximum(np.abs(inside), 1e-2),
        ftol=tolerance,
        xtol=tolerance,
        gtol=tolerance,
        max_nfev=200,
    )
    theta = start.copy()
    theta[free] = found.x
    return theta if problem.cost(theta) <= problem.cost(start) else start


def _onto_bounds(
    problem: Problem, theta: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Theta with what is next to a bound put on it, and which entries those are."""
    fixed = np.zeros(len(theta), bool)
    scale = float(np.sum(problem.weights * problem.y**2))
    for i in np.argsort(theta - problem.lower):
        width = problem.upper[i] - problem.lower[i]
        for bound in (problem.lower[i], problem.upper[i]):
            if fixed[i] or abs(theta[i] - bound) > _NEAR * max(width, 1e-300):
                continue
            trial, free = theta.copy(), ~fixed
            trial[i], free[i] = bound, False
            trial = _search(problem, trial, free, tolerance)
            allowed = problem.cost(theta) * (1 + _WORSE) + 1e-26 * scale
            if problem.cost(trial) <= allowed:
                theta, fixed[i] = trial, True
    return theta, fixed


def solve(
    problem: Problem,
    *,
    starts: Sequence[np.ndarray] | None = None,
    per_axis: int = 6,
    tried: int = 4,
    tolerance: float = _TOLERANCE,
) -> Solution:
    """The best fit.

    Args:
      problem: what is fitted.
      starts: where to begin; a grid if None, of which the best few are followed.
      per_axis: of the grid.
      tried: how many starts are followed.
      tolerance: relative, of the search.
    """
    if len(problem.lower) == 0:
        linear, _ = problem.linear(np.zeros(0))
        return _solution(problem, np.zeros(0), linear, np.zeros(0, bool))
    if starts is None:
        starts = sorted(_starts(problem, per_axis), key=problem.cost)[:tried]
    everything = np.ones(len(problem.lower), bool)
    found = [
        _search(problem, np.asarray(s, float), everything, tolerance) for s in starts
    ]
    theta, fixed = _onto_bounds(problem, min(found, key=problem.cost), tolerance)
    return _solution(problem, theta, problem.linear(theta)[0], fixed)


def _solution(
    problem: Problem, theta: np.ndarray, linear: np.ndarray, fixed: np.ndarray
) -> Solution:
    columns = problem.basis(theta)
    share = np.linalg.norm(columns, axis=0) * np.abs(linear)
    rounding = 1e-13 * np.linalg.norm(problem.y)
    linear = np.where(problem.nonnegative & (share <= rounding), 0.0, linear)
    residuals = problem.y - columns @ linear
    zero = problem.nonnegative & (linear == 0)
    return Solution(theta, linear, residuals, np.concatenate([fixed, zero]))

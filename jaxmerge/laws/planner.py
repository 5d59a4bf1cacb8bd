"""What a fitted law says about how many experts, and how large a model.

Answers are whole numbers; None is the answer where no number will do.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxmerge.laws._numbers import Real, Reals, whole_above
from jaxmerge.laws.curves import Curve, JointLaw


def _check_law(curve: Curve) -> None:
    if curve.form not in ("offset", "inverse") or np.any(np.asarray(curve.rise) != 0):
        raise ValueError(
            f"the curve has form {curve.form!r}"
            + (" and a bounded term" if np.any(np.asarray(curve.rise) != 0) else "")
            + "; plans are closed forms of floor + A / (k + b)"
        )
    values = [float(np.asarray(getattr(curve, n))) for n in ("amplitude", "offset")]
    if not (values[0] >= 0 and values[1] > -1):
        raise ValueError(
            f"the curve has amplitude {values[0]:g} and offset {values[1]:g}; expected "
            "at least 0, and above -1"
        )


def _positive(name: str, value: Real) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} is {value:g}; expected a positive number")


def experts_within(curve: Curve, slack: Real) -> int:
    """The smallest k within a slack of the floor, `ceil(A / slack - b)`.

    Args:
      curve: the law at one size.
      slack: epsilon, a positive loss.

    Raises:
      ValueError: if the slack is not positive.

    Example:
      >>> experts_within(Curve(0.2, 0.0738, 0.25), 0.01)
      8

    References:
      Model Merging Scaling Laws in Large Language Models, 2025, App. J.1.
    """
    _check_law(curve)
    _positive("slack", slack)
    return max(1, whole_above(float(curve.amplitude) / slack - float(curve.offset)))


def experts_for_loss(curve: Curve, target: Real) -> int | None:
    """The smallest k with an expected loss of at most a target.

        k = ceil(A / (target - floor) - b),    none if target <= floor

    Args:
      curve: the law at one size.
      target: a loss.

    Returns:
      k, or None where no number of experts reaches the target.

    Example:
      >>> curve = Curve(0.2, 0.05, 0.0)
      >>> experts_for_loss(curve, 0.21), experts_for_loss(curve, 0.2)
      (5, None)
    """
    _check_law(curve)
    slack = target - float(curve.floor)
    if float(curve.amplitude) == 0:
        return 1 if slack >= 0 else None
    return experts_within(curve, slack) if slack > 0 else None


def smallest_size(law: JointLaw, target: Real) -> float | None:
    """The size above which some number of experts reaches a target loss.

        N > (B / (target - L*))^(1 / beta),    none if target <= L*

    Args:
      law: the joint law.
      target: a loss.

    Returns:
      N in the law's unit; 0 if every size will do, None if none will.

    Example:
      >>> round(smallest_size(JointLaw(0.2, 0.1, 0.5, 0.05, 0.0), 0.25), 6)
      4.0
    """
    slack, big, beta = (
        target - float(law.floor),
        float(law.size_amplitude),
        float(law.size_exponent),
    )
    if slack <= 0:
        return None
    if big == 0:
        return 0.0
    if beta == 0:
        return 0.0 if big < slack else None
    return float((big / slack) ** (1 / beta))


def stop_after(curve: Curve, least_gain: Real) -> int:
    """After how many experts one more brings no more than a gain.

        k = ceil(-(b + 1/2) + sqrt(1/4 + A / tau)),    where L(k) - L(k + 1) <= tau

    With a price, `least_gain` is the price of an expert times what a unit of loss is
    worth.

    Args:
      curve: the law at one size.
      least_gain: tau, a positive loss.

    Example:
      >>> stop_after(Curve(0.2, 0.05, 0.0), 0.002)
      5
    """
    _check_law(curve)
    _positive("least_gain", least_gain)
    root = math.sqrt(0.25 + float(curve.amplitude) / least_gain)
    return max(1, whole_above(root - 0.5 - float(curve.offset)))


class Choice(NamedTuple):
    """A model size with a number of experts.

    Attributes:
      size: N.
      k: how many experts.
      loss: expected.
      cost: in the user's unit.
    """

    size: Real
    k: int
    loss: float
    cost: float


def best_choice(
    law: JointLaw,
    sizes: Reals,
    counts: Sequence[int],
    cost: Callable[[Any, int], Any],
    budget: Real,
) -> Choice | None:
    """The size and number of experts of least expected loss within a budget.

    Every pair is tried. Of equal losses the cheaper wins.

    Args:
      law: the joint law.
      sizes: the N that there are.
      counts: the k that are possible.
      cost: of size and k, such as `lambda size, k: size * k`.
      budget: the most that may be spent.

    Returns:
      The choice, or None where nothing can be had for the budget.

    Example:
      >>> law = JointLaw(0.2, 0.1, 0.5, 0.05, 0.0)
      >>> best_choice(law, [1, 4], range(1, 9), lambda n, k: n * k, 8)[:2]
      (4, 2)
    """
    options = [
        Choice(size, int(k), float(law(size, k)), float(cost(size, int(k))))
        for size in sizes
        for k in counts
    ]
    affordable = [o for o in options if o.cost <= budget]
    return min(affordable, key=lambda o: (o.loss, o.cost), default=None)


def balanced_experts(law: JointLaw, size: Real) -> float | None:
    """The k at which larger models and more experts pay alike, if cost is N times k.

        beta B N^-beta + gamma A(N) / (k + b) = k A(N) / (k + b)^2

    Fewer experts than that: add experts. More: take a larger model. With gamma = b = 0
    it is A0 N^beta / (beta B).

    Args:
      law: the joint law.
      size: N.

    Returns:
      k, a real number; inf if size does not matter, None if size always pays more.

    Example:
      >>> balanced_experts(JointLaw(0.2, 0.1, 0.5, 0.05, 0.0), 4.0)
      2.0
    """
    curve = law.at(size)
    amplitude, offset = float(curve.amplitude), float(law.offset)
    gamma, beta = float(law.amplitude_exponent), float(law.size_exponent)
    gain = beta * float(law.size_amplitude) * float(size) ** -beta
    # gain u^2 - slope u + A b = 0 with u = k + b, of which the larger root is best.
    slope = (1 - gamma) * amplitude
    if gain == 0:
        return math.inf if slope > 0 else None
    inside = slope**2 - 4 * gain * amplitude * offset
    if inside < 0 or slope <= 0:
        return None
    return (slope + math.sqrt(inside)) / (2 * gain) - offset

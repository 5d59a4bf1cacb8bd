"""Two stages: a curve at each size with one offset, then power laws of what it gave."""

import dataclasses

import numpy as np

from jaxmerge.laws._models import power_model
from jaxmerge.laws._numbers import Reals
from jaxmerge.laws._separable import solve
from jaxmerge.laws.curves import JointLaw
from jaxmerge.laws.fit import r_squared, weights_of
from jaxmerge.laws.tables import Points

_OFFSETS = tuple((np.arange(81) / 40).tolist())  # 0 to 2, in steps of the paper's


@dataclasses.dataclass(frozen=True)
class TwoStage:
    """What two stages gave.

    Attributes:
      law: the joint law; its `amplitude_exponent` may be negative.
      sizes: N, `(size,)`.
      floors: L_inf of each size, `(size,)`.
      amplitudes: A of each size, `(size,)`.
      r_squared_floor: of the power law of the floors.
      r_squared_amplitude: of the power law of the amplitudes; near 0 where tails do not
        depend on the size.
    """

    law: JointLaw
    sizes: np.ndarray
    floors: np.ndarray
    amplitudes: np.ndarray
    r_squared_floor: float
    r_squared_amplitude: float


def fit_two_stage(
    points: Points,
    *,
    weights: str | Reals = "k",
    offset_grid: Reals = _OFFSETS,
) -> TwoStage:
    """Fits a curve at each size, and power laws to their floors and amplitudes.

        L_inf(N) = L* + B N^-beta,    log A(N) = log A0 - gamma log N

    One offset serves all sizes: that of the grid with the least squared residuals.

    Args:
      points: of three sizes or more, at two k or more each.
      weights: of the squared residuals; see `weights_of`.
      offset_grid: the b that are tried.

    Returns:
      The law with the steps that led to it.

    Raises:
      ValueError: if there are too few sizes or k, or an amplitude is not positive, so
        that it has no logarithm.

    References:
      Model Merging Scaling Laws in Large Language Models, 2025, Table 12. That it was
      made in two stages is our reading of its separate R^2.
    """
    sizes = points.sizes
    if not np.all(points.size > 0) or len(sizes) < 3:
        raise ValueError(
            f"the points have {len(sizes)} sizes; two power laws in N take three, all "
            "told"
        )
    w = weights_of(points, weights)

    def curves(offset: float) -> tuple[np.ndarray, float]:
        found, squares = [], 0.0
        for size in sizes:
            own = points.size == size
            columns = np.stack(
                [np.ones(own.sum()), 1 / (points.k[own] + offset)], axis=1
            )
            if len(np.unique(points.k[own])) < 2:
                raise ValueError(f"size {size:g} has a single k; a curve takes two")
            root = np.sqrt(w[own])[:, None]
            line, *_ = np.linalg.lstsq(
                root * columns, root[:, 0] * points.mean[own], rcond=None
            )
            found.append(line)
            squares += float(np.sum(w[own] * (points.mean[own] - columns @ line) ** 2))
        return np.stack(found), squares

    offset = min(offset_grid, key=lambda b: curves(float(b))[1])
    floors, amplitudes = curves(float(offset))[0].T
    if not np.all(amplitudes > 0):
        bad = sizes[np.argmin(amplitudes)]
        raise ValueError(
            f"the loss at size {bad:g} does not fall with k, so that its amplitude, "
            f"{amplitudes.min():.3g}, has no power law"
        )
    model = power_model(sizes)
    found = solve(model.problem(floors, np.ones(len(sizes))))
    slope, start = np.polyfit(np.log(sizes), np.log(amplitudes), 1)
    law = JointLaw(
        floor=float(found.linear[0]),
        size_amplitude=float(found.linear[1]),
        size_exponent=float(found.theta[0]),
        amplitude=float(np.exp(start)),
        amplitude_exponent=float(-slope),
        offset=float(offset),
    )
    ones = np.ones(len(sizes))
    return TwoStage(
        law,
        sizes,
        floors,
        amplitudes,
        r_squared(floors, found.residuals, ones),
        r_squared(amplitudes, amplitudes - np.asarray(law.at(sizes).amplitude), ones),
    )

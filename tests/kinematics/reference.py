"""Intrinsic volumes that are known, in NumPy and float64."""

import numpy as np
from scipy.special import betainc, gammaln


def circular_volumes(dimension: int, half_angle: float) -> np.ndarray:
    """v_0, ..., v_d of the cone of directions within an angle of an axis."""
    d, k = dimension, np.arange(1, dimension)
    log_choose = (
        gammaln((d - 2) / 2 + 1)
        - gammaln((k - 1) / 2 + 1)
        - gammaln((d - 2) / 2 - (k - 1) / 2 + 1)
    )
    log = log_choose + (k - 1) * np.log(np.sin(half_angle))
    log += (d - k - 1) * np.log(np.cos(half_angle))
    cap = lambda angle: betainc((d - 1) / 2, 0.5, np.sin(angle) ** 2) / 2
    ends = cap(np.pi / 2 - half_angle), cap(half_angle)
    return np.concatenate([[ends[0]], np.exp(log) / 2, [ends[1]]])


def orthant_volumes(dimension: int) -> np.ndarray:
    k = np.arange(dimension + 1)
    log = gammaln(dimension + 1) - gammaln(k + 1) - gammaln(dimension - k + 1)
    return np.exp(log - dimension * np.log(2))


def subspace_volumes(dimension: int, subspace_dimension: int) -> np.ndarray:
    return np.eye(dimension + 1)[subspace_dimension]


def half_angle(sec_squared: float) -> float:
    return float(np.arccos(sec_squared**-0.5))


def moments(volumes: np.ndarray) -> tuple[float, float]:
    k = np.arange(volumes.shape[-1])
    mean = float(volumes @ k)
    return mean, float(volumes @ (k - mean) ** 2)

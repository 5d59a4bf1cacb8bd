"""Forecasts of what was not seen: larger k, and the largest model.

Each forecaster is given k up to `seen` of all sizes but the largest.
"""

from typing import Any

import numpy as np

from jaxmerge import laws

FORECASTERS = ("offset", "inverse", "logarithm", "last value")
_LABELS = {"offset": "the law", "inverse": "A / k", "logarithm": "-A log k"}


def label_of(forecaster: str) -> str:
    """Its name in tables and figures."""
    return _LABELS.get(forecaster, forecaster)


def more_experts(points: laws.Points, k: np.ndarray, forecaster: str) -> np.ndarray:
    """The mean loss of one size at larger k, from its own smaller ones.

    Args:
      points: of one size.
      k: where.
      forecaster: one of `FORECASTERS`.
    """
    if forecaster == "last value":
        return np.full(len(k), points.mean[np.argmax(points.k)])
    return np.asarray(laws.fit_curve(points, form=forecaster).law(k), np.float64)


def larger_model(
    points: laws.Points, size: float, k: np.ndarray, forecaster: str
) -> np.ndarray:
    """The mean loss of a larger model at all k, from smaller models' smaller k.

    "Last value" is the curve of the largest model that was seen, where it was.
    """
    if forecaster == "last value":
        last = points.at_size(points.sizes[-1])
        return np.interp(k, last.k, last.mean)
    law = laws.fit_joint(points, form=forecaster).law
    return np.asarray(law(np.full(len(k), size), k), np.float64)


def forecast(points: laws.Points, largest: float, pool: int) -> dict[str, Any]:
    """All forecasts, as JSON data, with the parameters that made them.

    Args:
      points: what may be seen.
      largest: N of the model that was not.
      pool: T; forecasts go up to it.
    """
    k = np.arange(1, pool + 1)
    beyond = k[k > points.k.max()]
    found: dict[str, Any] = {"k": k.tolist(), "beyond": beyond.tolist()}
    found["more_experts"] = {
        f"{size:g}": {
            name: more_experts(points.at_size(size), beyond, name).tolist()
            for name in FORECASTERS
        }
        for size in points.sizes
    }
    found["larger_model"] = {
        name: larger_model(points, largest, k, name).tolist() for name in FORECASTERS
    }
    fit = laws.fit_joint(points)
    found["law"] = dict(zip(fit.names, fit.values.tolist(), strict=True))
    return found

"""What the families say: the factors of the band, how often it holds, the errors."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxmerge.laws.foresight import QUANTILES, scale_of_error

Row = Mapping[str, Any]
FORECASTS = ("forecast", "second_order", "taylor_at_base", "three_point")


def ratios(row: Row) -> np.ndarray:
    """Errors of the forecast over their scale, for k > 1; at k = 1 both are zero."""
    third, second = np.asarray(row["forecast"]), np.asarray(row["second_order"])
    scale = scale_of_error(third, second)
    return (np.abs(np.asarray(row["measured"]) - third) / scale)[1:]


def calibrate(rows: Sequence[Row], seed: int = 0) -> dict[str, dict[float, float]]:
    """Quantiles of the ratios, plain, and such that they hold in 95 % of resamples.

    Whole families are resampled: the points of one are anything but independent.
    """
    groups = [ratios(row) for row in rows]
    rng = np.random.default_rng(seed)
    draws = [
        np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])
        for _ in range(2000)
    ]
    plain = {q: float(np.quantile(np.concatenate(groups), q)) for q in QUANTILES}
    safe = {
        q: float(np.quantile([np.quantile(d, q) for d in draws], 0.95))
        for q in QUANTILES
    }
    return {"plain": plain, "safe": safe}


def coverage(rows: Sequence[Row], level: float) -> tuple[float, float, float]:
    """The share of points k > 1 in the band, and a 95 % interval over families."""
    groups = [ratios(row) <= QUANTILES[level] for row in rows]
    rng = np.random.default_rng(1)
    draws = [
        np.concatenate(
            [groups[i] for i in rng.integers(len(groups), size=len(groups))]
        ).mean()
        for _ in range(2000)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(np.concatenate(groups).mean()), float(low), float(high)


def relative_error(row: Row, name: str) -> float | None:
    """The largest error over k, as a share of the whole drop of the measured curve."""
    if row[name] is None:
        return None
    measured = np.asarray(row["measured"])
    error = np.max(np.abs(np.asarray(row[name]) - measured))
    return float(error / (measured[0] - measured.min()))


def summary(calibration: Sequence[Row], test: Sequence[Row]) -> dict[str, Any]:
    """Everything that the page tells."""
    errors = {}
    for name in FORECASTS:
        found = [relative_error(row, name) for row in test]
        known = [x for x in found if x is not None]
        low, middle, high = np.quantile(known, [0.25, 0.5, 0.75])
        errors[name] = {
            "families": len(known),
            "median": float(middle),
            "quartiles": [float(low), float(high)],
            "largest": float(max(known)),
        }
    tails = [row["tail"]["at_mean"] / row["tail"]["fitted"] for row in test]
    return {
        "quantiles": calibrate(calibration) if calibration else None,
        "used": dict(QUANTILES),
        "coverage": {level: coverage(test, level) for level in QUANTILES},
        "largest_error_over_drop": errors,
        "tail_at_mean_over_fitted": np.quantile(tails, [0.1, 0.5, 0.9]).tolist(),
    }


def text(found: Mapping[str, Any]) -> str:
    """The summary as lines."""
    lines = []
    if found["quantiles"]:
        for name, values in found["quantiles"].items():
            listed = ", ".join(f"{q:g}: {v:.2f}" for q, v in values.items())
            lines.append(f"quantiles of error over scale, {name}: {listed}")
    for level, (share, low, high) in found["coverage"].items():
        lines.append(
            f"the {float(level):.0%} band holds {share:.1%} of the points "
            f"({low:.1%} to {high:.1%} over families)"
        )
    for name, error in found["largest_error_over_drop"].items():
        lines.append(
            f"{name}: largest error over the drop, median {error['median']:.1%} "
            f"(quartiles {error['quartiles'][0]:.1%} to {error['quartiles'][1]:.1%}, "
            f"worst {error['largest']:.1%}, {error['families']} families)"
        )
    low, middle, high = found["tail_at_mean_over_fitted"]
    lines.append(
        f"predicted tail over fitted: median {middle:.2f}, 80 % of families "
        f"{low:.2f} to {high:.2f}"
    )
    return "\n".join(lines)

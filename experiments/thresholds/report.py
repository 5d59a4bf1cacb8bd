"""Predictors of T scored by how many doublings they are off, against trivial ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.thresholds.config import Config
from experiments.thresholds.predict import crossing, of_pool_size, three_point

RESAMPLES = 1000
FEWEST = 4  # families, for an interval over them to mean anything
# What is fitted on other families: a line from the number to log T.
FITTED = ("mean_cosine", "mean_norm", "effective_rank")


def measured(
    losses: Mapping[int, Sequence[float]], share: float, seed: int
) -> tuple[float | None, float | None, float | None]:
    """T of the measured curve, with a bootstrap interval over the sets of each k."""
    counts = sorted(losses)
    k = np.array(counts, np.float64)
    values = [np.asarray(losses[n], np.float64) for n in counts]
    middle = crossing(k, np.array([v.mean() for v in values]), share)
    rng = np.random.default_rng([20261125, seed])
    drawn = []
    for _ in range(RESAMPLES):
        curve = np.array([rng.choice(v, len(v)).mean() for v in values])
        drawn.append(crossing(k, curve, share))
    kept = [value for value in drawn if value is not None]
    if middle is None or len(kept) < RESAMPLES / 2:
        return middle, None, None
    lower, upper = np.quantile(kept, [0.025, 0.975])
    return middle, float(lower), float(upper)


def _fitted(
    numbers: np.ndarray, logs: np.ndarray, families: np.ndarray
) -> list[float | None]:
    """For each pool the line through all other families' pools."""
    found: list[float | None] = []
    for i in range(len(numbers)):
        others = families != families[i]
        if len(np.unique(numbers[others])) < 2:
            found.append(None)
            continue
        slope, at = np.polyfit(numbers[others], logs[others], 1)
        found.append(float(2 ** (slope * numbers[i] + at)))
    return found


def _constants(logs: np.ndarray, families: np.ndarray) -> list[float | None]:
    """For each pool the geometric mean of all other families'."""
    found: list[float | None] = []
    for i in range(len(logs)):
        others = logs[families != families[i]]
        found.append(float(2 ** others.mean()) if len(others) else None)
    return found


def _score(
    predicted: Sequence[float | None],
    logs: np.ndarray,
    families: np.ndarray,
    constant: Sequence[float | None],
) -> dict[str, Any]:
    """Mean doublings off, where it says anything, and its lead over the constant.

    Intervals are over families, drawn with replacement.
    """
    told = np.array([p is not None for p in predicted])
    told &= np.array([c is not None for c in constant])
    if not told.any():
        return {"answers": 0}
    off = lambda xs: np.abs(
        np.log2(np.array([x for x, t in zip(xs, told, strict=True) if t], float))
        - logs[told]
    )
    own, trivial = off(predicted), off(constant)
    groups = families[told]
    names = np.unique(groups)
    rng = np.random.default_rng(20261125)
    leads, errors = [], []
    for _ in range(RESAMPLES):
        picked = rng.choice(names, len(names))
        rows = np.concatenate([np.flatnonzero(groups == name) for name in picked])
        errors.append(own[rows].mean())
        leads.append((trivial - own)[rows].mean())
    ends = lambda xs: [float(x) for x in np.quantile(xs, [0.025, 0.975])]
    return {
        "answers": int(told.sum()),
        "families": len(names),
        "error": [float(own.mean()), *ends(errors)],
        "lead": [float((trivial - own).mean()), *ends(leads)],
    }


def summary(
    config: Config,
    told: Sequence[dict[str, Any]],
    found: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Measured T, all predictions, and scores, as JSON data.

    Args:
      config: the settings.
      told: what `predictions` yields.
      found: what `curves` yields, in the same order.
    """
    pools = []
    for prediction, curve in zip(told, found, strict=True):
        losses = curve["losses"]
        value, lower, upper = measured(losses, config.share, config.seed)
        means = {k: float(np.mean(v)) for k, v in losses.items()}
        pools.append(
            {
                "family": prediction["family"],
                "training_seed": prediction["training_seed"],
                "experts": prediction["experts"],
                "measured": [value, lower, upper],
                "curve": means,
                "predicted": {
                    **prediction["definitions"],
                    "forecast": prediction["forecast"],
                    "pool_size": of_pool_size(prediction["experts"], config.share),
                    "three_point": three_point(
                        means, prediction["experts"], config.share
                    ),
                },
                "numbers": {name: prediction[name] for name in FITTED},
            }
        )
    scored = [pool for pool in pools if pool["measured"][0] is not None]
    families = np.array([pool["family"] for pool in scored])
    logs = np.log2([pool["measured"][0] for pool in scored])
    constant = _constants(logs, families)
    for pool, value in zip(scored, constant, strict=True):
        pool["predicted"]["constant"] = value
    for name in FITTED:
        numbers = np.array([pool["numbers"][name] for pool in scored])
        fitted = _fitted(numbers, logs, families)
        for pool, value in zip(scored, fitted, strict=True):
            pool["predicted"][f"fitted {name}"] = value
    names = list(dict.fromkeys(n for pool in scored for n in pool["predicted"]))
    scores = {
        name: _score(
            [pool["predicted"].get(name) for pool in scored], logs, families, constant
        )
        for name in names
    }
    missing: dict[str, str] = {}
    for prediction in told:
        missing |= prediction["missing"]
    return {"pools": pools, "scores": scores, "missing": missing}


def verdict(score: Mapping[str, Any]) -> str:
    """What is to be said of a predictor, against the constant."""
    if not score["answers"]:
        return "says nothing"
    if score["families"] < FEWEST:
        return "too few families"
    _, lower, upper = score["lead"]
    if lower > 0:
        return "better than a constant"
    return "worse than a constant" if upper < 0 else "useless: no better"


def table(found: dict[str, Any]) -> str:
    """Predictors by their error, best first, and what was measured."""
    lines = [f"{'predictor':<26}{'answers':>8}{'doublings off':>24}   verdict"]
    scores = found["scores"]
    order = sorted(scores, key=lambda n: scores[n].get("error", [np.inf])[0])
    for name in order:
        score = scores[name]
        cell = "-"
        if score["answers"]:
            mean, lower, upper = score["error"]
            cell = f"{mean:.2f} [{lower:.2f}, {upper:.2f}]"
        said = "" if name == "constant" else verdict(score)
        lines.append(f"{name:<26}{score['answers']:>8}{cell:>24}   {said}")
    for name, reason in found["missing"].items():
        lines.append(f"{name}: not determined ({reason.split(';')[0]})")
    return "\n".join(lines)

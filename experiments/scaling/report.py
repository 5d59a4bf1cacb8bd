"""Fits with intervals, rivals, forecasts scored, and the two laws of variance."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments.scaling.config import CANDIDATES, Config
from experiments.scaling.predict import FORECASTERS, label_of
from jaxmerge import laws


def _fitted(points: laws.Points, config: Config) -> dict[str, Any]:
    fits = laws.compare(points)
    law = next(fit for fit in fits if fit.law.form == "offset")
    law = laws.bootstrap(
        law, jax.random.key(config.seed), num_draws=config.draws, kind="residual"
    )
    return {
        "values": dict(zip(law.names, law.values.tolist(), strict=True)),
        "intervals": {name: _finite(law.interval(name)) for name in law.names},
        "active": dict(law.active),
        "r_squared": law.r_squared,
        "aicc": {fit.law.form: _or_none(fit.aicc) for fit in fits},
        "rivals": {
            fit.law.form: dict(zip(fit.names, fit.values.tolist(), strict=True))
            for fit in fits
        },
        "cautions": [caution.name for caution in law.cautions],
        "fitted": law.fitted.tolist(),
    }


def _or_none(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def _finite(ends: Any) -> list[float | None]:
    return [_or_none(x) for x in ends]


def _scored(points: laws.Points, told: dict[str, Any]) -> dict[str, Any]:
    """Mean absolute errors of the forecasts, in nats (or the loss's unit)."""
    errors: dict[str, Any] = {"more_experts": {}, "larger_model": {}}
    beyond = np.array(told["beyond"])
    largest = points.sizes[-1]
    seen = [float(size) for size in told["more_experts"]]
    for name in FORECASTERS:
        off = []
        for size in seen:
            own = points.at_size(points.sizes[np.argmin(abs(points.sizes - size))])
            measured = own.mean[np.isin(own.k, beyond)]
            predicted = told["more_experts"][f"{size:g}"][name]
            off += np.abs(measured - predicted).tolist()
        errors["more_experts"][name] = float(np.mean(off))
        own = points.at_size(largest)
        predicted = np.interp(own.k, told["k"], told["larger_model"][name])
        errors["larger_model"][name] = float(np.mean(np.abs(own.mean - predicted)))
    return errors


def _variances(points: laws.Points, pool: int) -> dict[str, Any]:
    """By size: which law of the variance is closer, and by how much."""
    found = {}
    for size in points.sizes:
        own = points.at_size(size)
        own = own.where(own.k < pool)
        try:
            fit = laws.fit_variance(own, pool)
        except ValueError as refusal:
            found[f"{size:g}"] = {"refused": str(refusal)}
            continue
        found[f"{size:g}"] = {"errors": fit.errors, "better": fit.better}
    return found


def summary(
    config: Config,
    points: dict[str, laws.Points],
    told: dict[str, Any],
    tasks: Sequence[str],
) -> dict[str, Any]:
    """By method, as JSON data.

    Args:
      config: the settings.
      points: of all merges, by method.
      told: forecasts, by method, as they were written before.
      tasks: those of every pool, T.
    """
    found = {}
    for name in config.methods:
        own = points[name]
        found[name] = {
            "label": CANDIDATES[name].label,
            "points": {
                "size": own.size.tolist(),
                "k": own.k.tolist(),
                "mean": own.mean.tolist(),
                "variance": [_or_none(v) for v in own.variance],
                "count": own.count.tolist(),
            },
            "fit": _fitted(own, config),
            "forecasts": told[name],
            "errors": _scored(own, told[name]),
            "variance": _variances(own, len(tasks)),
        }
    return {"methods": found, "tasks": list(tasks)}


def table(found: dict[str, Any]) -> str:
    """Parameters with intervals, rivals, errors of the forecasts, laws of variance."""
    lines = []
    for method in found["methods"].values():
        fit = method["fit"]
        lines.append(f"{method['label']}: R² {fit['r_squared']:.3f}")
        for name, value in fit["values"].items():
            lower, upper = fit["intervals"][name]
            ends = "" if lower is None else f" [{lower:.3g}, {upper:.3g}]"
            at = (
                f" (at its {fit['active'][name]} bound)"
                if name in fit["active"]
                else ""
            )
            lines.append(f"  {name:<20}{value:.4g}{ends}{at}")
        known = {k: v for k, v in fit["aicc"].items() if v is not None}
        ranked = sorted(known, key=lambda form: known[form])
        least = known[ranked[0]]
        told = ", ".join(f"{form} +{known[form] - least:.1f}" for form in ranked)
        lines.append(f"  AICc                {told}")
        for what, errors in method["errors"].items():
            told = ", ".join(f"{label_of(n)} {e:.4f}" for n, e in errors.items())
            lines.append(f"  {what.replace('_', ' ') + ', error':<22}{told}")
        better = [v.get("better", "refused") for v in method["variance"].values()]
        lines.append(
            f"  {'variance':<20}1/k closer in {better.count('population')} sizes, "
            f"the finite pool's in {better.count('finite_pool')} of {len(better)}"
        )
    return "\n".join(lines)

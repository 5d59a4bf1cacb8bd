"""The summary of a run, from its rows alone, and its tables as text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.common.intervals import spearman
from experiments.stability.config import Config, merges
from experiments.stability.score import (
    KINDS,
    OUTCOMES,
    SETTINGS,
    SIMPLE,
    SUMS,
    best_steps,
    correlations,
    equal_lengths,
    knob_effects,
    outcomes,
    predictors,
    vacuity,
)
from experiments.stability.sweep import infinite
from jaxmerge.stability.bound import TERMS

PREDICTORS = (*TERMS, *SUMS, *SIMPLE, *SETTINGS)
_MEASURED = ("risk", "train", "tuned")


def gather(
    config: Config, predicted: Sequence[Mapping], measured: Sequence[Mapping], kind: str
) -> list[dict[str, Any]]:
    """What `score` takes: a cell for each group and training seed."""
    key = lambda row: (row["group"], row.get("training_seed"))
    mine = lambda rows: [row for row in rows if row["kind"] == kind]
    terms = {row["group"]: row for row in mine(predicted) if row["what"] == "terms"}
    simple = {key(row): row for row in mine(predicted) if row["what"] != "terms"}
    cells = []
    for row in mine(measured):
        as_arrays = lambda source, names: {n: infinite(source[n]) for n in names}
        about = as_arrays(terms[row["group"]], (*TERMS, "length", "vacuous"))
        chosen = merges(config, row["group"], kind)
        cells.append(
            {
                "group": row["group"],
                "predictors": predictors(
                    config, about, as_arrays(simple[key(row)], SIMPLE[2:]), chosen
                ),
                "outcomes": outcomes(
                    as_arrays(row, _MEASURED), row["beside"]["base"], about["start_gap"]
                ),
                "base": row["beside"]["base"],
                "vacuous": about["vacuous"].astype(bool),
                "excess": infinite(row["risk"]) - row["beside"]["multitask"],
            }
        )
    return cells


def pooled_correlations(cells: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Of predictors with excess risk over all merges of all groups at once."""
    excess = np.concatenate([cell["excess"] for cell in cells])
    found = {}
    for name in PREDICTORS:
        x = np.concatenate([cell["predictors"][name] for cell in cells])
        value = spearman(x, excess)
        found[name] = round(float(value), 4) if np.isfinite(value) else None
    return found


def comparisons(measured: Sequence[Mapping]) -> dict[str, float]:
    """Mean test losses of merges and of what stands beside them."""
    names = ("risk", "tuned", "ensemble", "expert", "best", "train")
    found = {n: np.mean([np.mean(row[n]) for row in measured]) for n in names}
    least = {
        f"least {n}": np.mean([min(row[n]) for row in measured]) for n in names[:2]
    }
    beside = {
        n: np.mean([row["beside"][n] for row in measured])
        for n in ("base", "multitask")
    }
    return {n: round(float(x), 4) for n, x in (found | least | beside).items()}


def summarise(config: Config, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """By model and kind: correlations, vacuity, best K and knobs.

    Args:
      config: the settings.
      found: by model, its `predicted` and `measured` rows and `smoothness`.
    """
    summary: dict[str, Any] = {}
    for model, rows in found.items():
        summary[model] = {"smoothness": round(rows["smoothness"], 3)}
        for kind in KINDS:
            cells = gather(config, rows["predicted"], rows["measured"], kind)
            mine = [row for row in rows["measured"] if row["kind"] == kind]
            part = {
                "correlations": correlations(config, cells),
                "pooled": pooled_correlations(cells),
                "vacuity": vacuity(config, cells, rows["smoothness"]),
                "losses": comparisons(mine),
            }
            if kind == "matched":
                labels = equal_lengths(config)
                part["at equal length"] = correlations(config, cells, labels)
                part["best steps"] = best_steps(config, cells)
                part["knobs"] = knob_effects(config, cells)
            summary[model][kind] = part
    return summary


def _cell(value: Mapping[str, float] | None) -> str:
    if value is None:
        return "—"
    return f"{value['mean']:+.2f} [{value['low']:+.2f}, {value['high']:+.2f}]"


def _lines(found: Mapping[str, Any]) -> list[str]:
    """A line for each predictor that is not constant."""
    lines = []
    for name in PREDICTORS:
        row = found[name]
        if row["risk"] is not None:
            cells = (f"{_cell(row[outcome]):>22}" for outcome in OUTCOMES)
            lines.append(f"  {name:<24}" + "".join(cells))
    return lines


def text(summary: Mapping[str, Any]) -> str:
    """Tables of correlations with risk and gap, and what is vacuous."""
    lines = []
    for model, parts in summary.items():
        for kind in KINDS:
            part = parts[kind]
            vacuous = part["vacuity"]
            lines += [
                f"{model}, {kind} settings: L = {parts['smoothness']:g}, "
                f"{vacuous['merges']} merges, vacuous "
                f"{vacuous['vacuous']['mean']:.1%}, bound holds {vacuous['holds']:.1%}",
                f"  {'term':<24}{'excess risk':>22}{'gap':>22}{'tuned scale':>22}",
            ]
            lines += _lines(part["correlations"])
            if kind == "matched":
                lines += ["  at equal η and K:", *_lines(part["at equal length"])]
            losses = ", ".join(f"{n} {x:.3f}" for n, x in part["losses"].items())
            lines += [f"  losses: {losses}", ""]
    return "\n".join(lines)

"""The record as a table."""

from collections.abc import Mapping
from typing import Any

_LABELS = {
    "advised": "what is advised",
    "task_arithmetic": "always task arithmetic",
    "best_on_average": "always the best of the other pools",
    "best_on_other_sets": "always the best of all other sets",
}


def _interval(x: Mapping[str, float], factor: float = 1.0) -> str:
    mean, lower, upper = (factor * x[name] for name in ("mean", "lower", "upper"))
    return f"{mean:6.1f} ({lower:5.1f} to {upper:5.1f})"


def _block(title: str, scores: Mapping[str, Any]) -> list[str]:
    lines = [f"{title:<36}{'best, % of sets':<26}{'regret, points':<26}advice ahead by"]
    for name, label in _LABELS.items():
        if name not in scores:
            continue
        one = scores[name]
        ahead = _interval(one["ahead"]) if "ahead" in one else ""
        hits, regret = _interval(one["hit_rate"], 100), _interval(one["regret"])
        lines.append(f"{label:<36}{hits:<26}{regret:<26}{ahead}".rstrip())
    return lines


def table(record: Mapping[str, Any]) -> str:
    """The record in lines.

    Args:
      record: from `make_record`.
    """
    given = {k: v for k, v in record["advice_given"].items() if v}
    best = {k: v for k, v in record["best"].items() if v}
    lines = [
        f"{record['sets']} sets of experts in {record['pools']} pools, "
        f"{record['candidates']} candidates; mean and 95 %",
        "",
        *_block("published scales", record),
        "",
        *_block("scales tuned on validation", record["tuned"]),
        "",
        "task arithmetic at the scale advised, points of accuracy:",
        f"  ahead of scale 0.3   {_interval(record['scale']['ahead_of_published'])}",
        f"  behind a tuned scale {_interval(record['scale']['behind_tuned'])}",
        "",
        "advised: " + ", ".join(f"{k} {v}" for k, v in given.items()),
        "best:    " + ", ".join(f"{k} {v}" for k, v in best.items()),
        "",
        f"{'by pool: hits, % / regret':<28}" + "".join(f"{n:<22}" for n in _LABELS),
    ]
    for pool, scores in record["by_pool"].items():
        cells = (
            f"{100 * scores[n]['hit_rate']:.0f} / {scores[n]['regret']:.1f}"
            for n in _LABELS
        )
        lines.append(f"{pool:<28}" + "".join(f"{cell:<22}" for cell in cells).rstrip())
    return "\n".join(lines)

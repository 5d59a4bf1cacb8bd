"""Which measure goes with what is lost, and which method with what is regained."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.common.curves import by_family, means, retention, set_name, values_of
from experiments.common.intervals import Interval, paired, spearman
from experiments.common.methods import select
from experiments.mechanisms.config import MECHANISMS, Config

RESAMPLES = 1000


def rank_correlation(
    x: Sequence[float], y: Sequence[float], groups: Sequence[Any], seed: int = 0
) -> Interval:
    """Spearman's correlation within groups, averaged over them, with an interval.

    Args:
      x: a number of each set of experts.
      y: another.
      groups: of each set; ranks are taken within its group only.
      seed: of the bootstrap over the sets of each group.
    """
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    names = list(dict.fromkeys(groups))
    members = [np.flatnonzero([g == name for g in groups]) for name in names]
    members = [own for own in members if len(own) > 2]

    def mean(sets: Sequence[np.ndarray]) -> float:
        found = np.array([spearman(a[own], b[own]) for own in sets])
        found = found[np.isfinite(found)]
        return float(found.mean()) if len(found) else float("nan")

    rng = np.random.default_rng([20261125, seed])
    drawn = [
        mean([rng.choice(own, len(own)) for own in members]) for _ in range(RESAMPLES)
    ]
    kept = [value for value in drawn if np.isfinite(value)]
    if not kept:
        return Interval(mean(members), float("nan"), float("nan"))
    lower, upper = np.quantile(kept, [0.025, 0.975])
    return Interval(mean(members), float(lower), float(upper))


def _lost(pool: Mapping[str, Any], method: str, column: str) -> dict[str, float]:
    """1 - retention of one method, by set."""
    return {
        set_name(row["members"]): 1
        - retention(row[column]["loss"], pool["references"], row["members"])
        for row in pool["merges"]
        if row["method"] == method
    }


def summary(config: Config, pools: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By family: mechanisms over k, retention over k, leads over the tuned average."""
    families = {}
    for family, own in by_family(pools).items():
        families[family] = {
            "label": own[0]["label"],
            "mechanisms": {name: _over_k(own, name) for name in MECHANISMS},
            "retention": {
                m.name: {
                    k: list(i)
                    for k, i in means(
                        values_of(own, m.name, "tuned", "retention")
                    ).items()
                }
                for m in select(config.methods)
            },
            "lead": {
                m.name: _lead(own, m.name)
                for m in select(config.methods)
                if m.name != "average"
            },
        }
    return {
        "families": families,
        "lost": _correlations(pools, None),
        "regained": {
            m.name: _correlations(pools, m.name)
            for m in select(config.methods)
            if m.name != "average"
        },
    }


def _over_k(pools: Sequence[dict[str, Any]], name: str) -> dict[int, list[float]]:
    """Median and range over sets and seeds, at each k."""
    values: dict[int, list[float]] = {}
    for pool in pools:
        for row in pool["mechanisms"]:
            number = row["measures"][name]
            if number is not None:
                values.setdefault(len(row["members"]), []).append(number)
    return {k: [float(np.median(v)), min(v), max(v)] for k, v in sorted(values.items())}


def _lead(pools: Sequence[dict[str, Any]], method: str) -> dict[int, list[float]]:
    ours = values_of(pools, method, "tuned", "retention")
    theirs = values_of(pools, "average", "tuned", "retention")
    return {k: list(paired(ours[k], theirs[k])) for k in ours}


def _correlations(
    pools: Sequence[dict[str, Any]], method: str | None
) -> dict[str, list[float]]:
    """Of each measure with what the tuned average loses, or a method regains of it.

    Within sets of one family and one k: that both grow with k is no evidence.
    """
    found = {}
    for name in MECHANISMS:
        x, y, groups = [], [], []
        for pool in pools:
            lost = _lost(pool, "average", "tuned")
            own = {} if method is None else _lost(pool, method, "tuned")
            for row in pool["mechanisms"]:
                number, key = row["measures"][name], set_name(row["members"])
                if number is None or (method is not None and key not in own):
                    continue
                x.append(number)
                y.append(lost[key] if method is None else lost[key] - own[key])
                groups.append((pool["family"], len(row["members"])))
        found[name] = [None if v != v else v for v in rank_correlation(x, y, groups)]
    return found


def table(config: Config, found: dict[str, Any]) -> str:
    """Leads over the tuned average at the most experts; correlations with measures."""
    names = list(found["families"])
    lines = ["retention at the most experts, points ahead of the tuned average"]
    lines.append(f"  {'':<18}" + "".join(f"{name:>26}" for name in names))
    for method in select(config.methods):
        if method.name == "average":
            continue
        cells = []
        for name in names:
            lead = found["families"][name]["lead"][method.name]
            mean, lower, upper = (100 * x for x in lead[max(lead)])
            cells.append(f"{mean:+.1f} [{lower:+.1f}, {upper:+.1f}]")
        lines.append(f"  {method.label:<18}" + "".join(f"{c:>26}" for c in cells))
    lines.append("rank correlation, within a family and k, of each measure with")
    lines.append(f"  {'':<18}" + "".join(f"{name:>26}" for name in MECHANISMS))
    rows = {"what is lost": found["lost"]}
    labels = {m.name: m.label for m in select(config.methods)}
    rows |= {f"{labels[m]} regains": row for m, row in found["regained"].items()}
    for label, row in rows.items():
        cells = [_cell(row[name]) for name in MECHANISMS]
        lines.append(f"  {label:<18}" + "".join(f"{c:>26}" for c in cells))
    return "\n".join(lines)


def _cell(values: Sequence[float | None]) -> str:
    mean, lower, upper = values
    if mean is None:
        return "-"
    if lower is None or upper is None:
        return f"{mean:+.2f}"
    return f"{mean:+.2f} [{lower:+.2f}, {upper:+.2f}]"

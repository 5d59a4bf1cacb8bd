"""How far our default is ahead of every other method, and how far from the best."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.common.curves import COLUMNS, ByCount, by_family, means, values_of
from experiments.common.intervals import Interval, interval, paired
from experiments.common.methods import METHODS, select
from experiments.saturation.config import Config

OURS = "default"


def summary(config: Config, pools: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All numbers, as JSON data.

    Args:
      config: the settings.
      pools: what `run_sweep` yields.
    """
    families = {}
    for family, own in by_family(pools).items():
        families[family] = {
            "label": own[0]["label"],
            "parameters": own[0]["parameters"],
            "experts": [len(pool["tasks"]) for pool in own],
            **{column: _column(config, own, column) for column in COLUMNS},
        }
    regrets = {column: regret(families, column) for column in COLUMNS}
    return {"families": families, "regrets": regrets}


def _column(
    config: Config, pools: Sequence[dict[str, Any]], column: str
) -> dict[str, Any]:
    """Of one family: each method's curves, its mean, and what ours is ahead of it."""
    ours = flat(values_of(pools, OURS, column, "retention"))
    found = {}
    for method in select(config.methods):
        kept = values_of(pools, method.name, column, "retention")
        losses = values_of(pools, method.name, column, "pooled_loss")
        groups = flat(kept)
        found[method.name] = {
            "retention": {k: list(i) for k, i in means(kept).items()},
            "pooled_loss": {k: list(i) for k, i in means(losses).items()},
            "mean": list(interval([list(g.values()) for g in groups.values()])),
            "ahead": list(paired(ours, groups)),
        }
    return found


def flat(values: ByCount) -> dict[int, dict[str, float]]:
    """The sets of every k above 1 together, by training seed; each k counts alike.

    Where there are fewer sets, as of the whole pool, each stands several times.

    >>> flat({2: {0: {"0-1": 0.5, "0-2": 0.3}}, 3: {0: {"all": 0.1}}})
    {0: {'0-1': 0.5, '0-2': 0.3, 'all': 0.1, 'all again 1': 0.1}}
    """
    found: dict[int, dict[str, float]] = {}
    most = max(len(sets) for seeds in values.values() for sets in seeds.values())
    for k, seeds in values.items():
        for seed, sets in seeds.items():
            if k == 1:
                continue
            own = found.setdefault(seed, {})
            own.update(sets)
            for i in range(1, most // len(sets)):
                own |= {f"{name} again {i}": value for name, value in sets.items()}
    return found


def data_free(names: Sequence[str]) -> list[str]:
    """Those methods that take no data, in the order of `METHODS`."""
    return [m.name for m in METHODS if m.name in names and not m.informed]


def regret(families: Mapping[str, Any], column: str) -> dict[str, dict[str, Any]]:
    """For each data-free method the worst and mean distance from a family's best one.

    In points of retention; what a user who knows nothing of the family risks.
    """
    names = data_free(list(next(iter(families.values()))[column]))
    means_of = {
        name: np.array([f[column][name]["mean"][0] for f in families.values()])
        for name in names
    }
    best = np.max(np.stack(list(means_of.values())), axis=0)
    found = {}
    for name, values in means_of.items():
        lost = best - values
        found[name] = {
            "worst": float(lost.max()),
            "worst_family": list(families)[int(lost.argmax())],
            "mean": float(lost.mean()),
        }
    return found


def table(config: Config, found: dict[str, Any]) -> str:
    """Each method's mean retention in every family, and its largest regret."""
    parts = []
    for column in COLUMNS:
        heads = [*found["families"], "worst regret", "mean regret"]
        parts.append(f"{column}: mean retention over k > 1, %")
        parts.append(f"  {'':<18}" + "".join(f"{h:>14}" for h in heads))
        order = sorted(
            select(config.methods),
            key=lambda m: found["regrets"][column].get(m.name, {"worst": np.inf})[
                "worst"
            ],
        )
        for method in order:
            cells = [
                f"{100 * f[column][method.name]['mean'][0]:.1f}"
                for f in found["families"].values()
            ]
            lost = found["regrets"][column].get(method.name)
            cells += (
                ["-", "-"]
                if lost is None
                else [f"{100 * lost['worst']:.1f}", f"{100 * lost['mean']:.1f}"]
            )
            line = "".join(f"{cell:>14}" for cell in cells)
            parts.append(f"  {method.label:<18}{line}")
        parts.append(f"{column}: ahead of the average, points")
        for name, family in found["families"].items():
            lead = Interval(*(100 * x for x in family[column]["average"]["ahead"]))
            parts.append(f"  {name:<18}{lead}")
    return "\n".join(parts)

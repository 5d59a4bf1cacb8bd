"""What RHT gains over its rivals, paired over sets and training seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.common.curves import ByCount, by_family, means, values_of
from experiments.common.intervals import paired
from experiments.heavy_tails.config import KINDS, Config
from experiments.heavy_tails.sweep import tuned_rows

RIVALS = ("control", "matched", "ties", "dare", "average")
_LABELS = {**KINDS, "average": "average"}


def summary(config: Config, pools: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By family: retention by density and by k, and paired differences."""
    families = {}
    for family, own in by_family(pools).items():
        tuned = [{**pool, "merges": tuned_rows(pool)} for pool in own]
        families[family] = {
            "label": own[0]["label"],
            "kurtosis": float(np.mean([pool["kurtosis"] for pool in own])),
            "by_density": _by_density(config, own),
            "tuned": {
                kind: _curve(values_of(tuned, kind, "tuned", "retention"))
                for kind in (*KINDS, "average")
            },
            "density": _densities(tuned),
            "ahead": {rival: _ahead(tuned, rival) for rival in RIVALS},
        }
    return {"families": families}


def _curve(values: ByCount) -> dict[int, list[float]]:
    return {k: list(i) for k, i in means(values).items()}


def _by_density(config: Config, pools: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Retention with the scale tuned, for each kind and density, at every k."""
    return {
        kind: {
            f"{density:g}": _curve(
                values_of(pools, f"{kind}_{density:g}", "tuned", "retention")
            )
            for density in config.densities
        }
        for kind in KINDS
    }


def _ahead(tuned: Sequence[dict[str, Any]], rival: str) -> dict[int, list[float]]:
    ours = values_of(tuned, "rht", "tuned", "retention")
    theirs = values_of(tuned, rival, "tuned", "retention")
    return {k: list(paired(ours[k], theirs[k])) for k in ours}


def _densities(tuned: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The mean density that validation chose."""
    rows = [row for pool in tuned for row in pool["merges"]]
    return {
        kind: float(np.mean([r["density"] for r in rows if r["method"] == kind]))
        for kind in KINDS
    }


def table(found: dict[str, Any]) -> str:
    """One table a family: RHT's retention less its rivals', in points, at every k."""
    parts = []
    for name, family in found["families"].items():
        parts.append(
            f"{name}: {family['label']}; excess kurtosis {family['kurtosis']:.1f}; RHT "
            f"keeps {family['density']['rht']:.0%} of entries when tuned"
        )
        counts = list(next(iter(family["ahead"].values())))
        parts.append(
            f"  {'RHT ahead of, points':<30}"
            + "".join(f"{f'k = {k}':>21}" for k in counts)
        )
        for rival, ahead in family["ahead"].items():
            cells = [
                f"{100 * m:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
                for m, low, high in ahead.values()
            ]
            parts.append(f"  {_LABELS[rival]:<30}" + "".join(f"{c:>21}" for c in cells))
    return "\n".join(parts)

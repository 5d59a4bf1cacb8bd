"""Numbers with intervals, and the tables that show them."""

from collections.abc import Sequence
from typing import Any

from experiments.common.curves import (
    COLUMNS,
    by_family,
    means,
    pooled_references,
    share_reached,
    values_of,
)
from experiments.common.intervals import Interval, paired
from experiments.common.methods import select
from experiments.saturation.config import Config

FUNCTIONALS = ("pooled_loss", "retention", "accuracy")
# What every method is compared with: the average, at the scale that is best for it.
CONTROL = ("average", "tuned")


def summary(
    config: Config, pools: Sequence[dict[str, Any]], population: list[dict[str, Any]]
) -> dict[str, Any]:
    """All curves of all families, as JSON data.

    Args:
      config: the settings.
      pools: what `run_sweep` yields.
      population: what `measure_population` returns.
    """
    families = {}
    for family, own in by_family(pools).items():
        families[family] = {
            "label": own[0]["label"],
            "parameters": own[0]["parameters"],
            "experts": [len(pool["tasks"]) for pool in own],
            "dropped": [pool["dropped"] for pool in own],
            "references": pooled_references([pool["references"] for pool in own]),
            "methods": {m.name: _curves(own, m.name) for m in select(config.methods)},
            "ensemble": _curves(own, "ensemble", ("published",)),
        }
    return {"families": families, "population": population}


def _curves(
    pools: Sequence[dict[str, Any]], method: str, columns: Sequence[str] = COLUMNS
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for column in columns:
        curves = {}
        for functional in FUNCTIONALS:
            values = values_of(pools, method, column, functional)
            if any(
                x != x for g in values.values() for s in g.values() for x in s.values()
            ):
                continue
            curves[functional] = {k: list(i) for k, i in means(values).items()}
        found[column] = curves
        losses = {k: i[0] for k, i in curves["pooled_loss"].items()}
        found[f"{column}_k90"] = share_reached(losses)
        ours = values_of(pools, method, column, "retention")
        theirs = values_of(pools, *CONTROL, "retention")
        common = [k for k in ours if k in theirs]
        found[f"{column}_ahead"] = {k: list(paired(ours[k], theirs[k])) for k in common}
    return found


def table(config: Config, found: dict[str, Any]) -> str:
    """One table a family: each method at the most experts, in both columns."""
    parts = []
    for name, family in found["families"].items():
        ref = family["references"]
        shown = ", ".join(f"{key.replace('_', ' ')} {x:.4g}" for key, x in ref.items())
        parts.append(
            f"{name}: {family['label']}, {family['parameters']:,} parameters, "
            f"{max(family['experts'])} experts; pooled loss: {shown}"
        )
        heads = ("published", "k90", "retention", "tuned", "k90", "retention", "ahead")
        parts.append(f"  {'at all experts':<18}" + "".join(f"{h:>12}" for h in heads))
        for method in select(config.methods):
            parts.append(_row(method.label, family["methods"][method.name]))
    return "\n".join(parts)


def _row(label: str, curves: dict[str, Any]) -> str:
    cells = []
    for column in COLUMNS:
        losses, kept = curves[column]["pooled_loss"], curves[column]["retention"]
        last = max(losses)
        cells += [
            f"{losses[last][0]:.4g}",
            str(curves[f"{column}_k90"] or "-"),
            f"{kept[last][0]:.1%}",
        ]
    ahead = curves["tuned_ahead"]
    cells.append(f"{100 * Interval(*ahead[max(ahead)]).mean:+.1f}")
    return f"  {label:<18}" + "".join(f"{cell:>12}" for cell in cells)

"""From rows to results: retention and mean accuracy by recipe and k."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.more_experts.recipes import RECIPES
from experiments.more_experts.tasks import TASKS
from experiments.more_experts.train import Trained


def retention(
    accuracy: Sequence[Any], experts: Sequence[int], own: np.ndarray
) -> float:
    """The mean over the merged experts of what is kept of their own accuracy."""
    return float(np.mean([accuracy[t] / own[t] for t in experts]))


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": float(np.mean(values)),
        "low": float(np.min(values)),
        "high": float(np.max(values)),
    }


def _points(
    rows: Sequence[Mapping[str, Any]], column: str, own: np.ndarray, one_model: bool
) -> list[dict[str, Any]]:
    """One point for each k: mean, lowest and highest over the sets of experts.

    A merge that gives a model per task has no accuracy over all tasks: which model an
    input goes to was told to it.
    """
    by_count = defaultdict(list)
    for row in rows:
        by_count[len(row["experts"])].append(row)
    points = []
    for count, group in sorted(by_count.items()):
        kept = [retention(row[column], row["experts"], own) for row in group]
        point = {"k": count, "sets": len(group), "retention": _spread(kept)}
        if one_model:
            point["accuracy"] = _spread([float(np.mean(r[column])) for r in group])
        if column == "tuned_accuracy":
            point["multiplier"] = _spread([row["tuned_multiplier"] for row in group])
        points.append(point)
    return points


def summarise(rows: Sequence[Mapping[str, Any]], trained: Trained) -> dict[str, Any]:
    """The results of a run as JSON data: everything that the figure and table show.

    `curves` holds for each recipe, at its published and at its tuned scale, one point
    for each k with the mean, the lowest and the highest over the sets of experts.
    """
    curves = []
    for recipe in RECIPES:
        mine = [row for row in rows if row["recipe"] == recipe.name]
        if not mine:
            continue
        own, one_model = trained.own_accuracy, not recipe.needs_task_id
        curve = {
            "recipe": recipe.name,
            "label": recipe.label,
            "needs_task_id": recipe.needs_task_id,
            "published": _points(mine, "accuracy", own, one_model),
        }
        if one_model:
            curve["tuned"] = _points(mine, "tuned_accuracy", own, one_model)
        curves.append(curve)
    tasks = {task.name: task for task in TASKS}
    # What no merging at all would keep: the base itself, on all tasks.
    base_kept = float(np.mean(trained.base_accuracy / trained.own_accuracy))
    multitask_kept = float(np.mean(trained.multitask_accuracy / trained.own_accuracy))
    return {
        "tasks": [
            {
                "name": name,
                "renames": [list(cycle) for cycle in tasks[name].cycles],
                "base": float(trained.base_accuracy[t]),
                "expert": float(trained.own_accuracy[t]),
                "multitask": float(trained.multitask_accuracy[t]),
            }
            for t, name in enumerate(trained.names)
        ],
        "expert_on_task": trained.expert_accuracy.tolist(),
        "references": {
            "base": {
                "accuracy": float(trained.base_accuracy.mean()),
                "retention": base_kept,
            },
            "best expert": {
                "accuracy": float(trained.expert_accuracy.mean(axis=1).max())
            },
            "multitask": {
                "accuracy": float(trained.multitask_accuracy.mean()),
                "retention": multitask_kept,
            },
        },
        "curves": curves,
        "rows": [dict(row) for row in rows],
    }


def merge_table(results: Mapping[str, Any], measure: str) -> str:
    """Retention or accuracy by recipe (row) and k (column), published then tuned."""
    counts = sorted({p["k"] for curve in results["curves"] for p in curve["published"]})
    lines = [f"{measure + ', %':<31}" + "".join(f"{f'k={k}':>6}" for k in counts)]
    for column in ("published", "tuned"):
        for curve in results["curves"]:
            at = {
                point["k"]: f"{100 * point[measure]['mean']:>6.1f}"
                for point in curve.get(column, ())
                if measure in point
            }
            if at:
                name = f"{curve['label']:<21} {column:<9}"
                lines.append(name + "".join(at.get(k, f"{'–':>6}") for k in counts))
    return "\n".join(lines)

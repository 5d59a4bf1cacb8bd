"""How good the advice has been: what `experiments/diagnose` has scored."""

import importlib.resources
import json
from typing import Any


def record() -> dict[str, Any]:
    """The score of the advised method over real merges, as it was measured.

    Returns:
      As `experiments.diagnose.score.make_record` made it: among others `sets`, how many
      sets of experts, and under `advised`, `task_arithmetic` and `best_on_average` the
      `hit_rate` and the `regret` with `mean`, `lower` and `upper`. Intervals are of
      95 %, by a bootstrap over sets, which overlap.

    Example:
      >>> sorted(record()["advised"])
      ['hit_rate', 'regret']
    """
    file = importlib.resources.files("jaxmerge.diagnose") / "record.json"
    return json.loads(file.read_text())


def sentence(found: dict[str, Any]) -> str:
    """The record in a few sentences, for every report.

    Args:
      found: from `record`.
    """
    share = lambda x: (
        f"{100 * x['mean']:.0f} % ({100 * x['lower']:.0f} to {100 * x['upper']:.0f})"
    )
    points = lambda x: f"{x['mean']:.1f} ({x['lower']:.1f} to {x['upper']:.1f})"
    advised = found["advised"]
    rivals = (
        ("task arithmetic at scale 0.3", "task_arithmetic"),
        (f"what is best on the other pools, {found['best_method']}", "best_on_average"),
    )
    others = "; ".join(
        f"always {label}: best on {share(found[name]['hit_rate'])}, the advice is "
        f"{points(found[name]['ahead'])} points ahead"
        for label, name in rivals
    )
    given = ", ".join(f"{n} {num}" for n, num in found["advice_given"].items() if num)
    return (
        f"How good this advice has been: over {found['sets']} sets of experts in "
        f"{found['pools']} pools of small networks the advised method was the best of "
        f"{found['candidates']} on {share(advised['hit_rate'])} of the sets, "
        f"{points(advised['regret'])} points of accuracy behind the best on average. "
        f"Compared with {others}. What was advised: {given}. Intervals are of 95 %."
    )

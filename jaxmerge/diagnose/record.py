"""How good the advice has been: what `experiments/diagnose` has scored."""

import importlib.resources
import json
from typing import Any


def record() -> dict[str, Any]:
    """The score of the advised method over real merges, as it was measured.

    Returns:
      `sets`, how many sets of experts; `hits`, on how many the advised method was the
      best of all; `hit_rate` and `regret` with `mean`, `lower` and `upper`; and the
      same for what it is compared with. Intervals are of 95 %, by a bootstrap over
      sets, which overlap.

    Example:
      >>> sorted(record())[:2]
      ['advised', 'best_on_average']
    """
    file = importlib.resources.files("jaxmerge.diagnose") / "record.json"
    return json.loads(file.read_text())


def sentence(found: dict[str, Any]) -> str:
    """The record in a sentence or two, for every report.

    Args:
      found: from `record`.
    """
    share = lambda x: (
        f"{100 * x['mean']:.0f} % ({100 * x['lower']:.0f} to {100 * x['upper']:.0f})"
    )
    points = lambda x: f"{x['mean']:.1f} ({x['lower']:.1f} to {x['upper']:.1f})"
    advised = found["advised"]
    names = (
        ("always task arithmetic", "task_arithmetic"),
        (
            f"always the method best on the other pools ({found['best_method']})",
            "best_on_average",
        ),
    )
    others = "; ".join(
        f"{label}: best on {share(found[name]['hit_rate'])}, "
        f"{points(found[name]['regret'])} points behind"
        for label, name in names
    )
    return (
        f"How good this advice has been: over {found['sets']} sets of experts in "
        f"{found['pools']} pools of small networks the advised method was the best of "
        f"{found['candidates']} on {share(advised['hit_rate'])} of sets, and "
        f"{points(advised['regret'])} points of accuracy behind the best on average. "
        f"For comparison, {others}. Intervals are of 95 %."
    )

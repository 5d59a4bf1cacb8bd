"""From the scores of merges to curves in k: pooled loss, retention, and where they end.

Two literatures measure two things. The pooled loss is the mean over all tasks of the
pool, whoever was merged: it falls as experts are added. The retention is how much of
the experts' gains the merged tasks keep: it falls too.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.common.intervals import Interval, interval

COLUMNS = ("published", "tuned")
# k to training seed to set of experts to value.
ByCount = dict[int, dict[int, dict[str, float]]]


def set_name(members: Sequence[int]) -> str:
    """A set of experts in one word."""
    return "-".join(map(str, members))


def pooled_loss(losses: Sequence[float]) -> float:
    """The mean loss over all tasks of the pool."""
    return float(np.mean(losses))


def retention(
    losses: Sequence[float], references: Mapping[str, Any], members: Sequence[int]
) -> float:
    r"""The share of the merged experts' gains, added up, that the merge keeps.

        sum_t (base - merged) / sum_t (base - expert),    t merged, losses on test

    1 for experts themselves, 0 for the base, negative below it. The mean of the tasks'
    own shares would be ruled by the expert that gained least.
    """
    kept = gained = 0.0
    for t in members:
        base = references["base"]["loss"][t]
        kept += base - losses[t]
        gained += base - references["experts"][t]["loss"][t]
    return kept / gained


def accuracy_retention(
    accuracy: Sequence[float], references: Mapping[str, Any], members: Sequence[int]
) -> float:
    """The mean over merged tasks of accuracy over the expert's accuracy."""
    own = [references["experts"][t]["accuracy"][t] for t in members]
    return float(np.mean([accuracy[t] / o for t, o in zip(members, own, strict=True)]))


def pooled_references(of: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over training seeds of the pooled loss of what is not merged.

    Args:
      of: `measure_references` of each seed's pool.
    """
    mean = lambda values: float(np.mean(list(values)))
    pooled = lambda scores: pooled_loss(scores["loss"])
    own = lambda experts: mean(e["loss"][t] for t, e in enumerate(experts))
    found = {
        "base": mean(pooled(r["base"]) for r in of),
        "best_expert": mean(min(map(pooled, r["experts"])) for r in of),
        "own_expert": mean(own(r["experts"]) for r in of),
    }
    if all("multitask" in r for r in of):
        found["multitask"] = mean(pooled(r["multitask"]) for r in of)
    return found


def by_family(pools: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The pools of each family, in the order in which families come.

    >>> by_family([{"family": "a"}, {"family": "b"}, {"family": "a"}])["a"]
    [{'family': 'a'}, {'family': 'a'}]
    """
    found: dict[str, list[Any]] = {}
    for pool in pools:
        found.setdefault(pool["family"], []).append(pool)
    return found


def values_of(
    pools: Iterable[Mapping[str, Any]], method: str, column: str, functional: str
) -> ByCount:
    """A functional of all merges of one method in one family.

    Args:
      pools: what `run_sweep` yields for the family's training seeds.
      method: its name; `"ensemble"` for the logit ensemble of the same sets.
      column: `"published"` or `"tuned"`.
      functional: `"pooled_loss"`, `"retention"` or `"accuracy"`.
    """
    found: ByCount = defaultdict(lambda: defaultdict(dict))
    for pool in pools:
        rows = pool["ensembles"] if method == "ensemble" else pool["merges"]
        for row in rows:
            if method != "ensemble" and row["method"] != method:
                continue
            scores = row if method == "ensemble" else row[column]
            value = _functional(functional, scores, pool["references"], row["members"])
            name = set_name(row["members"])
            found[len(row["members"])][pool["seed"]][name] = value
    return {k: dict(found[k]) for k in sorted(found)}


def _functional(
    name: str, scores: Mapping[str, Any], references: Any, members: Sequence[int]
) -> float:
    if name == "pooled_loss":
        return pooled_loss(scores["loss"])
    if name == "retention":
        return retention(scores["loss"], references, members)
    if name == "accuracy":
        if "accuracy" not in scores:
            return float("nan")
        return accuracy_retention(scores["accuracy"], references, members)
    raise ValueError(
        f"functional is {name!r}; expected 'pooled_loss', 'retention' or 'accuracy'"
    )


def means(values: ByCount) -> dict[int, Interval]:
    """The mean at each k, with its interval over training seeds and sets."""
    return {
        k: interval([list(group.values()) for group in groups.values()])
        for k, groups in values.items()
    }


def share_reached(curve: Mapping[int, float], share: float = 0.9) -> int | None:
    """The smallest measured k at which a falling curve has done most of its fall.

    Args:
      curve: k to a mean loss.
      share: of the fall from the first k to the best.

    Returns:
      None where the curve never falls below its first value.

    >>> share_reached({1: 2.0, 2: 1.2, 4: 1.05, 8: 1.0})
    4
    """
    counts = sorted(curve)
    first, best = curve[counts[0]], min(curve.values())
    if not first > best:
        return None
    return next(k for k in counts if first - curve[k] >= share * (first - best))

"""From rows to a record: hits and regrets of the advice and of two rivals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# As good as the best: accuracies are shares of a few thousand samples.
_EQUAL = 1e-9


def best_elsewhere(accuracies: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """For each set, the candidate with the best mean over all other groups.

    Args:
      accuracies: `(sets, candidates)`.
      groups: what a set is left out with, `(sets,)`: its pool, or itself.

    Returns:
      Positions of candidates, `(sets,)`. With a single group there is nothing to choose
      by but the sets themselves.

    >>> best_elsewhere(np.eye(2), np.array([0, 1])).tolist()
    [1, 0]
    """
    chosen = np.zeros(len(groups), int)
    for i, group in enumerate(groups):
        others = groups != group
        others = others if others.any() else np.ones(len(groups), bool)
        chosen[i] = int(np.argmax(accuracies[others].mean(axis=0)))
    return chosen


def _mean(values: np.ndarray, draws: np.ndarray) -> dict[str, float]:
    means = values[draws].mean(axis=1)
    lower, upper = np.quantile(means, [0.025, 0.975])
    return {
        "mean": float(values.mean()),
        "lower": float(lower),
        "upper": float(upper),
    }


def score(
    accuracies: np.ndarray, choices: Mapping[str, np.ndarray], draws: np.ndarray
) -> dict[str, Any]:
    """Hit rates, regrets, and how far the first choice is ahead of the others.

    Args:
      accuracies: `(sets, candidates)`.
      choices: positions of candidates, `(sets,)`, by the name of who chose them.
      draws: resampled sets, `(resamples, sets)`: the same for all, so that differences
        are paired.

    Returns:
      By name: `hit_rate`, a share; `regret`, in points; and for all but the first
      `ahead`, by how many points the first is ahead.
    """
    rows = np.arange(len(accuracies))
    best = accuracies.max(axis=1)
    got = {name: accuracies[rows, which] for name, which in choices.items()}
    first = next(iter(got.values()))
    result = {}
    for i, (name, values) in enumerate(got.items()):
        result[name] = {
            "hit_rate": _mean((values >= best - _EQUAL).astype(float), draws),
            "regret": _mean(100 * (best - values), draws),
        }
        if i:
            result[name]["ahead"] = _mean(100 * (first - values), draws)
    return result


def resampled(seed: int, resamples: int, sets: int, groups: np.ndarray) -> np.ndarray:
    """Sets drawn anew within each group: groups are few and were chosen, not drawn.

    Args:
      seed: of the draws.
      resamples: how many.
      sets: how many sets there are.
      groups: the pool of each, `(sets,)`.
    """
    rng = np.random.default_rng(seed)
    draws = np.zeros((resamples, sets), int)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        drawn = rng.integers(0, len(members), (resamples, len(members)))
        draws[:, members] = members[drawn]
    return draws


def make_record(
    rows: Sequence[Mapping[str, Any]], seed: int, resamples: int
) -> dict[str, Any]:
    """Everything that is told of the advice, as JSON data.

    Args:
      rows: one for each set of experts, from `sweep`.
      seed: of the bootstrap.
      resamples: of it.
    """
    names = list(rows[0]["accuracy"])
    pools = np.array([row["pool"] for row in rows])
    draws = resampled(seed, resamples, len(rows), pools)
    table = lambda column: np.array([[row[column][n] for n in names] for row in rows])
    published = table("accuracy")
    advised = np.array([names.index(row["advised"]) for row in rows])
    plain = np.full(len(rows), names.index("task_arithmetic"))
    elsewhere = best_elsewhere(published, pools)
    choices = {
        "advised": advised,
        "task_arithmetic": plain,
        "best_on_average": elsewhere,
        "best_on_other_sets": best_elsewhere(published, np.arange(len(rows))),
    }
    record = {
        "sets": len(rows),
        "pools": len(set(pools.tolist())),
        "candidates": len(names),
        "methods": names,
        "best_method": ", ".join(sorted({names[i] for i in elsewhere})),
        **score(published, choices, draws),
        "advice_given": {n: int((advised == i).sum()) for i, n in enumerate(names)},
        "best": {
            n: int((published.argmax(axis=1) == i).sum()) for i, n in enumerate(names)
        },
    }
    scaled = np.array([row["accuracy"]["task_arithmetic_advised"] for row in rows])
    record["scale"] = {
        "ahead_of_published": _mean(
            100 * (scaled - published[:, names.index("task_arithmetic")]), draws
        ),
        "behind_tuned": _mean(
            100 * (table("tuned_accuracy")[:, names.index("task_arithmetic")] - scaled),
            draws,
        ),
    }
    # With scales tuned for all, a scale of one's own is no candidate any more.
    keep = [i for i, name in enumerate(names) if name != "task_arithmetic_advised"]
    tuned_names = [names[i] for i in keep]
    tuned = table("tuned_accuracy")[:, keep]
    method = np.array(
        [tuned_names.index(row["advised"].removesuffix("_advised")) for row in rows]
    )
    record["tuned"] = score(
        tuned,
        {
            "advised": method,
            "task_arithmetic": np.full(len(rows), tuned_names.index("task_arithmetic")),
            "best_on_average": best_elsewhere(tuned, pools),
        },
        draws,
    )
    record["by_pool"] = {
        str(pool): {
            name: {
                "hit_rate": one["hit_rate"]["mean"],
                "regret": one["regret"]["mean"],
            }
            for name, one in score(
                published[pools == pool],
                {n: c[pools == pool] for n, c in choices.items()},
                np.arange((pools == pool).sum())[None],
            ).items()
        }
        for pool in dict.fromkeys(pools.tolist())
    }
    return record

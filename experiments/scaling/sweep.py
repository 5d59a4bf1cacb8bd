"""Merges of every size of model: those that forecasts may see, then the others."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.curves import pooled_loss, pooled_references
from experiments.common.families import make_family
from experiments.common.merging import Scorer, references, sets_of_sizes, sweep
from experiments.common.pools import Pool
from experiments.common.results import Results
from experiments.scaling.config import CANDIDATES, Config
from jaxmerge import laws


@dataclasses.dataclass(frozen=True)
class Size:
    """One size of model.

    Attributes:
      name: of the family.
      pool: its experts.
      scorer: of the pool.
    """

    name: str
    pool: Pool
    scorer: Scorer

    @property
    def parameters(self) -> float:
        """N, in millions."""
        return self.pool.num_parameters / 1e6


def load_sizes(config: Config, cache: Path) -> list[Size]:
    """All sizes, smallest first, with the tasks that every one has an expert for.

    The mean loss over tasks can be compared between sizes only if these are the same.

    Raises:
      ValueError: if fewer than four sizes are asked for, or fewer than three tasks are
        left.
    """
    if len(config.families) < 4:
        raise ValueError(
            f"there are {len(config.families)} sizes; a joint law needs three, beside "
            "the largest, which is forecast"
        )
    pools = [(name, make_family(name, 0, cache)) for name, _ in config.families]
    first = pools[0][1].tasks
    tasks = [t for t in first if all(t in pool.tasks for _, pool in pools)]
    if len(tasks) < 3:
        raise ValueError(
            f"all sizes have experts for {len(tasks)} tasks only ({', '.join(tasks)}); "
            "three are needed for a curve in k: train them longer, or leave a size out"
        )
    kept = [
        (name, pool.with_tasks(tasks).thinned(config.every)) for name, pool in pools
    ]
    sizes = [Size(name, pool, Scorer(pool)) for name, pool in kept]
    return sorted(sizes, key=lambda size: size.parameters)


def measure(
    config: Config, size: Size, results: Results, *, seen: bool
) -> list[dict[str, Any]]:
    """The rows of one size, at the k that forecasts may see or at all others."""
    sets = sets_of_sizes(
        size.pool.size, range(1, size.pool.size), config.subsets, config.seed
    )
    own = [members for members in sets if (len(members) <= config.seen) == seen]
    methods = [CANDIDATES[name] for name in config.methods]
    # Published scales only: one trial.
    return sweep(size.scorer, methods, own, results, config.seed, (1.0,))


def points_of(
    sizes: Sequence[Size], rows: Mapping[str, Sequence[dict[str, Any]]], method: str
) -> laws.Points:
    """Means and variances over sets of the pooled loss, by size and k.

    Args:
      sizes: those of the rows.
      rows: name of the size to its rows.
      method: whose.
    """
    columns: dict[str, list[float]] = {c: [] for c in ("N", "k", "mean", "var", "n")}
    for size in sizes:
        losses: dict[int, list[float]] = {}
        for row in rows.get(size.name, ()):
            if row["method"] == method:
                value = pooled_loss(row["published"]["loss"])
                losses.setdefault(len(row["members"]), []).append(value)
        for k, values in sorted(losses.items()):
            spread = float(np.var(values, ddof=1)) if len(values) > 1 else np.nan
            columns["N"].append(size.parameters)
            columns["k"].append(k)
            columns["mean"].append(float(np.mean(values)))
            columns["var"].append(spread)
            columns["n"].append(len(values))
    return laws.curve_points(
        columns["k"],
        columns["mean"],
        size=columns["N"],
        variance=columns["var"],
        count=columns["n"],
    )


def run_sweep(
    config: Config, sizes: Sequence[Size], out: Path, *, seen: bool
) -> dict[str, list[dict[str, Any]]]:
    """The rows that forecasts may see, or all rows, by name of the size.

    What may be seen is k up to `seen` of every size but the largest.
    """
    results = Results(out / "merges.jsonl")
    rows: dict[str, list[dict[str, Any]]] = {}
    for size in sizes:
        if seen and size is sizes[-1]:
            continue
        rows[size.name] = measure(config, size, results, seen=True)
        if not seen:
            rows[size.name] += measure(config, size, results, seen=False)
    return rows


def references_of(sizes: Sequence[Size], out: Path) -> dict[str, dict[str, float]]:
    """What is not merged, by N in millions: base, own expert, multitask model."""
    results = Results(out / "merges.jsonl")
    return {
        f"{size.parameters:g}": pooled_references([references(size.scorer, results)])
        for size in sizes
    }

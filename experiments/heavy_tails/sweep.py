"""Each kind at each density and scale, and what validation would choose of them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common.families import make_family
from experiments.common.merging import Scorer, references, sets_of_sizes, sweep
from experiments.common.methods import select
from experiments.common.pools import Pool
from experiments.common.results import Results
from experiments.heavy_tails.config import (
    GRID,
    KINDS,
    Config,
    average_grid,
    methods_of,
)


def excess_kurtosis(pool: Pool) -> float:
    """Of the entries of each expert's delta, leaf by leaf; the mean over all.

    Weighted by the leaves' sizes. 0 for Gaussian entries, 3 for Laplace's.
    """
    values, sizes = [], []
    deltas = jax.tree.map(lambda e, b: np.asarray(e - b), pool.experts, pool.base)
    for leaf in jax.tree.leaves(deltas):
        rows = np.asarray(leaf, np.float64).reshape(len(leaf), -1)
        centred = rows - rows.mean(axis=1, keepdims=True)
        variance = (centred**2).mean(axis=1)
        some = variance > 0
        fourth = (centred**4).mean(axis=1)
        values.append(np.mean(fourth[some] / variance[some] ** 2 - 3))
        sizes.append(rows.shape[1])
    return float(np.average(values, weights=sizes))


def chosen(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of one kind and set, the density that is best on validation."""
    best = [min(x for x in row["trials"] if x is not None) for row in rows]
    return rows[int(np.argmin(best))]


def run_sweep(config: Config, out: Path, cache: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of one family and seed at a time; finished ones are kept."""
    results = Results(out / "merges.jsonl")
    for family, seeds in config.families:
        for seed in range(seeds):
            pool = make_family(family, seed, cache)
            scorer = Scorer(pool)
            sets = sets_of_sizes(pool.size, config.counts, config.subsets, config.seed)
            rows = sweep(scorer, methods_of(config), sets, results, config.seed, GRID)
            average = select(["average"])
            grid = average_grid(config)
            yield {
                "family": family,
                "seed": seed,
                "label": pool.name,
                "kurtosis": excess_kurtosis(pool),
                "references": references(scorer, results),
                "merges": rows,
                "average": sweep(scorer, average, sets, results, config.seed, grid),
            }


def tuned_rows(pool: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each kind and set: the density and scale that validation chose."""
    found = []
    for row in pool["average"]:
        found.append({**row, "method": "average"})
    members = {tuple(row["members"]) for row in pool["merges"]}
    for kind in KINDS:
        for own in sorted(members, key=lambda m: (len(m), m)):
            rows = [
                row
                for row in pool["merges"]
                if tuple(row["members"]) == own
                and row["method"].rsplit("_", 1)[0] == kind
            ]
            best = chosen(rows)
            density = float(best["method"].rsplit("_", 1)[1])
            found.append({**best, "method": kind, "density": density})
    return found

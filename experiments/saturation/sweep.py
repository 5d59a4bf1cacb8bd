"""Every method on sets of every size, of every family and training seed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common.families import make_family
from experiments.common.merging import (
    GRID,
    Scorer,
    measure_ensemble,
    measure_merge,
    measure_references,
)
from experiments.common.methods import select
from experiments.common.pools import Pool
from experiments.common.results import Results
from experiments.saturation.config import Config
from jaxmerge import laws


def sets_of(pool: Pool, config: Config) -> list[tuple[int, ...]]:
    """The sets that every method merges: few experts first, the whole pool last."""
    counts = sorted({k for k in config.counts if k < pool.size} | {pool.size})
    key = jax.random.key(config.seed)
    found = []
    for k in counts:
        num = min(config.subsets, laws.num_subsets(pool.size, [k]))
        design = laws.uniform_subsets(jax.random.fold_in(key, k), pool.size, k, num)
        found += [tuple(np.flatnonzero(mask).tolist()) for mask in design.masks]
    return found


def count_rows(config: Config) -> int:
    """How many families and seeds `run_sweep` goes through."""
    return sum(seeds for _, seeds in config.families)


def run_sweep(config: Config, out: Path, cache: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of one family and seed at a time; finished ones are kept.

    Args:
      config: the settings.
      out: the run's folder; rows are kept in its `merges.jsonl`.
      cache: the folder of trained models.
    """
    results = Results(out / "merges.jsonl")
    for family, seeds in config.families:
        for seed in range(seeds):
            pool = make_family(family, seed, cache)
            yield {
                "family": family,
                "seed": seed,
                "label": pool.name,
                "tasks": list(pool.tasks),
                "dropped": list(pool.dropped),
                "parameters": pool.num_parameters,
                **_one_pool(pool, config, results),
            }


def _one_pool(pool: Pool, config: Config, results: Results) -> dict[str, Any]:
    scorer = Scorer(pool)
    known = {"pool": pool.identity, "grid": list(GRID), "seed": config.seed}
    references = results.get_or_compute(
        {"pool": pool.identity, "what": "references"},
        lambda: measure_references(scorer),
    )
    merges, ensembles = [], []
    for members in sets_of(pool, config):
        ensembles.append(
            results.get_or_compute(
                {
                    "pool": pool.identity,
                    "what": "ensemble",
                    "members": list(members),
                },
                lambda members=members: measure_ensemble(pool, members),
            )
        )
        for method in select(config.methods):
            if len(members) < method.fewest:
                continue
            settings = {
                **known,
                "method": method.name,
                "merger": repr(method.make()),
                "members": list(members),
            }
            merges.append(
                results.get_or_compute(
                    settings,
                    lambda method=method, members=members: measure_merge(
                        scorer, method, members, config.seed
                    ),
                )
            )
    return {"references": references, "merges": merges, "ensembles": ensembles}

"""Every method on sets of every size, of every family and training seed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.common.families import make_family
from experiments.common.merging import (
    Scorer,
    measure_ensemble,
    references,
    sets_of_sizes,
    sweep,
)
from experiments.common.methods import select
from experiments.common.pools import Pool
from experiments.common.results import Results
from experiments.saturation.config import Config


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
    sets = sets_of_sizes(pool.size, config.counts, config.subsets, config.seed)

    def ensemble(members: tuple[int, ...]) -> dict[str, Any]:
        settings = {"pool": pool.identity, "what": "ensemble", "members": list(members)}
        compute = lambda: measure_ensemble(scorer, members)
        return results.get_or_compute(settings, compute)

    return {
        "references": references(scorer, results),
        "merges": sweep(scorer, select(config.methods), sets, results, config.seed),
        "ensembles": [ensemble(members) for members in sets],
    }

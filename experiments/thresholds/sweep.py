"""Predictions first, then the average of sets of every size."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.common.curves import pooled_loss
from experiments.common.families import make_family
from experiments.common.merging import Scorer, sets_of_sizes, sweep
from experiments.common.methods import select
from experiments.common.pools import Pool
from experiments.common.results import Results
from experiments.thresholds.config import Config
from experiments.thresholds.predict import predict

# What a prediction depends on.
_CONVENTIONS = ("tolerance", "half_angle", "eta", "rise", "num_samples", "forecast")
_CONVENTIONS += ("share",)


def _pool(config: Config, family: str, seed: int, cache: Path) -> Pool:
    pool = make_family(family, seed, cache)
    return pool.thinned(config.language_every if family.startswith("llm") else 1)


def predictions(config: Config, out: Path, cache: Path) -> Iterator[dict[str, Any]]:
    """A row for each family and seed, kept in `predictions.jsonl`."""
    results = Results(out / "predictions.jsonl")
    for family, seeds in config.families:
        for seed in range(seeds):
            pool = _pool(config, family, seed, cache)
            settings = {
                "family": family,
                "training_seed": seed,
                "pool": pool.identity,
                "experts": pool.size,
                "seed": config.seed,
                **{name: getattr(config, name) for name in _CONVENTIONS},
            }
            yield results.get_or_compute(
                settings, functools.partial(predict, pool, config)
            )


def curves(config: Config, out: Path, cache: Path) -> Iterator[dict[str, Any]]:
    """For each family and seed the pooled losses of averages, by k."""
    results = Results(out / "merges.jsonl")
    for family, seeds in config.families:
        for seed in range(seeds):
            pool = _pool(config, family, seed, cache)
            counts = {1, 2, 4, *config.counts}
            sets = sets_of_sizes(pool.size, counts, config.subsets, config.seed)
            average = select(["average"])
            rows = sweep(Scorer(pool), average, sets, results, config.seed, (1.0,))
            losses: dict[int, list[float]] = {}
            for row in rows:
                value = pooled_loss(row["published"]["loss"])
                losses.setdefault(len(row["members"]), []).append(value)
            yield {"family": family, "training_seed": seed, "losses": losses}

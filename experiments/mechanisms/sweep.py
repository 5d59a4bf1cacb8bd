"""For each set of experts: the measure of every mechanism, and every method's merge."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common.families import make_family
from experiments.common.merging import Scorer, references, sets_of_sizes, sweep
from experiments.common.methods import select
from experiments.common.pools import Pool
from experiments.common.results import Results
from experiments.mechanisms.config import MECHANISMS, Config
from jaxmerge import diagnose


def measure_mechanisms(
    pool: Pool, members: Sequence[int], seed: int
) -> dict[str, dict[str, float | None]]:
    """How far each mechanism is at work in a set: larger is worse, 0 is not at all.

    The distance of the number from its neutral value, on a logarithmic scale where it
    is a ratio; None where it is not defined.
    """
    keys = jax.random.split(jax.random.key(seed))
    measured = diagnose.measure(
        pool.base, pool.subset(members), key=keys[0], matrices=pool.matrices
    )
    found = diagnose.mechanisms(measured, key=keys[1], resamples=2)
    numbers: dict[str, float | None] = {}
    for name in MECHANISMS:
        one = found[name]
        value = one.found.value
        if not np.isfinite(value) or (one.neutral > 0 and value <= 0):
            numbers[name] = None
        elif one.neutral > 0:
            numbers[name] = float(one.worse * np.log(value / one.neutral))
        else:
            numbers[name] = float(one.worse * (value - one.neutral))
    return {"measures": numbers}


def run_sweep(config: Config, out: Path, cache: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of one family and seed at a time; finished ones are kept.

    Mechanisms are measured, and written, before any of the sets is merged.
    """
    results = Results(out / "merges.jsonl")
    for family, seeds in config.families:
        for seed in range(seeds):
            pool = make_family(family, seed, cache)
            sets = sets_of_sizes(pool.size, config.counts, config.subsets, config.seed)
            known = []
            for members in sets:
                settings = {
                    "pool": pool.identity,
                    "what": "mechanisms",
                    "members": list(members),
                    "seed": config.seed,
                }
                compute = functools.partial(
                    measure_mechanisms, pool, members, config.seed
                )
                known.append(results.get_or_compute(settings, compute))
            scorer = Scorer(pool)
            methods = select(config.methods)
            yield {
                "family": family,
                "seed": seed,
                "label": pool.name,
                "mechanisms": known,
                "references": references(scorer, results),
                "merges": sweep(scorer, methods, sets, results, config.seed),
            }

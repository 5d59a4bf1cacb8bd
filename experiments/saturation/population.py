"""Every set of a pool's experts: the population curve, without any sampling error."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.common.families import make_family
from experiments.common.merging import merger_of
from experiments.common.methods import select
from experiments.common.pools import Pool, score
from experiments.common.results import Results
from experiments.saturation.config import Config
from jaxmerge import laws

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def _losses(pool: Pool, merger: Any, design: laws.Design, seed: int) -> np.ndarray:
    """The mean test loss over the experts' tasks of every set, `(set,)`."""
    experts = pool.subset(range(design.num_experts))
    key = jax.random.key(seed)

    def merge(members: Any) -> Any:
        return merger(pool.base, experts, members=members, key=key)

    def pooled(params: Any) -> Any:
        return jnp.mean(score(pool, params, "test").loss)

    table = laws.measure(merge, design, {"pooled": pooled}, batch_size=16)
    return np.asarray(table.loss, np.float64)


def _summary(design: laws.Design, losses: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    for k in np.unique(design.k):
        own = losses[design.k == k]
        rows.append(
            {
                "k": int(k),
                "sets": len(own),
                "mean": float(own.mean()),
                "variance": float(own.var()),
                "quantiles": np.quantile(own, QUANTILES).tolist(),
            }
        )
    return rows


def measure_population(config: Config, out: Path, cache: Path) -> list[dict[str, Any]]:
    """The curve of each method, from all sets; finished ones are kept.

    Args:
      config: the settings.
      out: the run's folder; rows are kept in its `population.jsonl`.
      cache: the folder of trained models.
    """
    if config.population is None:
        return []
    pool = make_family(config.population, 0, cache).thinned(config.population_every)
    num = min(config.population_experts, pool.size)
    design = laws.all_subsets(num)
    results = Results(out / "population.jsonl")
    rows = []
    methods = select(config.population_methods)
    for method in tqdm(methods, f"{len(design):,} merges", leave=False):
        merger = merger_of(pool, method)
        settings = {
            "pool": pool.identity,
            "experts": num,
            "method": method.name,
            "merger": repr(merger),
            "seed": config.seed,
        }
        rows.append(
            results.get_or_compute(
                settings,
                lambda merger=merger: {
                    "curve": _summary(
                        design, _losses(pool, merger, design, config.seed)
                    )
                },
            )
        )
    return rows

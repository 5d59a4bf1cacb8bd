"""One family: its forecasts, and then the mean over all merges of each k."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.forecast.families import Trained, draw_family, train
from jaxmerge import laws


def _all_losses(trained: Trained, masks: np.ndarray) -> np.ndarray:
    """The pooled loss of the average of every subset, as one program."""

    @jax.jit
    def losses(base: Any, experts: Any) -> Any:
        deltas = jax.tree.map(lambda e, b: e - b, experts, base)

        def one(mask: Any) -> Any:
            weights = mask / mask.sum()
            return trained.pooled(
                jax.tree.map(
                    lambda b, d: b + jnp.tensordot(weights, d, 1), base, deltas
                )
            )

        return jax.lax.map(one, jnp.asarray(masks, jnp.float32), batch_size=64)

    return np.asarray(losses(trained.base, trained.experts), np.float64)


def _three_points(k: np.ndarray, mean: np.ndarray) -> list[float] | None:
    """The closed form on measured k = 1, 2, 4, where it has an answer."""
    try:
        found = laws.three_point([1, 2, 4], mean[[0, 1, 3]])
    except ValueError:
        return None
    return np.asarray(found.curve(k)).tolist()


def measure(seed: int) -> dict[str, Any]:
    """A row of results. Forecasts are made before any merge is evaluated.

    Args:
      seed: of the family.
    """
    family = draw_family(seed)
    trained = train(family)
    pool = family.experts
    experts = [jax.tree.map(lambda x, t=t: x[t], trained.experts) for t in range(pool)]
    expansion = jax.jit(lambda b, e: laws.expand(trained.pooled, b, e))(
        trained.base, experts
    )
    k = np.arange(1, pool + 1)
    second = np.asarray(expansion.mean(k, order=2), np.float64)
    forecast = laws.forecast_curve(expansion)
    at_base = jax.jit(lambda b, e: laws.predict_tail(trained.pooled, b, e, at="base"))(
        trained.base, experts
    )

    masks = np.array(
        [[code >> t & 1 for t in range(pool)] for code in range(1, 2**pool)], bool
    )
    losses = _all_losses(trained, masks)
    groups = [losses[masks.sum(axis=1) == n] for n in k]
    mean = np.array([group.mean() for group in groups])
    at_mean = jax.jit(lambda b, e: laws.predict_tail(trained.pooled, b, e))(
        trained.base, experts
    )
    fitted = laws.fit_curve(laws.curve_points(k, mean), weights="none").law
    return {
        "seed": seed,
        "kind": family.kind,
        "k": k.tolist(),
        "base": float(trained.pooled(trained.base)),
        "measured": mean.tolist(),
        "spread": [float(g.std(ddof=1)) if len(g) > 1 else 0.0 for g in groups],
        "forecast": forecast.mean.tolist(),
        "second_order": second.tolist(),
        "forecast_spread": forecast.spread.tolist(),
        "taylor_at_base": np.asarray(at_base.curve(k)).tolist(),
        "three_point": _three_points(k, mean),
        "tail": {
            "at_mean": float(at_mean.amplitude),
            "at_base": float(at_base.amplitude),
            "fitted": float(fitted.amplitude),
            "offset": float(fitted.offset),
        },
    }

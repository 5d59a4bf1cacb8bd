"""Predictions of T from weights and losses of the base and experts alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from experiments.common.pools import Pool, score
from experiments.thresholds.config import Config
from jaxmerge import diagnose, laws


def crossing(k: np.ndarray, loss: np.ndarray, share: float) -> float | None:
    """Where a curve has done a share of its fall from its first to its last point.

    Between measured k the curve is taken to be linear in log k.

    Args:
      k: rising numbers of experts.
      loss: the curve.
      share: of the fall.

    Returns:
      None where the last point is not below the first.

    >>> round(crossing(np.array([1, 2, 4]), np.array([3.0, 2.0, 1.0]), 0.75), 3)
    2.828
    """
    fall = loss[0] - loss[-1]
    if not fall > 0:
        return None
    reached = np.flatnonzero(loss[0] - loss >= share * fall)[0]
    low, high = loss[reached - 1], loss[reached]
    part = (low - (loss[0] - share * fall)) / (low - high)
    logs = np.log(k[reached - 1 : reached + 1])
    return float(np.exp(logs[0] + part * (logs[1] - logs[0])))


def _definitions(pool: Pool, config: Config) -> dict[str, Any]:
    """Every T* of `jaxmerge.kinematics` that weights and conventions determine."""
    experts = pool.subset(range(pool.size))
    losses, epsilon = _acceptable(pool, config)
    found = diagnose.saturation(
        pool.base,
        experts,
        key=jax.random.key(config.seed),
        num_samples=config.num_samples,
        tolerance=config.tolerance,
        half_angle=config.half_angle,
        dimension=float(pool.num_parameters),
        eta=config.eta,
        loss=losses,
        epsilon=epsilon,
        negative="flat",
        num_probes=4,
        num_steps=20,
    )
    told: dict[str, Any] = {}
    for name, threshold in found.thresholds.items():
        value = float(threshold.value)
        told[name] = value if np.isfinite(value) and value > 0 else None
    cosines = found.whole.cosines
    others = cosines[~np.eye(pool.size, dtype=bool)]
    return {
        "definitions": told,
        "missing": dict(found.missing),
        "mean_cosine": float(np.mean(others)),
        "mean_norm": float(np.mean(found.whole.norms)),
        "effective_rank": float(np.exp(_entropy(found.whole.gram))),
    }


def _acceptable(pool: Pool, config: Config) -> tuple[list[Partial], float]:
    """Each task's loss, and the rise of it that an expert may have."""

    def mean_loss(batch: Any, params: Any) -> Any:
        return jnp.mean(pool.loss(pool.outputs(params, batch.inputs), batch.targets))

    def loss(t: int) -> Partial:
        batch = jax.tree.map(lambda x: x[t], pool.data["validation"])
        return Partial(mean_loss, batch)

    losses = [loss(t) for t in range(pool.size)]
    gain = jax.jit(lambda own, expert: own(pool.base) - own(expert))
    gains = [float(gain(own, pool.expert(t))) for t, own in enumerate(losses)]
    return losses, config.rise * float(np.mean(gains))


def _entropy(gram: np.ndarray) -> float:
    values = np.maximum(np.linalg.eigvalsh(gram), 0)
    shares = values / values.sum()
    return float(-np.sum(shares * np.log(np.where(shares > 0, shares, 1.0))))


def _forecast(pool: Pool, config: Config) -> float | None:
    """T of the whole curve as `laws.forecast_curve` tells it from expansions."""

    def pooled(params: Any) -> Any:
        return jnp.mean(score(pool, params, "validation").loss)

    experts = pool.subset(range(pool.size))
    expansion = jax.jit(lambda b, e: laws.expand(pooled, b, e))(pool.base, experts)
    curve = laws.forecast_curve(expansion)
    return crossing(np.asarray(curve.k), np.asarray(curve.mean), config.share)


def predict(pool: Pool, config: Config) -> dict[str, Any]:
    """All that is predicted before the first merge, as JSON data."""
    told = _definitions(pool, config)
    told["forecast"] = _forecast(pool, config) if config.forecast else None
    return told


def three_point(curve: dict[int, float], pool: int, share: float) -> float | None:
    """T of the law through k = 1, 2 and 4, on the whole pool.

    Args:
      curve: k to the mean loss.
      pool: T is where `share` of the law's fall from 1 to this is reached.
      share: of the fall.
    """
    try:
        law = laws.three_point([1, 2, 4], [curve[k] for k in (1, 2, 4)])
    except ValueError:
        return None
    k = np.arange(1, pool + 1)
    return crossing(k, np.asarray(law.curve(k), np.float64), share)


def of_pool_size(pool: int, share: float) -> float:
    """T where the mean over sets falls as 1/k - 1/M: for a quadratic loss, exactly.

    It knows nothing of the experts but their number.

    >>> round(of_pool_size(32, 0.9), 2)
    7.8
    """
    return 1 / (1 - share * (1 - 1 / pool))

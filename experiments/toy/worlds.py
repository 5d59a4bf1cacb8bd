r"""Quadratic tasks with known curves.

    L_t(x) = c_t + (x - x_t*)^T H_t (x - x_t*) / 2

Experts are the optima x_t*, or what gradient flow from the base makes of it in a given
time. How much task vectors agree, how curvatures differ and how unequal norms are, is
set; what average and task arithmetic then do for every k is in `exact`.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.common.pools import SPLITS, Batch, Pool
from experiments.common.results import fingerprint
from experiments.toy.exact import Exact


@dataclasses.dataclass(frozen=True)
class World:
    """A pool, and the closed form of its linear merges."""

    pool: Pool
    exact: Exact


@dataclasses.dataclass(frozen=True)
class QuadraticConfig:
    """The settings of a quadratic world.

    Attributes:
      seed: of everything.
      tasks: T.
      dimension: of the parameters.
      correlation: the expected cosine of two optima seen from the base, in [0, 1].
      condition: the largest eigenvalue of each H_t over its smallest; eigenvalues are
        evenly spaced in their logarithm, the largest is 1.
      curvature_spread: 0 for one H for all tasks, 1 for independent eigenvectors.
      norm_spread: the standard deviation of the logarithm of distances to optima.
      training_time: of gradient flow; None trains to the optimum.
      floor_spread: floors c_t are uniform in [0, this].
    """

    seed: int = 0
    tasks: int = 16
    dimension: int = 64
    correlation: float = 0.1
    condition: float = 10.0
    curvature_spread: float = 0.5
    norm_spread: float = 0.0
    training_time: float | None = None
    floor_spread: float = 0.0


def require_share(name: str, value: float) -> None:
    """Refuses what is no number from 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; expected a number from 0 to 1")


def _check(config: QuadraticConfig) -> None:
    require_share("correlation", config.correlation)
    require_share("curvature_spread", config.curvature_spread)
    if config.condition < 1:
        raise ValueError(f"condition is {config.condition}; expected at least 1")
    if config.training_time is not None and not config.training_time > 0:
        raise ValueError(
            f"training_time is {config.training_time}; expected a positive time, or "
            "None to train to the optimum"
        )


def blend(rng: np.random.Generator, num: int, size: int, share: float) -> np.ndarray:
    """Unit vectors `[num, size]` of which any two have the expected cosine `share`."""
    common, own = rng.normal(size=size), rng.normal(size=(num, size))
    mixed = np.sqrt(share) * common + np.sqrt(1 - share) * own
    return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)


def norms(rng: np.random.Generator, num: int, spread: float) -> np.ndarray:
    """Log-normal lengths with mean square 1."""
    return np.exp(spread * rng.normal(size=num) - spread**2)


def _curvatures(rng: np.random.Generator, config: QuadraticConfig) -> np.ndarray:
    values = np.logspace(0, -np.log10(config.condition), config.dimension)
    shape = (config.tasks + 1, config.dimension, config.dimension)
    vectors = np.linalg.qr(rng.normal(size=shape))[0]
    each = (vectors * values) @ vectors.swapaxes(-1, -2)
    share = config.curvature_spread
    return (1 - share) * each[0] + share * each[1:]


def flowed(curvature: np.ndarray, time: float | None) -> np.ndarray:
    """I - e^(-time H): how much of the way to its optimum gradient flow goes."""
    if time is None:
        return np.eye(len(curvature))
    values, vectors = np.linalg.eigh(curvature)
    return (vectors * -np.expm1(-time * values)) @ vectors.T


def make_world(config: QuadraticConfig) -> World:
    """The world of a config: its pool in JAX's default dtype, its curves in float64.

    Raises:
      ValueError: if a setting is out of range.
    """
    _check(config)
    rng = np.random.default_rng([20261125, config.seed])
    curvatures = _curvatures(rng, config)
    base = rng.normal(size=config.dimension) / np.sqrt(config.dimension)
    ways = blend(rng, config.tasks, config.dimension, config.correlation)
    ways = norms(rng, config.tasks, config.norm_spread)[:, None] * ways
    floors = config.floor_spread * rng.uniform(size=config.tasks)
    vectors = np.stack(
        [
            flowed(h, config.training_time) @ way
            for h, way in zip(curvatures, ways, strict=True)
        ]
    )
    gradients = -np.einsum("tde,te->td", curvatures, ways)
    exact = Exact(
        levels=floors - np.einsum("td,td->t", gradients, ways) / 2,
        slopes=gradients @ vectors.T,
        curvatures=vectors @ curvatures @ vectors.T,
    )
    pooled = np.linalg.solve(curvatures.mean(axis=0), -gradients.mean(axis=0))
    return World(
        _make_pool(config, base, ways, vectors, pooled, curvatures, floors), exact
    )


def _make_pool(
    config: QuadraticConfig,
    base: np.ndarray,
    ways: np.ndarray,
    vectors: np.ndarray,
    pooled: np.ndarray,
    curvatures: np.ndarray,
    floors: np.ndarray,
) -> Pool:
    targets = {"optimum": base + ways, "curvature": curvatures, "floor": floors}
    # One "sample" a task, which is the task itself; held out or not, it is the same.
    batch = Batch(
        inputs=jnp.zeros((config.tasks, 1)),
        targets={name: jnp.asarray(x)[:, None] for name, x in targets.items()},
    )
    return Pool(
        name="quadratic",
        identity=fingerprint({"quadratic": dataclasses.asdict(config)}),
        tasks=tuple(f"task {t}" for t in range(config.tasks)),
        base={"x": jnp.asarray(base)},
        experts={"x": jnp.asarray(base + vectors)},
        multitask={"x": jnp.asarray(base + pooled)},
        outputs=_outputs,
        loss=_loss,
        correct=None,
        data=dict.fromkeys(SPLITS, batch),
    )


def _outputs(params: Any, inputs: Any) -> Any:
    return jnp.broadcast_to(params["x"], (len(inputs), *params["x"].shape))


def _loss(outputs: Any, targets: Any) -> Any:
    apart = outputs - targets["optimum"]
    bent = jnp.einsum("sde,se->sd", targets["curvature"], apart, precision="highest")
    return targets["floor"] + jnp.sum(apart * bent, axis=-1) / 2


def make_pool(config: QuadraticConfig) -> Pool:
    """The pool of `make_world`."""
    return make_world(config).pool

r"""Linear regression tasks: worlds with known curves whose parameters are matrices.

    L_t(W) = tr((W - W_t)^T C_t (W - W_t)) / 2,    W: inputs to outputs

summed over layers. A task's inputs live mostly in a subspace of their own, more or less
shared with other tasks; its matrix differs from the base's by a few directions in that
subspace, mapped to output directions that are more or less shared too. Spectral methods
and those that use activations have something to act on, and averages are still known in
closed form: the samples of a task are the rows of (n C_t)^(1/2), so that their second
moment is C_t exactly.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.common.pools import SPLITS, Batch, Pool
from experiments.common.results import fingerprint
from experiments.toy.exact import Exact
from experiments.toy.worlds import World, norms, require_share


@dataclasses.dataclass(frozen=True)
class RegressionConfig:
    """The settings of a world of linear regressions.

    Attributes:
      seed: of everything.
      tasks: T.
      layers: independent matrices, each with inputs and targets of its own.
      inputs: rows of each matrix.
      outputs: columns.
      rank: of each task's update.
      input_rank: dimension of the subspace that a task's inputs mostly live in.
      input_overlap: the expected squared cosine between corresponding directions of two
        tasks' input subspaces, about; 0 for independent ones, 1 for one subspace.
      output_overlap: the same of the output directions.
      decay: variances along a subspace's directions are j^-decay, j from 1, and so are
        the update's singular values.
      noise: the variance of inputs in every direction; positive.
      norm_spread: the standard deviation of the logarithm of the updates' norms.
      training_time: of gradient flow from the base; None trains to the optimum.
    """

    seed: int = 0
    tasks: int = 16
    layers: int = 2
    inputs: int = 32
    outputs: int = 24
    rank: int = 4
    input_rank: int = 8
    input_overlap: float = 0.25
    output_overlap: float = 0.25
    decay: float = 0.5
    noise: float = 0.05
    norm_spread: float = 0.0
    training_time: float | None = None


def _check(config: RegressionConfig) -> None:
    require_share("input_overlap", config.input_overlap)
    require_share("output_overlap", config.output_overlap)
    if not 1 <= config.rank <= config.input_rank <= config.inputs:
        raise ValueError(
            f"rank is {config.rank}, input_rank {config.input_rank} and inputs "
            f"{config.inputs}; expected 1 <= rank <= input_rank <= inputs"
        )
    if config.rank > config.outputs:
        raise ValueError(
            f"rank is {config.rank}; expected at most {config.outputs}, the outputs"
        )
    if not config.noise > 0:
        raise ValueError(
            f"noise is {config.noise}; expected a positive variance, without which the "
            "multitask optimum is not unique"
        )


def _frames(
    rng: np.random.Generator, num: int, size: int, rank: int, share: float
) -> np.ndarray:
    """Orthonormal columns `[num, size, rank]`, more or less alike."""
    common, own = rng.normal(size=(size, rank)), rng.normal(size=(num, size, rank))
    mixed = np.sqrt(share) * common + np.sqrt(1 - share) * own
    q, r = np.linalg.qr(mixed)
    # The signs of R's diagonal are free: made positive, or equal frames would differ.
    return q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[:, None, :]


@dataclasses.dataclass(frozen=True)
class _Layer:
    """One layer of all tasks: float64."""

    base: np.ndarray
    ways: np.ndarray
    vectors: np.ndarray
    covariances: np.ndarray
    samples: np.ndarray


def _layer(rng: np.random.Generator, config: RegressionConfig) -> _Layer:
    tasks, size, rank = config.tasks, config.inputs, config.rank
    inputs = _frames(rng, tasks, size, config.input_rank, config.input_overlap)
    outputs = _frames(rng, tasks, config.outputs, rank, config.output_overlap)
    strengths = np.arange(1, config.input_rank + 1.0) ** -config.decay
    values = strengths[:rank] / np.linalg.norm(strengths[:rank])
    ways = (inputs[:, :, :rank] * values) @ outputs.swapaxes(1, 2)
    ways = norms(rng, tasks, config.norm_spread)[:, None, None] * ways

    def along(gains: np.ndarray, elsewhere: float) -> np.ndarray:
        """A function of every task's covariance, by its eigenvalues."""
        inside = (inputs * (gains - elsewhere)) @ inputs.swapaxes(1, 2)
        return inside + elsewhere * np.eye(size)

    variances = strengths + config.noise
    vectors = ways
    if (time := config.training_time) is not None:
        reached = lambda x: -np.expm1(-time * x)
        vectors = along(reached(variances), reached(config.noise)) @ ways
    return _Layer(
        base=rng.normal(size=(size, config.outputs)) / np.sqrt(size),
        ways=ways,
        vectors=vectors,
        covariances=along(variances, config.noise),
        samples=np.sqrt(size) * along(np.sqrt(variances), np.sqrt(config.noise)),
    )


def _exact(layer: _Layer) -> Exact:
    tasks = len(layer.ways)
    flat = layer.vectors.reshape(tasks, -1)
    gradients = -layer.covariances @ layer.ways
    bent = lambda c: (c @ layer.vectors).reshape(tasks, -1)
    return Exact(
        levels=-np.sum(gradients * layer.ways, axis=(1, 2)) / 2,
        slopes=gradients.reshape(tasks, -1) @ flat.T,
        curvatures=np.stack([bent(c) @ flat.T for c in layer.covariances]),
    )


def make_world(config: RegressionConfig) -> World:
    """The world of a config: its pool in JAX's default dtype, its curves in float64.

    Raises:
      ValueError: if a setting is out of range.
    """
    _check(config)
    rng = np.random.default_rng([20261126, config.seed])
    layers = [_layer(rng, config) for _ in range(config.layers)]
    parts = [_exact(layer) for layer in layers]
    exact = Exact(
        levels=sum((p.levels for p in parts), np.zeros(())),
        slopes=sum((p.slopes for p in parts), np.zeros(())),
        curvatures=sum((p.curvatures for p in parts), np.zeros(())),
    )
    return World(_make_pool(config, layers), exact)


def _named(layers: list[np.ndarray]) -> dict[str, Any]:
    return {f"layer{i}": {"kernel": jnp.asarray(x)} for i, x in enumerate(layers)}


def _multitask(layer: _Layer) -> np.ndarray:
    """The minimum of the pooled loss."""
    pulls = (layer.covariances @ layer.ways).mean(axis=0)
    return layer.base + np.linalg.solve(layer.covariances.mean(axis=0), pulls)


def _make_pool(config: RegressionConfig, layers: list[_Layer]) -> Pool:
    targets = [x.samples @ (x.base + x.ways) for x in layers]
    batch = Batch(
        inputs=jnp.asarray(np.stack([x.samples for x in layers], axis=2)),
        targets=jnp.asarray(np.stack(targets, axis=2)),
    )
    return Pool(
        name="regression",
        identity=fingerprint({"regression": dataclasses.asdict(config)}),
        tasks=tuple(f"task {t}" for t in range(config.tasks)),
        base=_named([x.base for x in layers]),
        experts=_named([x.base + x.vectors for x in layers]),
        multitask=_named([_multitask(x) for x in layers]),
        outputs=_outputs,
        loss=lambda outputs, y: jnp.sum((outputs - y) ** 2, axis=(-2, -1)) / 2,
        correct=None,
        data=dict.fromkeys(SPLITS, batch),
    )


def _outputs(params: Any, inputs: Any) -> Any:
    """`[sample, layer, input]` to `[sample, layer, output]`."""
    columns = [
        jnp.matmul(inputs[:, i], params[f"layer{i}"]["kernel"], precision="highest")
        for i in range(inputs.shape[1])
    ]
    return jnp.stack(columns, axis=1)


def make_pool(config: RegressionConfig) -> Pool:
    """The pool of `make_world`."""
    return make_world(config).pool

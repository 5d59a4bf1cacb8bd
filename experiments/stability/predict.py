"""What is said of each merge before it is made: the bound's terms, and simpler things.

Terms rest on the base, the tasks' training data and the settings alone: heterogeneity
at the merged point is taken to be that at the base. Simpler things are inner products
of task vectors.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.stability.config import Config, sample_counts, values
from experiments.stability.problem import Problem
from jaxmerge import stability
from jaxmerge.stability.bound import TERMS


@dataclasses.dataclass(frozen=True)
class AtBase:
    """What the bound needs to know of every task, for each number of samples; float64.

    Attributes:
      gram: inner products of gradients, `[ratio, task, ratio, task]`.
      noise: sigma^2, `[ratio, task]`.
      losses: f_i at the base, `[ratio, task]`.
      smoothness: L, of all tasks.
    """

    gram: np.ndarray
    noise: np.ndarray
    losses: np.ndarray
    smoothness: float


def _smoothness(problem: Problem, config: Config) -> float:
    """L of single samples.

    Of softmax regression it is known everywhere: the softmax's Hessian is at most 1/2,
    times |(x, 1)|^2. Of a perceptron the largest curvature at the base is measured,
    which is less than L.
    """
    train = problem.data["train"]
    if problem.model == "softmax":
        squares = jnp.sum(train.inputs**2, axis=-1) + 1
        return float(jnp.max(squares)) / 2
    some = slice(0, config.smoothness_samples)
    inputs = train.inputs[:, some].reshape(-1, train.inputs.shape[-1])
    labels = train.labels[:, some].reshape(-1)
    found = jax.jit(
        lambda x, *data: (
            stability.measure_sample_smoothness(
                problem.loss,
                x,
                *data,
                key=jax.random.key(config.seed),
                parallel_samples=16,
            ).value
        )
    )(problem.base, inputs, labels)
    return float(found)


def measure_at_base(problem: Problem, config: Config) -> AtBase:
    """Gradients, their noise, losses and L at the base."""
    train = problem.data["train"]
    rows, noise, losses = [], [], []
    for count in sample_counts(config, problem.num_samples):
        some = train.inputs[:, :count], train.labels[:, :count]

        @jax.jit
        def each(x: Any, *data: Any) -> tuple:
            one = lambda task: (
                *jax.value_and_grad(problem.loss)(x, *task),
                stability.per_sample_noise(
                    problem.loss, x, *task, parallel_samples=64
                ).mean,
            )
            return jax.lax.map(one, data)

        value, gradient, variance = jax.device_get(each(problem.base, *some))
        rows.append(gradient)
        noise.append(variance)
        losses.append(value)
    gradients = np.stack(rows).astype(np.float64)
    return AtBase(
        gram=np.einsum("rtp,sup->rtsu", gradients, gradients, optimize=True),
        noise=np.stack(noise).astype(np.float64),
        losses=np.stack(losses).astype(np.float64),
        smoothness=_smoothness(problem, config),
    )


def make_prediction(
    config: Config, at_base: AtBase, *, num_samples: int, convex: bool
) -> Callable[[list[int], np.ndarray], dict[str, np.ndarray]]:
    """What says the bound's terms for averages of any group, compiled once.

    The least loss there can be, 0, stands for min f, so that `start_gap` is f(x_0) and
    the total bounds the merged model's risk itself. The function takes tasks and
    settings `[merge, expert, knob]`, and returns by name `[merge]` the eight terms,
    `length` (A), and whether the bound is `vacuous`.

    Args:
      config: the settings.
      at_base: see `measure_at_base`.
      num_samples: of each task at ratio 1.
      convex: whether the losses are.
    """

    def bound(given: dict, row: dict) -> stability.BoundTerms:
        gradients = stability.gram_statistics(row["gram"])
        stats = stability.ProblemStats(
            smoothness=at_base.smoothness,
            noise=row["noise"],
            gradient_norms=gradients.gradient_norms,
            gradient=gradients.gradient,
            heterogeneity=gradients.heterogeneity,
            merged_heterogeneity=gradients.heterogeneity,
            gap=jnp.mean(row["losses"]),
        )
        spec = stability.ExpertSpec(**given)
        return stability.excess_risk_bound(spec, stats, convex=convex)

    bounds = jax.jit(jax.vmap(bound))

    def predict(group: list[int], chosen: np.ndarray) -> dict[str, np.ndarray]:
        tasks, ratios = np.broadcast_to(group, chosen.shape[:2]), chosen[..., 3]
        pairs = (ratios[:, :, None], tasks[:, :, None], ratios[:, None], tasks[:, None])
        rows = {
            "gram": at_base.gram[pairs],
            "noise": at_base.noise[ratios, tasks],
            "losses": at_base.losses[ratios, tasks],
        }
        # In float64: exponentials of eta L K leave float32 early.
        with jax.enable_x64(True):
            found = bounds(values(config, chosen, num_samples), rows)
            found = jax.device_get(found)
        return {name: getattr(found, name) for name in (*TERMS, "length", "vacuous")}

    return predict


def describe_task_vectors(vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Simple numbers of merges from their experts' task vectors, without any data.

    Args:
      vectors: `[merge, expert, parameter]`.

    Returns:
      By name `[merge]`: the mean squared `norm`, the mean `cosine` of two experts, and
      `dispersion` around the average.
    """
    gram = np.einsum("mip,mjp->mij", vectors, vectors, optimize=True).astype(float)
    squares = np.diagonal(gram, axis1=1, axis2=2)
    norms = np.sqrt(squares)
    cosines = gram / (norms[:, :, None] * norms[:, None])
    num = gram.shape[1]
    off = (cosines.sum(axis=(1, 2)) - num) / (num * (num - 1))
    spread = squares.mean(axis=1) - gram.mean(axis=(1, 2))
    return {"norm": squares.mean(axis=1), "cosine": off, "dispersion": spread}

"""A run: fine-tunes, then predictions of all merges, and only then the merges."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common.manifest import package_versions
from experiments.common.results import Results, fingerprint
from experiments.stability.config import Config, draw_groups, grid, merges
from experiments.stability.measure import make_comparison, make_measure
from experiments.stability.predict import (
    AtBase,
    describe_task_vectors,
    make_prediction,
    measure_at_base,
)
from experiments.stability.problem import Problem, fine_tune, make_problem
from experiments.stability.score import KINDS

Stage = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model's problem and all its fine-tunes.

    Attributes:
      identity: the fingerprint of settings and base, which rows are found again by.
      problem: data, base and references.
      vectors: task vectors, `[task, rate, ratio, seed, step, parameter]` by batch size.
      samples: that fine-tunes saw.
      flops: about, of them all: six for each parameter and sample.
    """

    identity: str
    problem: Problem
    vectors: list[np.ndarray]
    samples: float

    @property
    def flops(self) -> float:
        return 6.0 * self.problem.base.size * self.samples

    def chosen(self, group: list[int], settings: np.ndarray, seed: int) -> np.ndarray:
        """Task vectors of merges, `[merge, expert, parameter]`."""
        rate, batch, step, ratio = np.moveaxis(settings, -1, 0)
        tasks = np.broadcast_to(group, rate.shape)
        found = np.empty((*rate.shape, self.problem.base.size), np.float32)
        for b, vectors in enumerate(self.vectors):
            at = batch == b
            found[at] = vectors[tasks[at], rate[at], ratio[at], seed, step[at]]
        return found


def train(config: Config, model: str, out: Path, stage: Stage) -> Trained:
    """All fine-tunes of a model; those that a folder has are not made again."""
    stage(f"{model}: training the base and the groups' multitask models")
    problem = make_problem(config, model, draw_groups(config))
    settings = dataclasses.asdict(config)
    del settings["resamples"]
    base = np.asarray(problem.base).tobytes().hex()
    identity = fingerprint([model, settings, base, package_versions()])
    vectors, samples = [], 0.0
    for size in config.batch_sizes:
        stage(f"{model}: fine-tuning at batch size {size}")
        path = out / f"fine_tunes_{model}_{size}_{identity}.npz"
        runs = len(grid(config)) // len(config.steps) // len(config.batch_sizes)
        runs *= config.num_tasks * config.training_seeds
        samples += float(runs * config.steps[-1] * size)
        if path.exists():
            vectors.append(np.load(path)["vectors"])
            continue
        vectors.append(fine_tune(problem, config, size))
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, vectors=vectors[-1])
        partial.rename(path)
    return Trained(identity, problem, vectors, samples)


def _rounded(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """JSON data of four digits; infinite numbers become None."""

    def plain(x: Any) -> Any:
        if isinstance(x, bool | np.bool_):
            return int(x)
        if np.isnan(x):
            raise ValueError("a number is not a number; nothing was written")
        return float(f"{x:.4g}") if np.isfinite(x) else None

    return {name: [plain(x) for x in values] for name, values in found.items()}


def infinite(values: list[Any]) -> np.ndarray:
    """What `_rounded` wrote, with infinities again."""
    return np.array([np.inf if x is None else x for x in values], float)


def _cells(config: Config) -> Iterator[tuple[str, int]]:
    yield from ((kind, group) for kind in KINDS for group in range(config.groups))


def predict(
    config: Config, trained: Trained, at_base: AtBase, results: Results
) -> list[dict[str, Any]]:
    """A row for each kind and group, and one for each training seed of it."""
    model = trained.problem.model
    bound = make_prediction(
        config,
        at_base,
        num_samples=trained.problem.num_samples,
        convex=model == "softmax",
    )
    rows = []
    for kind, number in _cells(config):
        group = draw_groups(config)[number]
        chosen = merges(config, number, kind)
        where = {"run": trained.identity, "model": model, "kind": kind, "group": number}
        terms = lambda group=group, chosen=chosen: _rounded(bound(group, chosen))
        rows.append(results.get_or_compute({"what": "terms", **where}, terms))
        for seed in range(config.training_seeds):
            simple = lambda group=group, chosen=chosen, seed=seed: _rounded(
                describe_task_vectors(trained.chosen(group, chosen, seed))
            )
            about = {"what": "task vectors", **where, "training_seed": seed}
            rows.append(results.get_or_compute(about, simple))
    return rows


def measure(
    config: Config, trained: Trained, results: Results, stage: Stage
) -> list[dict[str, Any]]:
    """A row for each kind, group and training seed; their merges are made here."""
    model = trained.problem.model
    groups = draw_groups(config)
    merged = make_measure(trained.problem, config)
    compare = make_comparison(trained.problem)
    rows = []
    for kind, number in _cells(config):
        chosen = merges(config, number, kind)
        for seed in range(config.training_seeds):
            stage(f"{model}: measuring {kind} merges of group {number}")

            def compute(number: int = number, seed: int = seed, chosen: Any = chosen):
                vectors = trained.chosen(groups[number], chosen, seed)
                found = merged(groups[number], vectors, chosen[..., 3])
                return _rounded(found) | {"beside": compare(groups[number], number)}

            where = {"run": trained.identity, "model": model, "kind": kind}
            about = {**where, "group": number, "training_seed": seed}
            rows.append(results.get_or_compute(about, compute))
    return rows


def run_model(config: Config, model: str, out: Path, stage: Stage) -> dict[str, Any]:
    """Everything of one model: its rows, L, and what it cost.

    Raises:
      ValueError: if a learning rate is too large for the convex bound.
    """
    started = time.perf_counter()
    trained = train(config, model, out, stage)
    jax.clear_caches()
    stage(f"{model}: predicting")
    at_base = measure_at_base(trained.problem, config)
    if model == "softmax" and max(config.learning_rates) > 2 / at_base.smoothness:
        raise ValueError(
            f"the largest learning rate is {max(config.learning_rates)}; the convex "
            f"bound takes at most 2 / L = {2 / at_base.smoothness:.4f}"
        )
    # All predictions are on disk before the first merge is evaluated.
    predicted = predict(config, trained, at_base, Results(out / "predictions.jsonl"))
    measured = measure(config, trained, Results(out / "measured.jsonl"), stage)
    return {
        "identity": trained.identity,
        "predicted": predicted,
        "measured": measured,
        "smoothness": at_base.smoothness,
        "parameters": int(trained.problem.base.size),
        "samples": trained.samples,
        "flops": trained.flops,
        "seconds": time.perf_counter() - started,
    }

"""`make_pool`: a base and its experts, trained or loaded, and what they score."""

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common.manifest import make_manifest, package_versions
from experiments.common.pools import SPLITS, Batch, Pool
from experiments.common.results import fingerprint, write_json
from experiments.llm import huggingface, scores
from experiments.llm.config import Config
from experiments.llm.domains import Domain, base_mixture, make_domains
from experiments.llm.lora import Factors, adapter_path, save_adapter
from experiments.llm.model import Architecture, Params
from experiments.llm.train import (
    train_base,
    train_experts,
    train_multitask,
)

CACHE = Path("runs") / "llm"
_CODE = ("model", "streams", "generated", "texts", "domains", "lora", "train")
_OF_THE_BASE = ("seed", "size", "domains", "length", "base_steps", "base_batch")
_OF_THE_BASE += ("base_learning_rate", "base_tokens")
_WITHOUT_WEIGHT = ("texts", "experts_at_once")
RECORD = "training.json"


def _domains(config: Config) -> list[Domain]:
    return make_domains(
        config.domains,
        seed=config.seed,
        length=config.length,
        num_validation=config.num_validation,
        num_test=config.num_test,
        texts=config.texts,
    )


def _held_out(domains: Sequence[Domain]) -> dict[str, Batch]:
    """Validation and test of all domains."""
    data = {}
    for split in SPLITS:
        windows = [domain.windows(split) for domain in domains]
        inputs, tokens, counted = (
            jnp.asarray(np.stack(x)) for x in zip(*windows, strict=True)
        )
        data[split] = Batch(inputs, scores.Targets(tokens, counted))
    return data


def _identity(
    config: Config, domains: Sequence[Domain], fields: Sequence[str] | None = None
) -> str:
    """The fingerprint of settings, texts, code and versions; of the base, if `fields`.

    The folder of a user's texts counts by its content, not by its place.
    """
    settings = dataclasses.asdict(config)
    settings = {k: v for k, v in settings.items() if k not in _WITHOUT_WEIGHT}
    if fields is not None:
        settings = {k: settings[k] for k in fields}
    code = {name: Path(__file__).with_name(f"{name}.py").read_text() for name in _CODE}
    return fingerprint(
        {
            "config": settings,
            "shape": dataclasses.asdict(config.shape),
            "texts": {domain.name: domain.digest() for domain in domains},
            "code": code,
            "versions": {"python": platform.python_version(), **package_versions()},
        }
    )


def _at(tree: Any, t: int) -> Any:
    return jax.tree.map(lambda x: x[t], tree)


def _write(
    folder: Path,
    config: Config,
    names: Sequence[str],
    experts: Sequence[Params],
    factors: Factors | None,
    multitask: Params,
) -> None:
    write = lambda path, params: huggingface.save(
        path, params, config=config.shape, overwrite=True
    )
    for t, (name, expert) in enumerate(zip(names, experts, strict=True)):
        write(folder / f"expert_{name}", expert)
        if factors is not None:
            save_adapter(
                adapter_path(folder, name),
                jax.device_get(_at(factors, t)),
                alpha=config.alpha,
                overwrite=True,
            )
    write(folder / "multitask", multitask)


def _base(
    config: Config,
    domains: Sequence[Domain],
    cache: Path,
    stage: Callable[[str], None],
) -> tuple[Path, Params]:
    """The base, trained or read: pools that differ in their experts share it."""
    name = _identity(config, domains, _OF_THE_BASE)
    folder = cache / f"base-{config.size}-{name}"
    if not folder.exists():
        stage(f"training the base of {config.size}")
        params = train_base(config, base_mixture(domains, config.base_tokens))
        huggingface.save(folder, jax.device_get(params), config=config.shape)
    return folder, huggingface.load(folder).params


def _train(
    config: Config,
    domains: Sequence[Domain],
    base: Params,
    folder: Path,
    stage: Callable[[str], None],
) -> dict[str, Any]:
    """Trains, drops experts without a clear gain, saves; returns the record."""
    streams = np.stack([d.training(config.train_tokens).tokens for d in domains])
    stage(f"training {len(domains)} experts of {config.size} ({config.kind})")
    stacked, factors = train_experts(config, base, streams)
    stage("scoring the experts")
    data = _held_out(domains)
    experts = [_at(stacked, t) for t in range(len(domains))]
    losses, _ = scores.score_all(config.shape, data["validation"], [base, *experts])
    names = [domain.name for domain in domains]
    kept, gains = scores.find_gains(names, losses, config.required_gain)
    stage("training the multitask model")
    multitask = train_multitask(config, base, streams[kept])
    stage("scoring and saving")
    pick = np.array(kept)
    experts = jax.device_get([experts[t] for t in kept])
    multitask = jax.device_get(multitask)
    of_kept = jax.tree.map(lambda x: x[pick], factors)
    _write(folder, config, [names[t] for t in kept], experts, of_kept, multitask)
    test = jax.tree.map(lambda x: x[pick], data["test"])
    found = scores.score_all(config.shape, test, [base, *experts, multitask])
    losses, shares = (np.round(x.mean(axis=-1).astype(float), 5) for x in found)
    return {
        "tasks": [names[t] for t in kept],
        "dropped": [gains[t] for t in range(len(names)) if t not in kept],
        "validation_gains": [gains[t] for t in kept],
        "test_loss": _table(losses),
        "test_accuracy": _table(shares),
    }


def _table(means: np.ndarray) -> dict[str, Any]:
    """Rows are models, columns are domains."""
    return {
        "base": means[0].tolist(),
        "experts": means[1:-1].tolist(),
        "multitask": means[-1].tolist(),
    }


def _costs(config: Config, num_tasks: int) -> dict[str, Any]:
    """Tokens and FLOPs by the usual count, six a parameter and token."""
    num = Architecture(config.shape).num_parameters
    tokens = {**config.tokens}
    tokens["multitask"] = tokens["expert"] * num_tasks
    total = tokens["base"] + tokens["experts"] + tokens["multitask"]
    return {
        "num_parameters": num,
        "tokens": {**tokens, "total": total},
        "flops": {k: 6 * num * v for k, v in {**tokens, "total": total}.items()},
    }


def pool_folder(config: Config, cache: Path = CACHE) -> Path:
    """Where a pool's experts, adapters, multitask model and record are kept."""
    name = _identity(config, _domains(config))
    return cache / f"{config.size}-{config.kind}-seed{config.seed}-{name}"


def _missing(folder: Path, record: dict[str, Any]) -> bool:
    names = [f"expert_{name}" for name in record.get("tasks", ["?"])]
    return not all((folder / name).exists() for name in (*names, "multitask"))


def make_pool(
    config: Config,
    cache: Path = CACHE,
    stage: Callable[[str], None] = lambda what: None,
) -> Pool:
    """The pool of a config: loaded if it is there, else trained and kept.

    Args:
      config: the settings.
      cache: a folder; pools of different settings, code or versions never share one.
      stage: called with a few words as each stage begins.

    Raises:
      TooFewExpertsError: if fewer than two experts have a clear gain.
      ValueError: if the domains cannot be made here.
    """
    pool, _ = load_pool(config, cache, stage)
    return pool


def load_pool(
    config: Config,
    cache: Path = CACHE,
    stage: Callable[[str], None] = lambda what: None,
) -> tuple[Pool, dict[str, Any]]:
    """`make_pool`, and the record of its training."""
    domains = _domains(config)
    identity = _identity(config, domains)
    folder = pool_folder(config, cache)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RECORD
    record = json.loads(path.read_text()) if path.exists() else {}
    base_folder, base = _base(config, domains, cache, stage)
    if _missing(folder, record):
        path.unlink(missing_ok=True)
        started = time.perf_counter()
        record = _train(config, domains, base, folder, stage)
        durations = {"experts and multitask": time.perf_counter() - started}
        record |= _costs(config, len(record["tasks"]))
        record["identity"], record["base"] = identity, base_folder.name
        record["manifest"] = make_manifest(
            dataclasses.replace(config, texts=config.texts and "given"),
            durations=durations,
        )
        write_json(path, record)
        record = json.loads(path.read_text())
    return _as_pool(config, domains, base, folder, record), record


def _as_pool(
    config: Config,
    domains: Sequence[Domain],
    base: Params,
    folder: Path,
    record: dict[str, Any],
) -> Pool:
    names = record["tasks"]
    read = lambda name: huggingface.load(folder / name).params
    stack = lambda *leaves: jnp.asarray(np.stack(leaves))
    return Pool(
        name=config.label,
        identity=record["identity"],
        tasks=tuple(names),
        base=jax.tree.map(jnp.asarray, base),
        experts=jax.tree.map(stack, *(read(f"expert_{name}") for name in names)),
        multitask=jax.tree.map(jnp.asarray, read("multitask")),
        outputs=Architecture(config.shape, scanned=True).logits,
        loss=scores.loss,
        correct=scores.correct,
        data=_held_out([d for d in domains if d.name in names]),
    )

"""A pool of language models: trained, kept, read again; LoRA is what PEFT says."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxmerge
from experiments.common.pools import Pool, score, score_ensemble
from experiments.llm import huggingface
from experiments.llm.config import PRESETS, SIZES, TINY, Config
from experiments.llm.lora import add_factors, init_factors, save_adapter
from experiments.llm.model import Architecture
from experiments.llm.pool import load_pool, pool_folder
from experiments.llm.report import markdown_table
from experiments.llm.scores import TooFewExpertsError, find_gains
from experiments.llm.train import train_experts
from jaxmerge import checkpoint

pytestmark = pytest.mark.usefixtures("quick_compilation")
(SMOKE,) = PRESETS["smoke"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("llm")


@pytest.fixture(scope="module")
def stages():
    return []


@pytest.fixture(scope="module")
def found(cache, stages, quick_compilation):
    """The smoke pool and its record."""
    return load_pool(SMOKE, cache, stages.append)


def test_experts_gain_on_their_own_domains_and_lose_elsewhere(found):
    pool, record = found
    assert isinstance(pool, Pool)
    assert pool.tasks == SMOKE.domains == tuple(record["tasks"])
    assert not record["dropped"]
    base = np.array(record["test_loss"]["base"])
    experts = np.array(record["test_loss"]["experts"])
    assert (np.diagonal(experts) < base - SMOKE.required_gain).all()
    # Distinct: no expert is better on another's domain than that one's own.
    assert (np.argmin(experts, axis=0) == np.arange(pool.size)).all()
    assert np.mean(record["test_loss"]["multitask"]) < base.mean()


def test_the_record_counts_tokens_and_flops(found):
    _, record = found
    tokens, num = record["tokens"], record["num_parameters"]
    assert num == Architecture(SMOKE.shape).num_parameters
    assert tokens["expert"] == 60 * 8 * 32
    assert tokens["experts"] == tokens["multitask"] == 3 * tokens["expert"]
    assert record["flops"]["base"] == 6 * num * tokens["base"]
    assert tokens["total"] == tokens["base"] + 2 * tokens["experts"]


def test_the_pool_scores_as_the_record_says(found):
    pool, record = found
    scored = jax.jit(lambda params: score(pool, params, "test"))
    for params, kind in ((pool.base, "base"), (pool.multitask, "multitask")):
        one = scored(params)
        np.testing.assert_allclose(one.loss, record["test_loss"][kind], atol=2e-5)
        np.testing.assert_allclose(
            one.accuracy, record["test_accuracy"][kind], atol=2e-5
        )
    merged = jax.tree.map(lambda x, y: (x + y) / 2, *pool.subset((0, 2)))
    assert np.isfinite(scored(merged).loss).all()


def test_one_model_alone_is_its_own_ensemble(found):
    pool, record = found
    alone = jax.jit(lambda: score_ensemble(pool, (1,), "test"))()
    expected = record["test_loss"]["experts"][1]
    np.testing.assert_allclose(alone.loss, expected, atol=2e-5)


def test_a_pool_is_read_again_bit_for_bit(found, cache, stages):
    pool, record = found
    assert any("training" in stage for stage in stages)
    stages.clear()
    again, same = load_pool(SMOKE, cache, stages.append)
    assert stages == []
    assert same == record
    assert again.identity == pool.identity
    jax.tree.map(np.testing.assert_array_equal, again.experts, pool.experts)
    jax.tree.map(np.testing.assert_array_equal, again.data, pool.data)
    other = dataclasses.replace(SMOKE, seed=1)
    assert pool_folder(other, cache) != pool_folder(SMOKE, cache)
    assert str(cache) not in json.dumps(record)


def test_models_are_hugging_face_folders(found, cache):
    pool, record = found
    expert = huggingface.load(pool_folder(SMOKE, cache) / "expert_units")
    assert expert.config == SMOKE.shape
    jax.tree.map(np.testing.assert_array_equal, expert.params, pool.expert(2))
    assert huggingface.load(cache / record["base"]).config == SMOKE.shape


@pytest.mark.slow
def test_an_adapter_in_peft_format_gives_the_expert(tmp_path):
    config = dataclasses.replace(SMOKE, rank=3, expert_steps=2)
    architecture = Architecture(config.shape)
    base = jax.device_get(jax.jit(architecture.init)(jax.random.key(0)))
    streams = np.random.default_rng(0).integers(0, 256, (2, 500)).astype(np.uint16)
    experts, factors = train_experts(config, base, streams)
    assert factors is not None
    one = lambda tree: jax.device_get(jax.tree.map(lambda x: x[1], tree))
    huggingface.save(tmp_path / "base", base, config=config.shape)
    save_adapter(tmp_path / "a", one(factors), alpha=config.alpha, overwrite=False)
    checkpoint.merge(
        jaxmerge.task_arithmetic(scale=1.0),
        base=tmp_path / "base",
        experts=[tmp_path / "a"],
        out=tmp_path / "out",
    )
    merged = huggingface.load(tmp_path / "out").params
    names = checkpoint.flatten_names(merged)
    expected = checkpoint.flatten_names(one(experts))
    for name, leaf in checkpoint.flatten_names(base).items():
        np.testing.assert_allclose(names[name], expected[name], atol=1e-6)
        moved = np.any(expected[name] != leaf)
        assert moved == (".layers." in name and name.endswith("kernel"))


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, -1])
def test_the_gpu_preset_runs_at_the_size_of_smoke(which, tmp_path):
    config = dataclasses.replace(
        PRESETS["gpu"][which],
        size=TINY,
        length=32,
        base_steps=3,
        base_batch=4,
        base_tokens=2**12,
        expert_steps=2,
        expert_batch=2,
        train_tokens=2**12,
        num_validation=4,
        num_test=4,
        required_gain=-10.0,
    )
    pool, record = load_pool(config, tmp_path)
    assert pool.size == 16
    assert np.isfinite(record["test_loss"]["experts"]).all()
    adapters = list(pool_folder(config, tmp_path).glob("adapter_*"))
    assert len(adapters) == (0 if config.rank is None else 16)


def test_factors_start_as_no_change():
    params = jax.tree.map(
        lambda x: np.ones(x.shape, np.float32), Architecture(SMOKE.shape).abstract
    )
    factors = jax.jit(init_factors, static_argnums=1)(params, 2, jax.random.key(0))
    assert len(factors) == 7
    same = jax.jit(add_factors, static_argnums=2)(params, factors, 3.0)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    assert all(np.std(pair["a"]) > 0 for pair in factors.values())


def test_experts_without_a_clear_gain_are_dropped_by_name():
    losses = np.full((4, 3, 50), 2.0)
    losses[1, 0], losses[2, 1] = 1.5, 1.9
    noise = np.tile([0.5, -0.5], 25)
    losses[3, 2] = 1.9 + noise
    kept, gains = find_gains(["a", "b", "c"], losses, 0.05)
    assert kept == [0, 1]
    assert gains[2]["task"] == "c"
    assert gains[2]["gain"] == pytest.approx(0.1)
    assert gains[2]["stderr"] == pytest.approx(0.5 / 7, abs=1e-4)
    with pytest.raises(TooFewExpertsError, match=r"a \(\+0\.500\), b \(\+0\.100\)"):
        find_gains(["a", "b", "c"], losses, 0.2)


def test_sizes_are_spread_over_a_decade_and_a_half():
    names = dict.fromkeys(config.size for config in PRESETS["cpu"])
    counts = {n: Architecture(SIZES[n]).num_parameters for n in names}
    for name, count in counts.items():
        assert count == pytest.approx(float(name[:-1]) * 1e6, rel=0.13)
    assert len(counts) == 5
    assert counts["3M"] / counts["0.1M"] > 10**1.4
    assert all(len(config.domains) >= 8 for config in PRESETS["cpu"])
    assert all(len(config.domains) == 16 for config in PRESETS["gpu"])
    assert TINY not in SIZES
    assert Config().kind == "full"


def committed():
    path = Path(__file__).parents[2] / "experiments" / "llm" / "results" / "cpu.json"
    return json.loads(path.read_text())


def test_the_committed_experts_are_distinct():
    records = committed()
    assert len(records) >= 5
    for record in records:
        losses = np.array(record["test_loss"]["experts"])
        own = np.diagonal(losses)
        base = np.array(record["test_loss"]["base"])
        multitask = np.array(record["test_loss"]["multitask"])
        assert (own < base).all()
        # The nearest expert of another domain, in nats behind.
        behind = dict(
            zip(record["tasks"], np.sort(losses, axis=0)[1] - own, strict=True)
        )
        if record["num_parameters"] > 2e6:
            # The weakest domain of the largest models, as the page says.
            assert behind.pop("network") > 0.15
        assert min(behind.values()) > (0.2 if len(losses) <= 8 else 0.03)
        assert own.mean() < multitask.mean() < base.mean()
        gone = [entry["task"] for entry in record["dropped"]]
        assert not set(gone) & set(record["tasks"])
        asked = record["manifest"]["config"]["domains"]
        assert sorted([*gone, *record["tasks"]]) == sorted(asked)


def test_the_committed_table_is_the_pages():
    page = (Path(__file__).parents[2] / "experiments/llm/README.md").read_text()
    assert markdown_table(committed()) in page

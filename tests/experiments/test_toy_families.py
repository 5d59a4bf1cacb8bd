"""Trained families: the digit suite, networks, experts that gain, and what is kept."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common.pools import score, score_ensemble
from experiments.more_experts.tasks import SPLITS, load_images
from experiments.toy import classifiers
from experiments.toy.__main__ import main
from experiments.toy.classifiers import ClassifierConfig
from experiments.toy.digits import DigitsConfig, make_network, make_pool
from experiments.toy.networks import _Convolution, nnx
from experiments.toy.presets import PRESETS
from experiments.toy.suite import SUITE, draw
from experiments.toy.training import Schedule

SMALL = PRESETS["smoke"]["softmax"]
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def validation():
    """Samples of all sixteen tasks."""
    return draw(0, "validation", 1, num_tasks=16)


def test_sixteen_tasks_have_names_and_maps_of_their_own():
    assert len({task.name for task in SUITE}) == len(SUITE) == 16
    for task in SUITE:
        assert sorted(task.labels) == list(range(10))
    composed = [tuple(task.labels) for task in SUITE[10:]]
    assert len(set(composed)) == 6
    assert all(labels != tuple(range(10)) for labels in composed)


def test_tasks_look_different(validation):
    # The mean picture of a digit differs between any two tasks, by more than between
    # two draws of one.
    digits = np.asarray(load_images(0)[1][slice(*SPLITS["validation"])])
    pictures = np.asarray(validation.inputs)
    means = np.stack(
        [[p[digits == d].mean(axis=0) for d in range(10)] for p in pictures]
    )
    again = np.asarray(draw(1, "validation", 1, num_tasks=2).inputs)
    other = np.asarray(load_images(1)[1][slice(*SPLITS["validation"])])
    for t in range(2):
        twice = np.stack([again[t][other == d].mean(axis=0) for d in range(10)])
        assert np.linalg.norm(twice - means[t], axis=-1).mean() < 1.2
    for a in range(16):
        for b in range(a):
            assert np.linalg.norm(means[a] - means[b], axis=-1).mean() > 2.0


def test_labels_are_renamed_digits(validation):
    digits = np.asarray(load_images(0)[1][slice(*SPLITS["validation"])])
    for task, labels in zip(SUITE, np.asarray(validation.labels), strict=True):
        np.testing.assert_array_equal(labels, task.labels[digits])
    plain = draw(0, "validation", 1, num_tasks=2, plain=True)
    np.testing.assert_array_equal(plain.labels[1], digits)
    assert float(jnp.max(jnp.abs(plain.inputs[0] - validation.inputs[0]))) > 0.1


def test_a_convolution_of_shifted_views_is_a_convolution(key):
    layer = _Convolution(3, 5, 2, nnx.Rngs(0))
    x = jax.random.normal(key, (2, 12, 12, 3))
    expected = jax.lax.conv_general_dilated(
        x,
        layer.kernel[...],
        (2, 2),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_networks_have_a_logit_for_each_digit(name, key):
    network = make_network(DigitsConfig(name, width=8, depth=2))
    params = jax.eval_shape(network.init, key)
    logits = jax.eval_shape(network.logits, params, jnp.zeros((6, 144)))
    assert logits.shape == (6, 10)
    leaves = jax.tree.leaves((params, logits))
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)
    blocks = (
        ["block0", "block1"] if name == "vit" else ["stage0_block1", "stage2_block0"]
    )
    assert set(blocks) <= params.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_networks_are_functions_of_their_parameters(name, key):
    network = make_network(DigitsConfig(name, width=8))
    x = jax.random.normal(key, (6, 144))

    @jax.jit
    def both(keys):
        pair = jax.vmap(network.init)(keys)
        second = jax.tree.map(lambda leaf: leaf[1], pair)
        every = jax.vmap(network.logits, (0, None))(pair, x)
        return every, network.logits(second, x)

    logits, alone = both(jax.random.split(key))
    assert logits.shape == (2, 6, 10)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(alone, logits[1], atol=1e-4)
    assert float(jnp.max(jnp.abs(logits[0] - logits[1]))) > 1e-3


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match="network is 'lstm'"):
        make_network(DigitsConfig("lstm", width=8))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished smoke run: its folder."""
    out = tmp_path_factory.mktemp("toy")
    assert main(["--preset", "smoke", "--out", str(out)]) == 0
    return out


def test_the_smoke_preset_trains_experts_that_gain(finished):
    found = json.loads((finished / "results.json").read_text())
    for row in found["families"]:
        base, expert, others = (np.array(row[n]) for n in ("base", "expert", "others"))
        assert np.all(expert > base + 0.05)
        assert np.all(expert > others)
        assert row["dropped"] == []
    manifest = found["manifest"]
    assert manifest["config"]["families"].keys() == PRESETS["smoke"].keys()
    for name, work in manifest["work"].items():
        config = PRESETS["smoke"][name]
        tasks = config.tasks if name == "softmax" else config.num_tasks
        assert work["samples"]["experts"] == tasks * config.expert.samples
        assert work["samples"]["multitask"] == work["samples"]["experts"]
    # Softmax regression costs two operations a weight, three times over.
    work = manifest["work"]["softmax"]
    cost = work["flops"] / sum(work["samples"].values())
    weights = SMALL.inputs * SMALL.classes
    assert 6 * weights <= cost <= 8 * weights


def test_a_rerun_reuses_models_and_prints_the_same(finished, capsys):
    files = sorted(finished.glob("*/*.safetensors"))
    assert len(files) == 6
    before = [file.stat().st_mtime_ns for file in files]
    arguments = ["--preset", "smoke", "--family", "softmax", "--out", str(finished)]
    assert main(arguments) == 0
    assert [file.stat().st_mtime_ns for file in files] == before
    printed = capsys.readouterr().out
    assert "softmax regression: 85 parameters, 4 experts" in printed
    assert main(arguments) == 0
    assert capsys.readouterr().out == printed


def test_a_pool_scores_its_models(finished):
    pool = classifiers.make_pool(SMALL, finished / "softmax")
    row = json.loads((finished / "results.json").read_text())["families"][0]
    own = score(pool, pool.expert(2), "test")
    np.testing.assert_allclose(own.accuracy[2], row["expert"][2], atol=1e-4)
    # The mean of a linear model's outputs is the output of the mean.
    mean = jax.tree.map(lambda x: (x[0] + x[2]) / 2, pool.experts)
    np.testing.assert_allclose(
        score_ensemble(pool, [0, 2], "test").loss, score(pool, mean, "test").loss, 1e-5
    )


@pytest.mark.slow
def test_weak_experts_are_dropped_and_named(finished):
    gains = json.loads((finished / "softmax" / "training.json").read_text())["gains"]
    weakest = min(gains, key=lambda name: gains[name])
    required = 100 * min(g for name, g in gains.items() if name != weakest) - 0.02
    assert 100 * gains[weakest] < required
    pool = classifiers.make_pool(dataclasses.replace(SMALL, required_gain=required))
    assert pool.dropped == (weakest,)
    assert weakest not in pool.tasks
    assert pool.size == 3 == len(pool.data["test"].targets)
    assert pool.expert(2)["layer0"]["kernel"].shape == (16, 5)


@pytest.mark.slow
def test_a_family_without_an_expert_that_gained_is_refused():
    with pytest.raises(ValueError, match="no expert gained 101 points"):
        classifiers.make_pool(dataclasses.replace(SMALL, required_gain=101.0))


def test_settings_make_another_family_and_splits_are_apart():
    data = classifiers.make_data(SMALL)
    held = data.held_out
    apart = lambda a, b: float(jnp.min(jnp.max(jnp.abs(a[:, None] - b[None]), axis=-1)))
    three = [data.train.inputs[0], *(held[s].inputs[0] for s in held)]
    for i, a in enumerate(three):
        for b in three[:i]:
            assert apart(a[:64], b[:64]) > 0
    other = classifiers.make_data(dataclasses.replace(SMALL, seed=1))
    assert float(jnp.mean(other.train.labels == data.train.labels)) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_small_networks_are_pools_too(name, tmp_path):
    small = PRESETS["smoke"]["mlp"]
    assert isinstance(small, DigitsConfig)
    config = dataclasses.replace(
        small,
        network=name,
        width=16 if name == "vit" else 8,
        base=Schedule(200, 64, 5e-3),
        expert=Schedule(100, 64, 3e-3),
        multitask_rate=3e-3,
        required_gain=5.0,
    )
    pool = make_pool(config, tmp_path)
    assert pool.size == 3
    loaded = make_pool(config, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, loaded.experts, pool.experts)
    own = [float(score(pool, pool.expert(t), "test").accuracy[t]) for t in range(3)]
    assert np.all(np.array(own) > np.asarray(score(pool, pool.base, "test").accuracy))


def test_an_unknown_family_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--preset", "smoke", "--family", "gpt"])
    assert (
        "no family 'gpt' in preset smoke; there are softmax" in capsys.readouterr().err
    )


def test_presets_have_the_families_that_they_promise():
    assert set(PRESETS["cpu"]) == set(PRESETS["gpu"])
    for families in (PRESETS["cpu"], PRESETS["gpu"]):
        synthetic = [c for c in families.values() if isinstance(c, ClassifierConfig)]
        assert max(config.tasks for config in synthetic) == 50
        digits = [c for c in families.values() if isinstance(c, DigitsConfig)]
        assert {c.network for c in digits} == {"mlp", "vit", "resnet"}
        assert all(c.num_tasks == 16 for c in digits)

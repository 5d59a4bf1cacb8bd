"""Question 6: the grid, predictions made before merges, and what is measured."""

import contextlib
import dataclasses
import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common.intervals import spearman
from experiments.common.results import Results
from experiments.stability import sweep
from experiments.stability.__main__ import main, read_rows
from experiments.stability.config import (
    PRESETS,
    Config,
    draw_groups,
    grid,
    merges,
    num_fine_tunes,
    values,
)
from experiments.stability.predict import (
    AtBase,
    describe_task_vectors,
    make_prediction,
    measure_at_base,
)
from experiments.stability.report import gather
from jaxmerge import stability

SMOKE = PRESETS["smoke"]
pytestmark = pytest.mark.usefixtures("quick_compilation")


# --- the grid ------------------------------------------------------------------------


def test_presets_make_a_thousand_fine_tunes():
    for name in ("cpu", "gpu"):
        config = PRESETS[name]
        assert num_fine_tunes(config) >= 1000
        assert config.group_size == 6
        assert set(config.models) == {"softmax", "mlp"}


def test_matched_merges_are_the_grid_and_mixed_ones_are_drawn():
    config = Config()
    matched, mixed = (merges(config, 3, kind) for kind in ("matched", "mixed"))
    assert matched.shape == mixed.shape == (144, 6, 4)
    assert np.all(matched == matched[:, :1])
    assert len(np.unique(matched[:, 0], axis=0)) == len(grid(config)) == 144
    assert np.all(np.any(mixed != mixed[:, :1], axis=(1, 2)))
    np.testing.assert_array_equal(mixed, merges(config, 3, "mixed"))
    assert np.any(mixed != merges(config, 4, "mixed"))
    groups = draw_groups(config)
    assert all(len(set(group)) == 6 for group in groups)
    assert len({tuple(group) for group in groups}) == 10


def test_settings_have_the_values_of_the_config():
    found = values(Config(), np.array([[3, 0, 1, 2]]), 1024)
    assert found["learning_rate"] == [0.1]
    assert found["batch_size"] == [8]
    assert found["steps"] == [32]
    assert found["samples"] == [1024]


# --- predictions ----------------------------------------------------------------------


def test_predictions_are_the_bound_of_the_members():
    rng = np.random.default_rng(0)
    config = dataclasses.replace(SMOKE, batch_sizes=(8, 32), mixed=5)
    gradients = rng.normal(size=(2, 4, 7))
    at_base = AtBase(
        gram=np.einsum("rtp,sup->rtsu", gradients, gradients),
        noise=rng.uniform(1, 2, size=(2, 4)),
        losses=rng.uniform(1, 2, size=(2, 4)),
        smoothness=3.0,
    )
    group, chosen = [3, 0, 2], merges(config, 0, "mixed")
    found = make_prediction(config, at_base, num_samples=256, convex=True)(
        group, chosen
    )
    for m in range(len(chosen)):
        rate, batch, step, ratio = chosen[m].T
        eta = np.array(config.learning_rates)[rate]
        size = np.array(config.batch_sizes)[batch]
        lengths = eta * np.array(config.steps)[step] / 3
        length, shares = lengths.sum(), lengths / lengths.sum()
        own = gradients[ratio, group]
        mean = own.mean(axis=0)
        spread = ((own - mean) ** 2).sum(axis=1).mean()
        noise = at_base.noise[ratio, group]
        expected = {
            "length": length,
            "start_gap": at_base.losses[ratio, group].mean(),
            "descent": -length / 2 * mean @ mean,
            "training_heterogeneity": length
            * spread
            * 3
            * ((shares - 1 / 3) ** 2).sum(),
            "noise": 3.0 * (lengths * eta / 3 * noise / size).sum(),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][m], value, rtol=1e-9, atol=1e-12)
    assert found["training_heterogeneity"].max() > 0


def test_task_vectors_are_described_by_their_inner_products(rng):
    vectors = rng.normal(size=(2, 3, 50)).astype(np.float32)
    found = describe_task_vectors(vectors)
    experts = list(jnp.asarray(vectors[1]))
    spread = stability.dispersion(experts, jnp.mean(jnp.asarray(vectors[1]), axis=0))
    np.testing.assert_allclose(found["dispersion"][1], spread, rtol=1e-5)
    pairs = [(0, 1), (0, 2), (1, 2)]
    unit = vectors[1] / np.linalg.norm(vectors[1], axis=1, keepdims=True)
    mean = np.mean([unit[i] @ unit[j] for i, j in pairs])
    np.testing.assert_allclose(found["cosine"][1], mean, rtol=1e-5)
    np.testing.assert_allclose(found["norm"][1], (vectors[1] ** 2).sum() / 3, rtol=1e-5)


# --- a run ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def at_base(trained):
    """What predictions of the smoke preset rest on."""
    return measure_at_base(trained[0].problem, SMOKE)


@pytest.fixture
def known(trained, at_base, monkeypatch):
    """Fine-tunes and numbers at the base are there already."""
    monkeypatch.setattr(sweep, "train", lambda *args: trained[0])
    monkeypatch.setattr(sweep, "measure_at_base", lambda *args: at_base)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Fine-tunes of the smoke preset, and the folder that they are kept in."""
    out = tmp_path_factory.mktemp("stability")
    return sweep.train(SMOKE, "softmax", out, lambda what: None), out


def test_fine_tunes_are_sgd_from_the_base(trained):
    found, _ = trained
    shape = (4, 2, 2, SMOKE.training_seeds, 2, 1450)
    assert [v.shape for v in found.vectors] == [shape]
    norms = np.linalg.norm(found.vectors[0], axis=-1)
    assert np.all(norms > 0)
    # More steps and larger rates go further; seeds differ.
    assert np.all(norms[..., 1] > norms[..., 0])
    assert np.all(norms[:, 1] > norms[:, 0])
    assert np.all(
        found.vectors[0][:, :, :, 0] != found.vectors[0][:, :, :, 1], axis=(-1)
    ).any()
    group, settings = [2, 0, 1], merges(SMOKE, 0, "mixed")
    chosen = found.chosen(group, settings, seed=1)
    rate, batch, step, ratio = settings[3, 1]
    assert batch == 0
    np.testing.assert_array_equal(
        chosen[3, 1], found.vectors[0][0, rate, ratio, 1, step]
    )


def test_terms_are_on_disk_before_any_merge_is_evaluated(trained, known, monkeypatch):
    _, out = trained

    def stop(*args):
        raise RuntimeError("stopped before the first merge")

    monkeypatch.setattr(sweep, "measure", stop)
    with pytest.raises(RuntimeError, match="stopped"):
        sweep.run_model(SMOKE, "softmax", out, lambda what: None)
    rows = Results(out / "predictions.jsonl").rows.values()
    cells = 2 * SMOKE.groups
    assert sum(row["what"] == "terms" for row in rows) == cells
    assert len(rows) == cells * (1 + SMOKE.training_seeds)
    assert not (out / "measured.jsonl").exists()


@pytest.fixture(scope="module")
def finished(trained, at_base):
    """A finished smoke run, with what it printed."""
    found, out = trained
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sweep, "train", lambda *args: found)
        patch.setattr(sweep, "measure_at_base", lambda *args: at_base)
        assert main(["--preset", "smoke", "--out", str(out)]) == 0
    return found, out, printed.getvalue()


def test_a_rerun_resumes_and_the_figure_needs_rows_only(finished, capsys, monkeypatch):
    _, out, printed = finished
    assert "training_heterogeneity" in printed
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    rows = {n: (out / n).read_text() for n in ("predictions.jsonl", "measured.jsonl")}
    summary = json.loads((out / "summary.json").read_text())

    def stop(*args):
        raise AssertionError("computed again")

    monkeypatch.setattr(sweep, "train", stop)
    assert main(["--preset", "smoke", "--redraw", "--out", str(out)]) == 0
    assert capsys.readouterr().out == printed
    assert {name: (out / name).read_text() for name in rows} == rows
    assert json.loads((out / "summary.json").read_text()) == summary


def test_measurements_are_what_a_loop_would_measure(finished):
    found, out, _ = finished
    problem, number, m = found.problem, 1, 5
    group = draw_groups(SMOKE)[number]
    row = next(
        r
        for r in Results(out / "measured.jsonl").rows.values()
        if (r["kind"], r["group"], r["training_seed"]) == ("mixed", number, 1)
    )
    settings = merges(SMOKE, number, "mixed")
    vectors = found.chosen(group, settings[m : m + 1], 1)[0]
    average = problem.base + jnp.mean(jnp.asarray(vectors), axis=0)
    test, train = problem.data["test"], problem.data["train"]
    counts = [(256, 1024)[r] for r in settings[m, :, 3]]
    loss = jax.jit(problem.loss)
    risk = np.mean([loss(average, test.inputs[t], test.labels[t]) for t in group])
    seen = np.mean(
        [
            loss(average, train.inputs[t, :n], train.labels[t, :n])
            for t, n in zip(group, counts, strict=True)
        ]
    )
    own = np.mean(
        [
            loss(problem.base + v, test.inputs[t], test.labels[t])
            for t, v in zip(group, vectors, strict=True)
        ]
    )
    np.testing.assert_allclose(row["risk"][m], risk, rtol=1e-3)
    np.testing.assert_allclose(row["train"][m], seen, rtol=1e-3)
    np.testing.assert_allclose(row["expert"][m], own, rtol=1e-3)
    # An ensemble of linear models is the model of their average.
    np.testing.assert_allclose(row["ensemble"], row["risk"], rtol=2e-3)
    assert row["beside"]["multitask"] < row["beside"]["base"]


def test_smoothness_of_softmax_regression_bounds_every_curvature(trained, at_base):
    problem = trained[0].problem
    train = problem.data["train"]
    some = train.inputs[0, :8], train.labels[0, :8]
    measured = jax.jit(
        lambda x: (
            stability.measure_sample_smoothness(
                problem.loss, x, *some, key=jax.random.key(0)
            ).value
        )
    )(problem.base)
    assert 0.2 * at_base.smoothness < float(measured) <= at_base.smoothness
    gradient = jax.jit(jax.grad(problem.loss))(
        problem.base, train.inputs[2], train.labels[2]
    )
    np.testing.assert_allclose(at_base.gram[1, 2, 1, 2], gradient @ gradient, rtol=1e-4)


# --- what is committed ----------------------------------------------------------------

STABILITY = Path(__file__).parents[2] / "experiments" / "stability"
RESULTS = STABILITY / "results"


def test_the_page_says_what_the_committed_rows_say():
    summary = json.loads((RESULTS / "summary.json").read_text())
    page = (STABILITY / "README.md").read_text()
    rows = {
        name: read_rows(RESULTS / f"{name}.jsonl")
        for name in ("predictions", "measured")
    }
    assert len(rows["measured"]) == 2 * 2 * 10 * 2
    assert len(rows["predictions"]) == 2 * 2 * 10 * 3
    config = Config()
    assert summary["manifest"]["config"] == json.loads(
        json.dumps(dataclasses.asdict(config))
    )
    for model, said in summary["models"].items():
        mine = {
            n: [r for r in found if r["model"] == model] for n, found in rows.items()
        }
        cells = gather(config, mine["predictions"], mine["measured"], "matched")
        pairs = [(c["predictors"]["total"], c["outcomes"]["risk"]) for c in cells]
        found = said["matched"]["correlations"]["total"]["risk"]
        mean = np.mean([spearman(*pair) for pair in pairs])
        np.testing.assert_allclose(mean, found["mean"], atol=1e-3)
        shown = (f"{found[n]:.2f}".replace("-", "−") for n in ("mean", "low", "high"))
        assert "{} [{}, {}]".format(*shown).replace("0.", ".") in page
        vacuous = said["matched"]["vacuity"]["vacuous"]
        assert f"{100 * vacuous['mean']:.1f} % [{100 * vacuous['low']:.1f}" in page
        assert said["mixed"]["vacuity"]["vacuous"]["mean"] == 1.0
        assert all(
            said[kind]["vacuity"]["holds"] == 1.0 for kind in ("matched", "mixed")
        )

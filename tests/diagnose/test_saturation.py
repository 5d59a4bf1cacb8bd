"""From a base and experts, as trees and on disk, to widths and thresholds."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxmerge import checkpoint, geometry
from jaxmerge.cli.main import main
from jaxmerge.diagnose import saturation
from jaxmerge.diagnose.saturation_report import as_data, figure, summary

KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("quick_compilation")
TOLERANCE = {"tolerance": 0.3, "half_angle": 1.0, "dimension": 10.0, "eta": 0.05}


def trees(num: int, shared: float = 0.0) -> tuple[dict, list[dict]]:
    """A base and experts whose task vectors are orthonormal, but for a shared part."""
    rows = np.linalg.qr(np.random.default_rng(0).standard_normal((40, num + 1)))[0].T
    rows = math.sqrt(1 - shared) * rows[:-1] + math.sqrt(shared) * rows[-1]
    split = lambda row: {
        "layers": [{"w": jnp.asarray(row[:30].reshape(5, 6), jnp.float32)}],
        "head": jnp.asarray(row[30:], jnp.float32),
    }
    return split(np.zeros(40)), [split(row) for row in rows]


@pytest.fixture(scope="module")
def found():
    base, experts = trees(6)
    return saturation(base, experts, key=KEY, **TOLERANCE)


def test_orthonormal_experts_are_the_known_case(found):
    np.testing.assert_allclose(found.whole.gram, np.eye(6), atol=1e-5)
    np.testing.assert_allclose(found.whole.norms, 1, rtol=1e-5)
    assert float(found.whole.ranks.participation) == pytest.approx(6, rel=1e-4)
    expected = np.array([geometry.max_of_normals(k) for k in range(1, 7)])
    errors = 4 * np.asarray(found.whole.width.stderr) + 1e-5
    assert np.all(np.abs(found.whole.width.mean - expected) < errors)
    assert found.whole.width.mean[-1] < found.ceiling
    assert found.parameters == 40
    assert set(found.layers) == {"layers.0", "head"}
    total = sum(layer.gram for layer in found.layers.values())
    np.testing.assert_allclose(total, found.whole.gram, atol=1e-5)
    assert sorted(found.order) == list(range(6))


def test_every_threshold_whose_inputs_are_there_is_told(found):
    assert set(found.thresholds) == {
        *("marginal_gain", "gram_capacity", "span_saturation")
    }
    gains = np.diff([geometry.max_of_normals(k) for k in range(1, 7)])
    first_below = 1 + int(np.argmax(gains < 0.3 * gains[0]))
    assert float(found.thresholds["marginal_gain"].integer) == first_below
    capacity = found.thresholds["gram_capacity"].value
    assert float(capacity) == pytest.approx(1 / math.cos(1.0) ** 2, rel=1e-3)
    assert float(found.thresholds["span_saturation"].value) == 20
    assert "`statistical_dimensions`" in found.missing["intersection_capacity"]
    assert set(found.missing) == {
        *("intersection_capacity", "transition", "random_direction")
    }


def test_without_a_convention_nothing_is_made_up():
    base, experts = trees(3)
    found = saturation(base, experts, key=KEY, num_samples=16)
    assert not found.thresholds
    assert "`tolerance`" in found.missing["marginal_gain"]
    assert "`half_angle`" in found.missing["gram_capacity"]
    assert "`dimension`" in found.missing["span_saturation"]


def test_shared_directions_remove_the_ceiling():
    """With cosines of 0.5, no number of experts exceeds a half-angle of 50 degrees."""
    base, experts = trees(6, shared=0.5)
    options = {"key": KEY, "num_samples": 16, "half_angle": math.radians(50)}
    alike = saturation(base, experts, **options).thresholds["gram_capacity"]
    assert math.isinf(float(alike.value))
    base, experts = trees(6)
    apart = saturation(base, experts, **options).thresholds["gram_capacity"]
    assert float(apart.value) == pytest.approx(2.42, abs=0.01)


@pytest.mark.slow
def test_a_loss_gives_the_thresholds_of_cones():
    """Quadratic losses: the dimension is Larsen's sum over the eigenvalues."""
    base, experts = trees(3)
    weights = jax.tree.map(
        lambda x: jnp.linspace(0.1, 4.0, x.size).reshape(x.shape), base
    )

    def loss_at(expert):
        def loss(params):
            square = jax.tree.map(
                lambda p, e, w: jnp.sum(w * (p - e) ** 2) / 2, params, expert, weights
            )
            return sum(jax.tree.leaves(square))

        return loss

    found = saturation(
        base,
        experts,
        key=KEY,
        num_samples=16,
        eta=0.05,
        loss=[loss_at(e) for e in experts],
        epsilon=0.2,
        negative="flat",
        num_steps=40,
        num_probes=40,
    )
    eigenvalues = np.concatenate([np.ravel(w) for w in jax.tree.leaves(weights)])
    square = 2 / 3  # of an orthonormal expert's distance from the mean of three
    delta = np.sum(0.4 / eigenvalues / (square + 0.4 / eigenvalues))
    measured = found.statistical_dimensions
    errors = 4 * np.asarray(measured.stderr) + 1e-3
    assert np.all(np.abs(np.asarray(measured.mean) - delta) < errors)
    capacity = found.thresholds["intersection_capacity"]
    codimensions = np.cumsum(40 - np.asarray(measured.mean))
    assert float(capacity.integer) == np.sum(codimensions <= 40) or math.isinf(
        float(capacity.value)
    )
    assert "random_direction" in found.thresholds
    assert "`variances`" in found.missing["transition"]


def test_one_function_of_each_experts_data_is_compiled_once():
    base, experts = trees(2)
    traced = []

    def loss(target, params):
        traced.append(1)
        parts = jax.tree.map(lambda p, e: jnp.sum((p - e) ** 2), params, target)
        return sum(jax.tree.leaves(parts))

    options = {"epsilon": 0.2, "negative": "flat", "num_steps": 3, "num_probes": 2}
    options |= {"key": KEY, "num_samples": 4}
    once = saturation(
        base, experts, loss=[Partial(loss, e) for e in experts], **options
    )
    together = len(traced)
    each = saturation(
        base, experts, loss=[functools.partial(loss, e) for e in experts], **options
    )
    assert len(traced) - together == 2 * together
    np.testing.assert_array_equal(
        once.statistical_dimensions.mean, each.statistical_dimensions.mean
    )


@pytest.mark.parametrize(
    "case",
    [
        "zero",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("one", "equal", "many")),
    ],
)
def test_degenerate_experts_have_a_defined_answer(case: str):
    base, experts = trees(3)
    experts = {
        "one": experts[:1],
        "equal": [experts[0]] * 3,
        "zero": [base] * 3,
        "many": [jax.tree.map(lambda x, t=t: x + t, experts[0]) for t in range(50)],
    }[case]
    found = saturation(base, experts, key=KEY, num_samples=16, **TOLERANCE)
    data = json.dumps(as_data(found))
    assert "NaN" not in data
    table, lines = summary(found)
    assert len(table) == 2 + len(found.layers)
    assert not any("nan" in cell for row in table for cell in row)
    assert len(lines) >= 1
    if case == "equal":
        assert float(found.thresholds["marginal_gain"].integer) == 1
    if case == "one":
        assert "`gains`" in found.missing["marginal_gain"]


def test_what_does_not_fit_is_refused(tmp_path):
    base, experts = trees(3)
    with pytest.raises(ValueError, match=r"expert 0 and the base .* 'extra'"):
        saturation(base, [{**experts[0], "extra": jnp.ones(1)}], key=KEY)
    with pytest.raises(ValueError, match="no vectors were given|no experts"):
        saturation(base, [], key=KEY)
    with pytest.raises(TypeError, match="paths, or all as trees"):
        saturation(tmp_path, experts, key=KEY)
    broken = {**experts[0], "head": experts[0]["head"].at[0].set(jnp.nan)}
    with pytest.raises(ValueError, match="not finite"):
        saturation(base, [broken], key=KEY)
    with pytest.raises(ValueError, match="a loss was given without epsilon"):
        saturation(base, experts, key=KEY, num_samples=16, loss=lambda p: 0.0)
    with pytest.raises(ValueError, match="1 losses were given for 3 experts"):
        saturation(base, experts, key=KEY, num_samples=16, loss=[lambda p: 0.0])


# --- from disk, and the command


@pytest.fixture
def saved(tmp_path):
    base, experts = trees(3)
    paths = [str(tmp_path / f"{name}.safetensors") for name in ("base", *"abc")]
    for path, tree in zip(paths, [base, *experts], strict=True):
        checkpoint.save(path, tree)
    return paths


def test_checkpoints_give_what_their_trees_give(saved):
    base, experts = trees(3)
    one = saturation(base, experts, key=KEY, num_samples=16)
    two = saturation(saved[0], saved[1:], key=KEY, num_samples=16)
    np.testing.assert_allclose(two.whole.width.mean, one.whole.width.mean, atol=1e-5)
    assert two.experts == tuple(f"{name}.safetensors" for name in "abc")
    assert set(two.layers) == set(one.layers)


def test_the_command_prints_and_draws(saved, tmp_path, capsys):
    picture = tmp_path / "curve.png"
    options = ["--tolerance", "0.3", "--half-angle", "60", "--samples", "16"]
    assert main(["saturation", *saved, *options, "--figure", str(picture)]) == 0
    text = capsys.readouterr().out
    assert "T* by marginal_gain" in text
    assert "T* by gram_capacity: more than these 3 experts" in text
    assert "no T*: `span_saturation` needs `dimension`" in text
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["saturation", *saved, "--json", "--samples", "16"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data["whole"]["gram"]) == 3
    assert main(["saturation", *saved, "--samples", "1"]) == 2
    assert "take at least 2" in capsys.readouterr().err
    assert main(["saturation", *saved, "--half-angle", "95"]) == 1
    assert "half_angle" in capsys.readouterr().err


def test_the_figure_shows_what_is_inside_and_names_what_is_not(found):
    axes = figure(found).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert any("marginal_gain" in label for label in labels)
    assert any("T* beyond: span_saturation" in label for label in labels)

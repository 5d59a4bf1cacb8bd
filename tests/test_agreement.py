"""MetaGPT, LiNeS, PCB and TALL masks by hand, and where they degenerate."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxmerge as J
from jaxmerge import checkpoint
from tests.oracles.fixtures import research_cases, under
from tests.reference import agreement as reference

pytestmark = pytest.mark.usefixtures("quick_compilation")


def trees(num=2, shapes=(("a", (3, 4)), ("b", (5,))), scale=1.0):
    rng = np.random.default_rng(5)
    draw = lambda: {
        k: jnp.asarray(scale * rng.standard_normal(s), jnp.float32) for k, s in shapes
    }
    return draw(), [draw() for _ in range(num)]


def assert_close(merged, expected, rtol=1e-5):
    for name, x in expected.items():
        size = float(np.abs(x).max())
        np.testing.assert_allclose(merged[name], x, rtol=rtol, atol=rtol * size)


# --- MetaGPT -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
@pytest.mark.parametrize("scope", ["tree", "leaf"])
def test_metagpt_of_deltas_of_any_size(scope, size):
    """Squares of 1e-25 and 1e25 are no float32."""
    _, deltas = trees(3, scale=size)
    zero = {k: np.zeros_like(x) for k, x in deltas[0].items()}
    merged = J.metagpt(scope=scope)(None, deltas)
    if scope == "tree":
        expected = reference.metagpt(zero, deltas)
    else:
        expected = {
            k: reference.metagpt_leaf(zero[k], [d[k] for d in deltas]) for k in zero
        }
    assert_close(merged, expected)


@pytest.mark.parametrize("scope", ["tree", "leaf"])
def test_metagpt_counts_a_zero_delta_as_nothing(scope):
    base, experts = trees(1)
    only = J.metagpt(scope=scope)(base, [base, experts[0], base])
    assert_close(only, experts[0])
    for name, x in J.metagpt(scope=scope)(base, [base, base]).items():
        np.testing.assert_array_equal(x, base[name])


def test_metagpt_refuses_members_only_where_experts_are_compared():
    base, experts = trees()
    mask = np.array([True, False])
    with pytest.raises(ValueError, match="compares all the experts"):
        J.metagpt()(base, experts, members=mask)
    merged = J.metagpt(scope="leaf")(base, experts, members=mask)
    assert_close(merged, experts[0])


# --- LiNeS ---------------------------------------------------------------------------


def test_lines_multiplies_the_scale_that_the_merger_has():
    names = ("embed", "blocks.0.w", "blocks.1.w", "blocks.4.w")
    ones = {name: jnp.ones(2) for name in names}
    by_depth = {"embed": 0.1, "blocks.0.w": 0.1, "blocks.1.w": 0.3, "blocks.4.w": 0.9}
    prefix = {"embed": 3.0, "blocks": J.by_pattern({"4": 2.0}, otherwise=1.0)}
    for scale, factors in (
        (None, (1, 1, 1, 1)),
        (0.5, (0.5, 0.5, 0.5, 0.5)),
        (prefix, (3, 1, 1, 2)),
    ):
        merger = J.lines(J.Merger(scale=scale), num_layers=5, alpha=0.1, beta=0.8)
        merged = merger(None, [ones, ones])
        for name, factor in zip(names, factors, strict=True):
            expected = 2 * factor * by_depth[name]
            np.testing.assert_allclose(merged[name], expected, rtol=1e-6)


def test_lines_names_what_it_cannot_scale():
    model = {"blocks.7.w": jnp.ones(2)}
    scaled = lambda merger: J.lines(merger, num_layers=5, alpha=0.1, beta=0.8)
    with pytest.raises(ValueError, match="is in layer 7"):
        scaled(J.Merger())(None, [model])
    with pytest.raises(ValueError, match="covers no leaf"):
        scaled(J.Merger(scale={"blocks": 1.0, "bloks": 2.0}))(None, [model])
    with pytest.raises(TypeError, match="lines scales a Merger"):
        scaled("ties")


# --- PCB -----------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, (0.8, 1.3, 1.0)])
def test_pcb_with_the_weights_that_its_authors_search(weights):
    _, deltas = trees(3)
    merged = J.pcb(ratio=0.5, weights=weights)(None, deltas)
    for name, x in merged.items():
        given = [d[name] for d in deltas]
        expected = reference.pcb(0 * given[0], given, ratio=0.5, weights=weights)
        np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-5)


def test_pcb_of_what_nobody_wins_is_zero():
    """Constant tensors, opposite ones, and one with no entries."""
    one, ramp = jnp.ones((2, 3)), jnp.arange(6.0).reshape(2, 3)
    for deltas in ([one, one], [ramp, -ramp], [one * 0, one * 0], [one[:0], one[:0]]):
        np.testing.assert_array_equal(J.pcb()(None, deltas), 0 * deltas[0])


def test_pcb_of_a_hundred_experts_is_finite():
    """exp(100) is no float32."""
    rng = np.random.default_rng(2)
    deltas = rng.standard_normal((100, 12)).astype(np.float32)
    merged = J.merge_leaves(J.pcb(ratio=0.5), None, J.stack(list(deltas)))
    expected = reference.pcb(0 * deltas[0], deltas, ratio=0.5)
    np.testing.assert_allclose(merged, expected, rtol=1e-3, atol=1e-4)


# --- as the authors' code has it -----------------------------------------------------


@pytest.fixture(scope="module")
def recorded():
    return {case.name: case for case in research_cases(folder="agreement")}


@pytest.mark.parametrize("name", ["pcb_0.05", "pcb_0.1", "pcb_0.5"])
def test_pcb_of_a_flattened_model_is_its_authors(recorded, name):
    case = recorded[name]
    vectors = [ravel_pytree(delta)[0] for delta in case.deltas]
    merger = J.pcb(ratio=case.about["ratio"], scale=1.0)
    merged = np.asarray(J.merge_leaves(merger, None, vectors))
    expected = np.asarray(ravel_pytree(case.expected)[0])
    assert np.linalg.norm(merged - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", ["lines_0.5", "lines_0.75"])
def test_lines_is_its_authors(recorded, name):
    case = recorded[name]
    blocks = case.about["blocks"]
    within = lambda k: f"blocks.{blocks[k]}.{k}" if k in blocks else k
    merger = J.lines(
        J.task_arithmetic(scale=1.0),
        num_layers=len(blocks),
        alpha=case.about["alpha"],
        beta=case.about["beta"],
    )
    deltas = [{within(k): x for k, x in d.items()} for d in case.deltas]
    merged = J.merge_leaves(merger, None, deltas)
    for k, x in case.expected.items():
        np.testing.assert_allclose(merged[within(k)], x, rtol=1e-6, atol=1e-7)


# --- TALL masks ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tall_masks_0.4", "tall_masks_1.0"])
def test_tall_masks_are_their_authors(name):
    (case,) = research_cases(name)
    zero = {k: np.zeros_like(x) for k, x in case.base.items()}
    merger = J.tall_masks(threshold=case.about["tall_mask_lambda"], scale=0.5)
    models = J.merge_leaves(merger, zero, case.deltas)
    for t in range(len(case.deltas)):
        masks, kept = under(case.expected, f"mask/{t}"), 0
        for k, x in models.params(t).items():
            expected = 0.5 * masks[k] * sum(np.float64(d[k]) for d in case.deltas)
            np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)
            kept += np.sum(masks[k])
        size = sum(x.size for x in zero.values())
        np.testing.assert_allclose(models.tasks[t], kept / size, rtol=1e-6)


def test_a_folder_of_tasks_says_how_it_is_read(tmp_path):
    """The rule and the scale are the merger's, not the reader's."""
    base, experts = trees()
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for file, tree in zip(files, [base, *experts], strict=True):
        checkpoint.save(file, tree)
    for merger in (
        J.tall_masks(scale=0.5),
        J.emr(),
        dataclasses.replace(J.emr(), scale=2.0),
    ):
        out = tmp_path / "out"
        inputs = {"base": files[0], "experts": files[1:]}
        checkpoint.merge_tasks(merger, **inputs, out=out, overwrite=True)
        models = merger(base, experts)
        for t in range(2):
            assert_close(checkpoint.load_task(out, files[0], t), models.params(t), 1e-6)
    merger = J.tall_masks(scale={"a": 1.0, "b": 2.0})
    with pytest.raises(ValueError, match="has to be one number"):
        checkpoint.merge_tasks(merger, **inputs, out=tmp_path / "no")

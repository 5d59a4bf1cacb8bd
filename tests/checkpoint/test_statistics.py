"""Statistics files: what is written is read, streamed in, and checked for its owner."""

import dataclasses

import numpy as np
import pytest

import jaxmerge
from jaxmerge import checkpoint
from jaxmerge.checkpoint import CheckpointError

pytestmark = pytest.mark.usefixtures("quick_compilation")
SHAPES = {"up.weight": (6, 4), "norm.weight": (4,), "head.weight": (5, 4)}


@pytest.fixture
def models(rng, tmp_path):
    """A base and two experts on disk: `(paths, trees)`."""
    trees = [
        {k: rng.standard_normal(s).astype(np.float32) for k, s in SHAPES.items()}
        for _ in range(3)
    ]
    paths = [tmp_path / f"{name}.safetensors" for name in ("base", "a", "b")]
    for path, tree in zip(paths, trees, strict=True):
        checkpoint.save(path, tree)
    return paths, trees


def grams(rng, names=("up.weight",)):
    inputs = {name: rng.standard_normal((9, SHAPES[name][-1])) for name in names}
    return {name: np.float32(x.T @ x) for name, x in inputs.items()}


def merge(merger, paths, out, **options):
    return checkpoint.merge(
        merger, base=paths[0], experts=paths[1:], out=out, **options
    )


def test_what_is_saved_is_loaded(models, rng):
    paths, trees = models
    given = {"gram": grams(rng), "fisher": {k: x**2 for k, x in trees[1].items()}}
    path = checkpoint.save_statistics(given, model=paths[1], about={"examples": 9})
    assert path.name == "a.safetensors.statistics.safetensors"
    found = checkpoint.load_statistics(paths[1])
    for kind, named in given.items():
        assert found[kind].keys() == named.keys()
        for name, x in named.items():
            np.testing.assert_array_equal(found[kind][name], x)
    with pytest.raises(CheckpointError, match="overwrite=True"):
        checkpoint.save_statistics(given, model=paths[1])


def test_a_folder_with_statistics_is_still_a_folder_of_weights(models, tmp_path, rng):
    _, trees = models
    folder = tmp_path / "folder"
    folder.mkdir()
    checkpoint.save(folder / "weights.safetensors", trees[1])
    (folder / "config.json").write_text("{}")
    checkpoint.save_statistics({"gram": grams(rng)}, model=folder)
    assert (folder / "statistics.safetensors").is_file()
    with checkpoint.open_source(folder) as source:
        assert list(source.infos)
        assert source.kind == "huggingface"


def test_bytes_read_are_those_of_the_plan(models, tmp_path, rng):
    paths, _ = models
    for path in paths[1:]:
        checkpoint.save_statistics({"gram": grams(rng)}, model=path)
    report = merge(jaxmerge.regmean(), paths, tmp_path / "out.safetensors")
    weights = sum(4 * int(np.prod(s)) for s in SHAPES.values())
    assert report.bytes_read == 3 * weights + 2 * 4 * 16


def test_statistics_of_another_model_are_refused(models, tmp_path, rng):
    paths, _ = models
    own = [
        checkpoint.save_statistics({"gram": grams(rng)}, model=path)
        for path in paths[1:]
    ]
    with pytest.raises(CheckpointError, match=r"another model than .*a\.safetensors"):
        merge(jaxmerge.regmean(), paths, tmp_path / "out", statistics=own[::-1])


@pytest.mark.parametrize("case", ["none", "one", "unused", "other names", "shape"])
def test_statistics_that_do_not_fit_are_refused(case, models, tmp_path, rng):
    paths, trees = models
    merger, out, options = jaxmerge.regmean(), tmp_path / "out.safetensors", {}
    wide = {"up.weight": np.eye(5, dtype=np.float32)}
    expected = {
        "none": "has no statistics; write them with",
        "one": "1 statistics files were given for 2 experts",
        "unused": "this merge needs no statistics",
        "other names": "which others have; all experts need a statistic, or none",
        "shape": r"has shape \(5, 5\); expected \(4, 4\)",
    }[case]
    if case != "none":
        second = {"other names": grams(rng, ["head.weight"]), "shape": wide}
        for path, named in zip(
            paths[1:], (grams(rng), second.get(case, grams(rng))), strict=True
        ):
            checkpoint.save_statistics({"gram": named}, model=path)
    if case == "one":
        options["statistics"] = paths[1:2]
    if case == "unused":
        merger, options["statistics"] = jaxmerge.average(), paths[1:]
    with pytest.raises(CheckpointError, match=expected):
        merge(merger, paths, out, **options)
    assert not out.exists()


def test_a_statistic_of_a_tensor_that_the_model_has_not_is_refused(models, tmp_path):
    paths, _ = models
    other = tmp_path / "other.safetensors"
    checkpoint.save(other, {"gone.weight": np.ones((2, 4), np.float32)})
    gram = {"gone.weight": np.eye(4, dtype=np.float32)}
    path = checkpoint.save_statistics({"gram": gram}, model=other)
    sources = [checkpoint.open_source(x) for x in paths]
    found = [checkpoint.open_statistics(path) for _ in paths[1:]]
    with pytest.raises(CheckpointError, match="'gram:gone.weight', and .* has no such"):
        checkpoint.make_plan(
            jaxmerge.regmean(), sources[0], sources[1:], statistics=found
        )


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        ("gram", "up.weight", -np.eye(4), "negative entry on its diagonal"),
        ("gram", "up.weight", np.triu(np.ones((4, 4))), "is not symmetric"),
        ("fisher", "up.weight", np.full((6, 4), np.nan), "has a NaN"),
        ("fisher", "up.weight", np.full((6, 4), -1.0), "has a negative entry"),
        ("hessian", "up.weight", np.eye(4), "kind 'hessian'"),
        ("gram", "down.weight", np.eye(4), "has no such tensor"),
    ],
)
def test_numbers_that_are_no_statistic_are_refused(kind, name, value, message, models):
    paths, trees = models
    given = {kind: {name: value.astype(np.float32)}}
    with pytest.raises(CheckpointError, match=message):
        checkpoint.save_statistics(given, model=paths[1])
    if kind == "hessian":
        return
    merger = jaxmerge.regmean() if kind == "gram" else jaxmerge.fisher()
    words = "no such leaf" if name == "down.weight" else message
    with pytest.raises(ValueError, match=words):
        merger(trees[0], trees[1:], statistics=[given[kind]] * 2)


def test_mergers_say_what_they_need(models, rng):
    _, trees = models
    with pytest.raises(ValueError, match="needs gram statistics of each expert"):
        jaxmerge.regmean()(trees[0], trees[1:])
    with pytest.raises(ValueError, match="a merge that uses none"):
        jaxmerge.ties()(trees[0], trees[1:], statistics=[{}, {}])
    with pytest.raises(ValueError, match="hold no gram of any leaf"):
        jaxmerge.regmean()(trees[0], trees[1:], statistics=[{}, {}])
    with pytest.raises(ValueError, match="statistics of 1 experts were given for 2"):
        jaxmerge.regmean()(trees[0], trees[1:], statistics=[grams(rng)])
    one = grams(rng)
    with pytest.raises(ValueError, match="expert 1 have no 'up.weight', which those"):
        jaxmerge.regmean()(trees[0], trees[1:], statistics=[one, {}])
    with pytest.raises(TypeError, match="statistics has to be a sequence of models"):
        jaxmerge.regmean()(trees[0], trees[1:], statistics=one)
    with pytest.raises(ValueError, match="knots was given a merger with statistics"):
        jaxmerge.knots(jaxmerge.regmean())


def test_a_gram_matrix_of_what_the_merge_takes_for_no_matrix_is_refused(
    models, tmp_path, rng
):
    paths, _ = models
    for path in paths[1:]:
        checkpoint.save_statistics({"gram": grams(rng)}, model=path)
    nothing = jaxmerge.Matrices.by_pattern({"up": None})
    merger = dataclasses.replace(jaxmerge.regmean(), matrices=nothing)
    out = tmp_path / "out.safetensors"
    with pytest.raises(
        CheckpointError, match="'gram:up.weight' was measured of a leaf"
    ):
        merge(merger, paths, out)
    assert not out.exists()


def test_inputs_that_no_expert_saw_keep_the_base(rng):
    """A Gram matrix of low rank has no inverse; its null space is left alone."""
    experts = [{"w": rng.standard_normal((3, 4)).astype(np.float32)} for _ in range(2)]
    base = {"w": np.ones((3, 4), np.float32)}
    seen = np.diag(np.float32([1, 2, 0, 0]))
    few = np.outer([1, 1, 0, 0], [1, 1, 0, 0]).astype(np.float32)
    for merger, gram in (
        (jaxmerge.regmean(), seen),
        (jaxmerge.regmean(off_diagonal=1.0), few),
        (jaxmerge.lot(), few),
    ):
        found = merger(base, experts, statistics=[{"w": gram}] * 2)["w"]
        assert np.all(np.isfinite(found))
        np.testing.assert_allclose(found[:, 2:], 1.0, atol=1e-6)
        assert np.abs(found[:, :2] - 1).max() > 0.1


def test_regmean_of_identity_grams_is_the_mean_and_of_one_expert_itself(rng):
    experts = [{"w": rng.standard_normal((3, 4)).astype(np.float32)} for _ in range(3)]
    base = {"w": np.zeros((3, 4), np.float32)}
    eye = [{"w": np.eye(4, dtype=np.float32)}] * 3
    found = jaxmerge.regmean()(base, experts, statistics=eye)["w"]
    np.testing.assert_allclose(found, sum(x["w"] for x in experts) / 3, rtol=1e-5)
    own = {"w": grams(rng)["up.weight"]}
    alone = jaxmerge.regmean()(base, experts[:1], statistics=[own])["w"]
    np.testing.assert_allclose(alone, experts[0]["w"], rtol=1e-4, atol=1e-5)


def test_svc_of_regmean_passes_its_statistics_on(rng):
    experts = [{"w": rng.standard_normal((3, 4)).astype(np.float32)} for _ in range(2)]
    base = {"w": np.zeros((3, 4), np.float32)}
    statistics = [{"w": grams(rng)["up.weight"]} for _ in experts]
    plain = jaxmerge.regmean()(base, experts, statistics=statistics)["w"]
    found = jaxmerge.svc(jaxmerge.regmean())(base, experts, statistics=statistics)["w"]
    u, values, vt = np.linalg.svd(plain, full_matrices=False)
    inner = u.T @ found @ vt.T
    np.testing.assert_allclose(inner, np.diag(np.diag(inner)), atol=1e-5)
    assert not np.allclose(np.diag(inner), values, rtol=1e-2)

"""What one reading measures: against NumPy, on disk as in memory, sketched as exact."""

import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxmerge import checkpoint, geometry, named_leaves
from jaxmerge.checkpoint import CheckpointError
from jaxmerge.diagnose import _sums, measure
from jaxmerge.diagnose.spectra import inner
from jaxmerge.diagnose.tensors import pieces_of
from tests.checkpoint.test_merge import adapter
from tests.diagnose.models import SHAPES, base, normal, rows_apart

KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("quick_compilation")


def flat(model: dict) -> np.ndarray:
    leaves = named_leaves(model)
    return np.concatenate([np.asarray(leaves[n], np.float64).ravel() for n in SHAPES])


def save(folder, models: list[dict]) -> list:
    paths = [folder / f"{i}.safetensors" for i in range(len(models))]
    for path, model in zip(paths, models, strict=True):
        checkpoint.save(path, model)
    return paths


@pytest.fixture(scope="module")
def three():
    experts = normal(3)
    return experts, measure(base(), experts, key=KEY)


def test_entries_are_measured_as_numpy_does(three):
    experts, found = three
    rows = np.stack([flat(expert) for expert in experts])
    whole = found.whole
    np.testing.assert_allclose(whole.gram, rows @ rows.T, rtol=1e-5, atol=1e-3)
    expected = 1 - np.abs(rows.sum(axis=0)).sum() / np.abs(rows).sum()
    assert whole.sign_conflict == pytest.approx(expected, rel=1e-5)
    opposed = (rows > 0).any(axis=0) & (rows < 0).any(axis=0)
    assert whole.opposed_share == pytest.approx(opposed.mean())
    fourth = (rows**4).mean(axis=1) / (rows**2).mean(axis=1) ** 2
    np.testing.assert_allclose(whole.kurtosis, fourth, rtol=1e-5)
    np.testing.assert_allclose(whole.participation, 1 / fourth, rtol=1e-5)
    assert set(found.layers) == {"layers.0", "layers.1", "norm"}
    assert whole.parameters == whole.sampled == rows.shape[1]  # few are all looked at
    kept = int(0.2 * rows.shape[1])
    top = [set(np.argsort(-np.abs(row))[:kept]) for row in rows]
    shared = len(top[0] & top[1]) / kept
    assert whole.overlap[0, 1] == pytest.approx(shared, abs=1e-6)
    plot = geometry.hill(jnp.asarray(rows[0], jnp.float32))
    np.testing.assert_allclose(found.hill[0].index, plot.index, rtol=1e-4)


def test_spectra_are_those_of_the_matrices(three):
    experts, found = three
    for matrix in found.whole.matrices:
        number = int(matrix.name.split(".")[1])
        deltas = [np.asarray(e["layers"][number]["w"], np.float64) for e in experts]
        values = [np.linalg.svd(delta, compute_uv=False) for delta in deltas]
        for one, s in zip(matrix.experts, values, strict=True):
            share = s**2 / (s**2).sum()
            np.testing.assert_allclose(one.values, s, rtol=1e-4)
            assert one.participation == pytest.approx(1 / (share**2).sum(), rel=1e-4)
            entropy = np.exp(-(share * np.log(share)).sum())
            assert one.entropy == pytest.approx(entropy, rel=1e-4)
            assert one.energy90 == 1 + np.sum(np.cumsum(share) < 0.9)
            assert one.head == pytest.approx(share[0], rel=1e-4)
            assert one.retained == pytest.approx(share[:3].sum(), rel=1e-4)  # 10 // 3
        mean = np.linalg.svd(np.mean(deltas, axis=0), compute_uv=False)
        np.testing.assert_allclose(matrix.mean.values, mean, rtol=1e-4)
        total = np.sum(deltas, axis=0)
        for t, delta in enumerate(deltas):
            norm = (delta**2).sum()
            own, cross = delta @ delta.T, total @ delta.T
            expected = [(own**2).sum(), (own * cross).sum(), (cross**2).sum()]
            got = [matrix.signal[t], matrix.cross[t], matrix.interference[t]]
            np.testing.assert_allclose(got, np.array(expected) / norm, rtol=1e-4)


def test_a_flax_kernel_is_the_transpose_of_a_weight():
    rng = np.random.default_rng(1)
    deltas = rng.standard_normal((3, 9, 14)).astype(np.float32)
    zero = {"a": {"weight": jnp.zeros((9, 14))}}
    one = measure(zero, [{"a": {"weight": jnp.asarray(d)}} for d in deltas], key=KEY)
    zero = {"a": {"kernel": jnp.zeros((14, 9))}}
    two = measure(zero, [{"a": {"kernel": jnp.asarray(d.T)}} for d in deltas], key=KEY)
    (weight,), (kernel,) = one.whole.matrices, two.whole.matrices
    for name in ("signal", "cross", "interference", "accumulation"):
        np.testing.assert_allclose(
            getattr(kernel, name), getattr(weight, name), rtol=1e-4
        )


def test_a_sketch_estimates_what_it_replaces(monkeypatch):
    """Of rank four, the hardest for it: a tenth of noise, and none on average."""
    rng = np.random.default_rng(2)
    low = [rng.standard_normal((40, 4)) @ rng.standard_normal((4, 300)) for _ in "abc"]
    experts = [{"w": jnp.asarray(x, jnp.float32)} for x in low]
    zero = {"w": jnp.zeros((40, 300))}
    (exact,) = measure(zero, experts, key=KEY).whole.matrices
    assert exact.exact
    monkeypatch.setattr(_sums, "EXACT", 64)
    keys = jax.random.split(KEY, 4)
    sketches = [measure(zero, experts, key=k).whole.matrices[0] for k in keys]
    assert not any(sketch.exact for sketch in sketches)
    for name in ("signal", "cross", "interference"):
        mean = np.mean([getattr(sketch, name) for sketch in sketches])
        assert mean == pytest.approx(getattr(exact, name).mean(), rel=0.1), name
    ranks = lambda m: np.array([e.participation for e in m.experts])
    mean = np.mean([ranks(sketch) for sketch in sketches])
    assert mean == pytest.approx(ranks(exact).mean(), rel=0.1)
    energies = lambda m: [e.energy90 for e in m.experts]
    assert all(energies(sketch) == energies(exact) for sketch in sketches)


def test_inner_products_of_sketches_are_unbiased():
    x = np.random.default_rng(3).standard_normal((5, 30))
    x = x.T @ x
    signs = np.random.default_rng(4).choice([-1.0, 1.0], (1000, 30, 8))
    sketched = np.einsum("dai,ab,dbj->dij", signs, x, signs)
    found = inner(sketched, sketched, exact=False) / (x * x).sum() - 1
    error = found.std(ddof=1) / np.sqrt(len(found))
    assert abs(found.mean()) < 4 * error
    # With the diagonal it would not be.
    assert (sketched**2).mean() / (x * x).sum() - 1 > 8 * error


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_checkpoints_give_what_their_trees_give_and_are_read_once(
    tmp_path, dtype, monkeypatch
):
    import jaxmerge.diagnose.tensors as module

    monkeypatch.setattr(module, "_LONGEST", 40)  # rows come in three pieces
    monkeypatch.setattr(module, "_SHORTEST", 4)
    monkeypatch.setattr(sys.modules["jaxmerge.diagnose.measure"], "_SAMPLES", 100)
    cast = lambda model: jax.tree.map(lambda x: x.astype(dtype), model)
    models = [cast(model) for model in (base(), *normal(4))]
    paths = save(tmp_path, models)
    disk = measure(paths[0], paths[1:], key=KEY)
    memory = measure(models[0], models[1:], key=KEY)
    entries = sum(int(np.prod(shape)) for shape in SHAPES.values())
    assert disk.bytes_read == 5 * entries * np.dtype(dtype).itemsize
    assert memory.bytes_read == 0
    assert disk.experts[0] == "1.safetensors"
    for name in ("gram", "powers", "overlap"):
        one, two = (getattr(found.whole, name) for found in (disk, memory))
        np.testing.assert_array_equal(one, two)
    assert disk.whole.sampled < entries
    for one, two in zip(disk.whole.matrices, memory.whole.matrices, strict=True):
        np.testing.assert_array_equal(one.accumulation, two.accumulation)
        np.testing.assert_array_equal(one.interference, two.interference)


def test_pieces_of_all_models_fit_in_8_mib_whatever_their_number_is():
    for num in (2, 4, 17, 200):
        for shape in ((4096, 4096), (10**7,), (3, 5), (0, 4)):
            pieces = pieces_of(shape, num)
            assert sum(p.size for p in pieces) == np.prod(shape)
            longest = max((p.length for p in pieces), default=0)
            assert 4 * num * longest <= max(8 << 20, 4 * num * 4096)
            assert all(p.start % shape[-1] == 0 for p in pieces if len(shape) == 2)


def test_what_is_not_finite_or_does_not_fit_is_named(tmp_path):
    models = [base(), *normal(2)]
    broken = models[2]["layers"][1]["w"].at[3, 4].set(jnp.nan)
    models[2]["layers"][1]["w"] = broken
    with pytest.raises(CheckpointError, match=r"'layers.1.w' has a NaN.* in expert 1"):
        measure(models[0], models[1:], key=KEY)
    paths = save(tmp_path, models)
    with pytest.raises(CheckpointError, match=r"expert 1 \(2.safetensors\)"):
        measure(paths[0], paths[1:], key=KEY)
    with pytest.raises(ValueError, match="no experts were given"):
        measure(base(), [], key=KEY)
    with pytest.raises(TypeError, match="paths, or all as trees"):
        measure(paths[0], models[1:], key=KEY)
    short = {**normal(1)[0], "norm": jnp.zeros(3)}
    with pytest.raises(ValueError, match=r"'norm' has shape \(3,\); expected \(7,\)"):
        measure(base(), [short], key=KEY)
    with pytest.raises(ValueError, match="do not both have 'norm'"):
        measure(base(), [{"layers": base()["layers"]}], key=KEY)
    with pytest.raises(ValueError, match=r"density is 0.*in \(0, 1\]"):
        measure(base(), normal(1), key=KEY, density=0.0)
    with pytest.raises(ValueError, match="no floating tensor"):
        measure({"i": jnp.arange(3)}, [{"i": jnp.arange(3)}], key=KEY)


def test_adapters_are_refused_in_a_sentence(tmp_path):
    target = "model.layers.0.mlp.weight"
    start = {target: np.zeros((6, 4), np.float32)}
    checkpoint.save(tmp_path / "base.safetensors", checkpoint.unflatten_names(start))
    path, _ = adapter(tmp_path / "lora", 0)
    with pytest.raises(CheckpointError, match=r"LoRA factors.*jaxmerge saturation"):
        measure(tmp_path / "base.safetensors", [path], key=KEY)


def test_tiny_deltas_have_tails_and_zero_ones_have_zeros():
    small = jax.tree.map(lambda x: 1e-15 * x, normal(2))
    found = measure(base(), [*small, base()], key=KEY).whole
    usual = measure(base(), [*normal(2), base()], key=KEY).whole
    np.testing.assert_allclose(found.kurtosis, usual.kurtosis, rtol=1e-4)
    assert found.kurtosis[2] == found.participation[2] == 0
    assert found.overlap[2].sum() == 0
    assert found.sign_conflict == pytest.approx(usual.sign_conflict, rel=1e-5)


def test_entries_of_experts_apart_do_not_meet():
    found = measure(base(), rows_apart(3), key=KEY).whole
    assert found.sign_conflict == pytest.approx(0, abs=1e-6)
    assert found.opposed_share == 0
    off = found.overlap[~np.eye(3, dtype=bool)]
    assert np.all(off == 0)
    assert np.all(np.diagonal(found.overlap) == 1)

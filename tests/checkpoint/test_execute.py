"""The streamed executor in pieces: the same bits as in memory, whatever the pieces.

Five experts are more than one compiled step joins, so that a state is carried.
"""

import threading

import jax
import ml_dtypes
import numpy as np
import pytest

import jaxmerge
from jaxmerge import checkpoint
from jaxmerge.checkpoint import CheckpointError, _cuts, _pieces
from jaxmerge.checkpoint._threads import InOrder, Job, ReadAhead

SHAPES = {"w": (37, 29), "gain": ()}
RECIPES = {
    "average": jaxmerge.average,
    "task_arithmetic": lambda: jaxmerge.task_arithmetic(weights=np.arange(1.0, 6.0)),
    "ties": jaxmerge.ties,
    "ties_by_expert": lambda: jaxmerge.ties(density=np.linspace(0.1, 1.0, 5)),
    "rht": lambda: jaxmerge.rht(weights=np.arange(1.0, 6.0)),
    "magnitude_prune": jaxmerge.magnitude_prune,
    "dare": jaxmerge.dare,
    "dare_ties": lambda: jaxmerge.dare(consensus="ties", density=0.5),
    "consensus": jaxmerge.consensus,
    "ties_mergekit": lambda: jaxmerge.ties(compat="mergekit"),
}


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of at most 256 elements, so that these tensors have several."""
    monkeypatch.setattr(_pieces, "PIECE", 256)


def models(dtype, num: int = 5, step: float | None = None):
    """A base and experts; with a step, deltas are multiples of it and often tie."""
    rng = np.random.default_rng(0)

    def draw(shape, scale):
        x = scale * rng.standard_normal(shape)
        return x if step is None else step * np.round(x / step)

    base = {k: draw(shape, 1.0).astype(dtype) for k, shape in SHAPES.items()}
    experts = [
        {
            k: (b.astype(np.float64) + draw(b.shape, 0.1)).astype(dtype)
            for k, b in base.items()
        }
        for _ in range(num)
    ]
    return base, experts


def stream(tmp_path, merger, base, experts, **kwargs):
    paths = [tmp_path / f"x{t}.safetensors" for t in range(len(experts))]
    for path, tree in zip(paths, experts, strict=True):
        checkpoint.save(path, tree)
    checkpoint.save(tmp_path / "base.safetensors", base)
    out = tmp_path / "out.safetensors"
    inputs = {"base": tmp_path / "base.safetensors", "experts": paths}
    report = checkpoint.merge(merger, **inputs, out=out, **kwargs)
    return checkpoint.load(out), report


def assert_equal_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        x, y = (np.asarray(tree[name]).reshape(-1) for tree in (a, b))
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x.view(np.uint8), y.view(np.uint8), name)


@pytest.mark.parametrize("recipe", RECIPES)
def test_pieces_equal_in_memory_bit_for_bit(recipe, small_pieces, tmp_path):
    merger = RECIPES[recipe]()
    base, experts = models(ml_dtypes.bfloat16)
    key = jax.random.key(3) if "dare" in recipe else None
    streamed, report = stream(tmp_path, merger, base, experts, key=key)
    whole = jax.jit(lambda m, b, x, k: m(b, x, key=k))(merger, base, experts, key)
    assert_equal_bits(streamed, whole)
    assert report.bytes_read == sum(
        x.nbytes * (1 + 5 * rounds_of(recipe)) for x in base.values()
    )


def rounds_of(recipe: str) -> int:
    """How often the experts are read: once a pass, and once to find cuts."""
    cuts = recipe.startswith(("ties", "rht", "magnitude"))
    return 1 + cuts + (recipe == "consensus")


@pytest.mark.parametrize("step", [0.0625, 0.25, 8.0])
def test_ties_are_broken_as_in_memory(step, small_pieces, tmp_path):
    merger = jaxmerge.magnitude_prune()
    base, experts = models(np.float32, num=2, step=step)
    streamed, _ = stream(tmp_path, merger, base, experts)
    assert_equal_bits(streamed, jaxmerge.merge_leaves(merger, base, experts))


def test_an_empty_tensor(tmp_path):
    base = {"none": np.zeros((0, 4), np.float32)}
    streamed, _ = stream(tmp_path, jaxmerge.ties(), base, [base, base])
    assert streamed["none"].shape == (0, 4)


def test_float64_in_pieces(small_pieces, tmp_path):
    with jax.enable_x64(True):
        base, experts = models(np.float64, num=2)
        merger = jaxmerge.ties()
        streamed, _ = stream(tmp_path, merger, base, experts)
        whole = jax.jit(lambda m, b, x: m(b, x))(merger, base, experts)
        assert_equal_bits(streamed, whole)


def test_keys_without_bits_by_index_merge_wholes(small_pieces, tmp_path):
    base, experts = models(np.float32, num=2)
    key = jax.random.key(0, impl="rbg")
    streamed, _ = stream(tmp_path, jaxmerge.dare(), base, experts, key=key)
    whole = jax.jit(lambda m, b, x, k: m(b, x, key=k))(
        jaxmerge.dare(), base, experts, key
    )
    assert_equal_bits(streamed, whole)


@pytest.mark.parametrize("recipe", ["average", "ties", "dare"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", [None, 4])
def test_a_number_that_is_not_finite_is_named(
    recipe, bad, where, small_pieces, tmp_path
):
    base, experts = models(np.float32)
    model = base if where is None else experts[where]
    model["w"][30, 7] = bad
    role = "the base" if where is None else "expert 4"
    with pytest.raises(
        CheckpointError, match=f"'w' has a NaN or an infinity in {role}"
    ):
        stream(tmp_path, RECIPES[recipe](), base, experts, key=jax.random.key(0))
    assert not (tmp_path / "out.safetensors").exists()


def test_a_result_that_overflows_is_refused(small_pieces, tmp_path):
    base, experts = models(np.float32)
    with pytest.raises(CheckpointError, match="merges to numbers that float16"):
        stream(
            tmp_path,
            jaxmerge.task_arithmetic(scale=1e6),
            base,
            experts,
            dtype=np.float16,
        )


def test_no_thread_is_left(small_pieces, tmp_path):
    base, experts = models(np.float32)
    before = threading.active_count()

    def stop(progress):
        if progress.bytes_read > 5000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream(tmp_path, jaxmerge.ties(), base, experts, progress=stop)
    assert threading.active_count() == before
    assert not (tmp_path / "out.safetensors").exists()


def test_progress_counts_every_byte_once(small_pieces, tmp_path):
    base, experts = models(np.float32)
    seen = []
    _, report = stream(tmp_path, jaxmerge.ties(), base, experts, progress=seen.append)
    assert seen[-1].bytes_read == seen[-1].bytes_total == report.bytes_read
    assert [p.bytes_read for p in seen] == sorted(p.bytes_read for p in seen)
    assert {p.name for p in seen} == set(SHAPES)


# --- the cut -------------------------------------------------------------------------


@pytest.mark.parametrize("values", [2**30, 40, 3, 1])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.999])
def test_kth_of_pieces_is_exact(rng, values, share):
    pieces = [
        rng.integers(0, values, size=n, dtype=np.uint32) for n in (500, 4096, 77, 0)
    ]
    everything = np.concatenate(pieces)
    k = max(int(share * everything.size), 1)
    sample = np.sort(everything[::17])
    over = lambda f, which=slice(None): map(f, pieces[which])
    kth = _cuts.kth_of_pieces(over, sample, everything.size, k)
    assert kth.bits == np.sort(everything)[-k]
    assert kth.greatest == everything.max()
    below = list(_cuts.ties_of_pieces(over, kth))
    kept = np.concatenate(
        [
            (piece > kth.bits) | ((piece == kth.bits) & (np.arange(piece.size) < end))
            for piece, end in zip(pieces, below, strict=True)
        ]
    )
    order = np.argsort(-everything.astype(np.int64), kind="stable")
    assert set(np.flatnonzero(kept)) == set(order[:k])


def test_kth_of_pieces_survives_a_misleading_sample(rng):
    pieces = [rng.integers(0, 2**30, size=5000, dtype=np.uint32)]
    for sample in (np.zeros(64, np.uint32), np.full(64, 2**31 - 1, np.uint32)):
        kth = _cuts.kth_of_pieces(lambda f: map(f, pieces), sample, 5000, 1234)
        assert kth.bits == np.sort(pieces[0])[-1234]


# --- threads -------------------------------------------------------------------------


def test_read_ahead_keeps_order_and_reuses_buffers():
    seen = []

    def job(i):
        def read(buffer):
            seen.append(buffer.ctypes.data)
            buffer[:1] = i
            return i

        return Job(8, read)

    ahead = ReadAhead(map(job, range(50)), small=8, large=8, small_buffers=3)
    for i in range(50):
        value, free = ahead.next()
        assert value == i
        free()
    ahead.close()
    assert len(set(seen)) <= 3


def test_read_ahead_never_waits_for_a_buffer_that_nobody_frees():
    jobs = [Job(8, lambda buffer: buffer.size) for _ in range(9)]
    ahead = ReadAhead(jobs, small=8, large=8, small_buffers=2)
    assert [ahead.next()[0] for _ in jobs] == [8] * 9
    ahead.close()


def test_errors_surface_where_results_are_asked_for():
    def fail(*_):
        raise OSError("no such disk")

    ahead = ReadAhead([Job(8, fail)], small=8, large=8, small_buffers=2)
    with pytest.raises(OSError, match="no such disk"):
        ahead.next()
    ahead.close()
    behind = InOrder(2)
    behind.submit(fail)
    with pytest.raises(OSError, match="no such disk"):
        list(behind.done(0))
    behind.close()


def test_a_read_that_fails_names_the_tensor_and_the_model(small_pieces, tmp_path):
    base, experts = models(np.float32, num=2)
    stream(tmp_path, jaxmerge.ties(), base, experts)
    source = checkpoint.open_source(tmp_path / "x1.safetensors")

    def fail(*args, **kwargs):
        raise OSError(5, "Input/output error")

    source.read_range = fail
    with pytest.raises(CheckpointError, match=r"'\w+' could not be read from expert 1"):
        checkpoint.merge(
            jaxmerge.ties(),
            base=tmp_path / "base.safetensors",
            experts=[tmp_path / "x0.safetensors", source],
            out=tmp_path / "again.safetensors",
        )
    assert not (tmp_path / "again.safetensors").exists()


def test_pieces_cover_a_tensor():
    for size in (0, 1, 4096, 4097, 2**19, 2**19 + 1, 5 * 2**19 - 3):
        pieces = _pieces.pieces_of(size)
        assert sum(piece.size for piece in pieces) == size
        assert all(0 <= piece.size <= piece.length for piece in pieces)
        assert len({piece.length for piece in pieces}) == 1
        assert pieces[0].length.bit_count() == 1

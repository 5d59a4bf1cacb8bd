"""The runner: its losses are those of direct merges, and a stopped run goes on."""

import re
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmerge
from jaxmerge.laws import designs, read_table, write_table
from jaxmerge.laws.linear import linear_merge
from jaxmerge.laws.measure import measure, measure_prefixes

NUM = 4
DESIGN = designs.all_subsets(NUM)


def models(num=NUM, seed=0):
    rng = np.random.default_rng(seed)

    def draw(scale):
        return {
            "w": jnp.asarray(scale * rng.standard_normal((3, 2)), jnp.float32),
            "b": jnp.asarray(scale * rng.standard_normal(2), jnp.float32),
        }

    base = draw(1.0)
    experts = [jax.tree.map(jnp.add, base, draw(0.3)) for _ in range(num)]
    inputs = jnp.asarray(rng.standard_normal((5, 3)), jnp.float32)
    return base, experts, inputs


BASE, EXPERTS, INPUTS = models()


def square(params):
    return jnp.mean((INPUTS @ params["w"] + params["b"] - 1) ** 2)


def entropy(params):
    logits = INPUTS @ params["w"] + params["b"]
    return -jnp.mean(jax.nn.log_softmax(logits)[:, 0])


LOSSES = {"square": square, "entropy": entropy}
AVERAGE = linear_merge(BASE, EXPERTS)


def same(a, b):
    """Whether two tables are equal, to the last bit."""
    return [str(row) for row in a.rows()] == [str(row) for row in b.rows()]


def members_of(name):
    return [int(t) for t in name.split("-")]


# --- losses --------------------------------------------------------------------------


def test_losses_are_those_of_direct_merges():
    merger = jaxmerge.task_arithmetic(scale=0.8, normalize=True)
    merge = lambda members: merger(BASE, EXPERTS, members=members)
    table = measure(
        merge, DESIGN, LOSSES, method="TA", size=0.5, tokens={"square": 2, "entropy": 1}
    )
    assert len(table) == 2 * (2**NUM - 1)
    assert table.pool == NUM
    for row in table.rows():
        direct = merger(BASE, [EXPERTS[t] for t in members_of(row["subset"])])
        expected = float(LOSSES[row["domain"]](direct))
        assert row["loss"] == pytest.approx(expected, rel=1e-5)
        assert (row["size"], row["method"]) == (0.5, "TA")
    macro, tokens = table.pooled(), table.pooled(by="tokens")
    pairs = table.loss.reshape(-1, 2)
    np.testing.assert_allclose(macro.loss, pairs.mean(axis=1))
    np.testing.assert_allclose(tokens.loss, (2 * pairs[:, 0] + pairs[:, 1]) / 3)


def test_one_function_of_all_domains_and_any_batch():
    both = lambda params: jnp.stack([square(params), entropy(params)])
    tables = [
        measure(
            AVERAGE,
            DESIGN,
            both,
            domains=["square", "entropy"],
            batch_size=batch,
            save_every=every,
        )
        for batch, every in ((4, 1024), (3, 7))
    ]
    np.testing.assert_allclose(tables[0].loss, tables[1].loss, rtol=1e-6)
    assert tables[0].subset.tolist() == tables[1].subset.tolist()
    assert tables[0].domain.tolist() == ["square", "entropy"] * len(DESIGN)


def test_one_program_is_compiled_whatever_the_number_of_sets():
    traced = []

    def loss(params):
        traced.append(params)
        return square(params)

    done = []
    progress = lambda *args: done.append(args)
    measure(AVERAGE, DESIGN, {"a": loss}, batch_size=3, save_every=6, progress=progress)
    assert done == [(6, 15), (12, 15), (15, 15)]
    assert len(traced) == 1


def test_means_over_all_sets_of_a_quadratic_are_the_law_of_a_finite_pool(rng):
    """E[L | k] = L(c v) + c^2 tr(H S) (1/k - 1/M) / 2, with v and S of the pool."""
    num, dimension, scale = 9, 6, 0.8
    root = rng.standard_normal((dimension, dimension))
    hessian, gradient = root @ root.T, rng.standard_normal(dimension)
    vectors = rng.standard_normal((num, dimension))
    quadratic = lambda x: 100 + x @ gradient + x @ hessian @ x / 2
    with jax.enable_x64(True):
        merge = linear_merge(np.zeros(dimension), list(vectors), scale=scale)
        design = designs.all_subsets(num)
        points = measure(merge, design, {"quadratic": quadratic}).points()
    tail = scale**2 * np.trace(hessian @ np.cov(vectors.T)) / 2
    expected = quadratic(scale * vectors.mean(axis=0)) + tail * (1 / points.k - 1 / num)
    np.testing.assert_allclose(points.mean, expected, rtol=1e-13)


# --- prefixes (T14) ------------------------------------------------------------------


def params_of(rule, chosen):
    return rule(np.isin(np.arange(NUM), chosen))


def test_linear_merges_are_the_recipes():
    weights = [1.0, 2.0, 0.5, 1.5]
    pairs = [
        (linear_merge(BASE, EXPERTS), jaxmerge.average()),
        (
            linear_merge(BASE, EXPERTS, scale=0.8, weights=weights),
            jaxmerge.task_arithmetic(scale=0.8, normalize=True, weights=weights),
        ),
        (
            linear_merge(BASE, EXPERTS, scale=0.3, mean=False),
            jaxmerge.task_arithmetic(),
        ),
    ]
    mask = np.array([True, False, True, True])
    for rule, merger in pairs:
        expected = merger(BASE, EXPERTS, members=mask)
        for name in BASE:
            np.testing.assert_allclose(rule(mask)[name], expected[name], atol=1e-6)


def test_prefix_merges_equal_direct_merges():
    scaled = linear_merge(BASE, EXPERTS, scale=0.8)
    order = [2, 0, 3, 1]
    state = scaled.start()
    for k, t in enumerate(order, start=1):
        state = scaled.add(state, t)
        prefix = scaled.finish(state)
        for name in BASE:
            mean = sum(EXPERTS[t][name] for t in order[:k]) / k
            direct = BASE[name] + 0.8 * (mean - BASE[name])
            np.testing.assert_allclose(prefix[name], direct, atol=1e-6)
    alone = params_of(AVERAGE, [3])
    for name in BASE:
        np.testing.assert_allclose(alone[name], EXPERTS[3][name], rtol=1e-6, atol=1e-7)


def test_prefixes_are_measured_once_each(key):
    orders = designs.permutations(key, NUM, 4)
    table = measure_prefixes(AVERAGE, orders, LOSSES, method="Average", batch_size=3)
    design = designs.prefixes(orders)
    assert table.subset.tolist() == np.repeat(design.names, 2).tolist()
    direct = measure(AVERAGE, design, LOSSES, method="Average")
    np.testing.assert_allclose(table.loss, direct.loss, rtol=2e-6)


# --- files ---------------------------------------------------------------------------


def test_a_stopped_run_goes_on_and_gives_an_equal_table(tmp_path):
    path = tmp_path / "losses.csv"
    settings = {"method": "Average", "size": 0.5, "batch_size": 2, "save_every": 4}
    whole = measure(AVERAGE, DESIGN, LOSSES, **settings)

    def stop(done, total):
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(AVERAGE, DESIGN, LOSSES, path=path, progress=stop, **settings)
    assert len(read_table(path)) == 16
    # Killed while it wrote: a set without its second domain, and a line cut short.
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]) + lines[-2] + lines[-1][:20])
    done = []
    resumed = measure(
        AVERAGE,
        DESIGN,
        LOSSES,
        path=path,
        progress=lambda *a: done.append(a),
        **settings,
    )
    assert done == [(11, 15), (15, 15)]  # seven were known
    assert same(resumed, whole)
    assert same(measure(AVERAGE, DESIGN, LOSSES, path=path, **settings), whole)
    by_set = lambda table: sorted((r["subset"], r["domain"]) for r in table.rows())
    assert by_set(read_table(path)) == by_set(whole)
    assert not list(tmp_path.glob("*.part"))


_KILLED = """
import time
from jaxmerge.laws.measure import measure
from tests.laws import test_measure as t
slowly = lambda done, total: time.sleep(0.2)
measure(t.AVERAGE, t.DESIGN, t.LOSSES, path={path!r}, save_every=1, progress=slowly)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_whole_sets(tmp_path):
    path = tmp_path / "losses.csv"
    code = _KILLED.format(path=str(path))
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        while not path.exists() or path.read_text().count("\n") < 5:
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    assert process.returncode != 0
    known = read_table(path)
    assert 4 <= len(known) < 2 * len(DESIGN)
    resumed = measure(AVERAGE, DESIGN, LOSSES, path=path)
    assert same(resumed, measure(AVERAGE, DESIGN, LOSSES))


def test_prefixes_go_on_too(tmp_path, key):
    path = tmp_path / "losses.csv"
    orders = designs.permutations(key, NUM, 4)
    whole = measure_prefixes(AVERAGE, orders, LOSSES, save_every=2)
    measure_prefixes(AVERAGE, orders[:2], LOSSES, save_every=2, path=path)
    done = []
    resumed = measure_prefixes(
        AVERAGE,
        orders,
        LOSSES,
        save_every=2,
        path=path,
        progress=lambda *args: done.append(args),
    )
    assert same(resumed, whole)
    assert len(done) == 1
    assert done[-1] == (len(designs.prefixes(orders)),) * 2


def test_a_file_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "losses.csv"
    one, square_only = designs.all_subsets(NUM, [1]), {"square": square}
    again = lambda merge=AVERAGE, losses=square_only, **kwargs: measure(
        merge, DESIGN, losses, path=path, **kwargs
    )
    measure(AVERAGE, one, square_only, path=path)
    with pytest.raises(ValueError, match="line 2: method is '', .* has 'TIES'"):
        again(method="TIES")
    with pytest.raises(ValueError, match="line 2: size is"):
        again(size=0.5)
    with pytest.raises(ValueError, match="line 2: tokens is '1.0'"):
        again(tokens={"square": 3})
    with pytest.raises(ValueError, match="the domain 'square' is not among"):
        again(losses={"entropy": entropy})
    with pytest.raises(ValueError, match="the experts or the data are others"):
        again(linear_merge(BASE, EXPERTS, scale=0.9))
    others = [*EXPERTS[:2], BASE, EXPERTS[3]]
    with pytest.raises(ValueError, match="the loss .* for the set 2 on square"):
        again(linear_merge(BASE, others))
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="has the columns a, b"):
        again()
    assert path.read_text() == "a,b\n1,2\n"


def test_what_is_saved_is_what_a_table_writes(tmp_path):
    table = measure(
        AVERAGE, DESIGN, LOSSES, method="x", path=tmp_path / "a.csv", size=3.0
    )
    write_table(table, tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()


# --- sentences -----------------------------------------------------------------------


def test_a_loss_that_is_not_finite_is_named(tmp_path):
    experts = [*EXPERTS[:2], jax.tree.map(lambda x: x * jnp.nan, BASE), EXPERTS[3]]
    merger = jaxmerge.average()
    merge = lambda members: merger(BASE, experts, members=members)
    path = tmp_path / "losses.csv"
    expected = re.escape("the loss at the set 2 by soup on square is nan")
    with pytest.raises(ValueError, match=expected):
        measure(merge, DESIGN, LOSSES, method="soup", path=path, save_every=2)
    assert read_table(path).subset.tolist() == ["0", "0", "1", "1"]
    with pytest.raises(ValueError, match="the set 0 on score is -1"):
        measure(AVERAGE, DESIGN, {"score": lambda params: -1.0})


def test_requests_that_make_no_sense_are_refused():
    wrong = lambda masks: designs.Design(np.asarray(masks, bool))
    for design, match in (
        (wrong([[1, 0, 0, 0], [0, 0, 0, 0]]), "set 1 of the design is empty"),
        (wrong([[1, 0, 1, 0], [1, 0, 1, 0]]), "the set 0-2 twice"),
        (designs.Design(np.ones((2, 4))), "expected boolean"),
    ):
        with pytest.raises(ValueError, match=match):
            measure(AVERAGE, design, LOSSES)
    with pytest.raises(ValueError, match=r"shapes \[\(2,\)\]; expected one number"):
        measure(AVERAGE, DESIGN, {"a": lambda params: params["b"]})
    with pytest.raises(ValueError, match="name its results by domains"):
        measure(AVERAGE, DESIGN, square)
    with pytest.raises(ValueError, match="tokens has None for 'entropy'"):
        measure(AVERAGE, DESIGN, LOSSES, tokens={"square": 2})
    with pytest.raises(ValueError, match="order 0 is"):
        measure_prefixes(AVERAGE, np.array([[0, 0, 1, 2]]), LOSSES)
    with pytest.raises(ValueError, match="one for each of the 4 experts"):
        linear_merge(BASE, EXPERTS, weights=[1.0])
    with pytest.raises(ValueError, match="finite numbers"):
        linear_merge(BASE, EXPERTS, scale=np.inf)

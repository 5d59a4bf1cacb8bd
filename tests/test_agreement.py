"""MetaGPT, LiNeS, PCB and TALL masks by hand, and where they degenerate."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxmerge as J
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

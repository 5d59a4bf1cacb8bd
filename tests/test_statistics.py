"""Gram matrices and Fishers of functions against what they are defined as."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxmerge
from jaxmerge import Matrices, MatrixSpec, statistics


def gram(x) -> np.ndarray:
    x = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    return x.T @ x


def draw(rng, *shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def test_a_perceptron_in_both_layouts_under_jit_and_remat(rng):
    params = {
        "a": {"weight": draw(rng, 5, 3), "bias": draw(rng, 5)},
        "b": {"kernel": draw(rng, 5, 4)},
    }
    x = draw(rng, 2, 7, 3)

    @jax.jit
    def hidden(p, x):
        return jax.nn.relu(x @ p["a"]["weight"].T + p["a"]["bias"])

    @jax.checkpoint
    def model(p, x):
        return hidden(p, x) @ p["b"]["kernel"]

    found = jax.jit(lambda p, x: statistics.gram_matrices(model, p, x))(params, x)
    assert list(found) == ["a.weight", "b.kernel"]
    np.testing.assert_allclose(found["a.weight"], gram(x), rtol=1e-5)
    np.testing.assert_allclose(found["b.kernel"], gram(hidden(params, x)), rtol=1e-4)


def _concatenated(kernels):
    return jnp.concatenate([jnp.expand_dims(x, 0) for x in kernels])


@pytest.mark.parametrize("reverse", [False, True])
def test_layers_that_are_scanned(rng, reverse):
    params = {"layers": {"kernel": draw(rng, 4, 3, 3)}}
    rule = Matrices.by_pattern({"layers": MatrixSpec(out=-1, in_=-2)})
    x = draw(rng, 6, 3)

    def model(p, x):
        step = lambda h, w: (jnp.tanh(h @ w), None)
        return jax.lax.scan(step, x, p["layers"]["kernel"], reverse=reverse)[0]

    found = statistics.gram_matrices(model, params, x, matrices=rule)["layers.kernel"]
    h = x
    for i in reversed(range(4)) if reverse else range(4):
        np.testing.assert_allclose(found[i], gram(h), rtol=1e-4, atol=1e-4)
        h = jnp.tanh(h @ params["layers"]["kernel"][i])


@pytest.mark.parametrize("stack", [jnp.stack, _concatenated])
def test_layers_that_are_stacked_to_be_scanned(rng, stack):
    params = {f"layer{i}": {"kernel": draw(rng, 3, 3)} for i in range(3)}
    x = draw(rng, 6, 3)

    def model(p, x, scanned):
        kernels = [p[f"layer{i}"]["kernel"] for i in range(3)]
        if scanned:
            step = lambda h, w: (jnp.tanh(h @ w), None)
            return jax.lax.scan(step, x, stack(kernels))[0]
        for kernel in kernels:
            x = jnp.tanh(x @ kernel)
        return x

    found, expected = (
        statistics.gram_matrices(lambda p, x, s=s: model(p, x, s), params, x)
        for s in (True, False)
    )
    assert set(found) == set(expected) == {f"layer{i}.kernel" for i in range(3)}
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)


def test_one_of_a_stack_by_its_index(rng):
    stack, x = draw(rng, 3, 4, 2), draw(rng, 5, 2)
    rule = Matrices.by_pattern({"w": MatrixSpec()})
    found = statistics.gram_matrices(
        lambda p, x: x @ p["w"][1].T + x @ p["w"][0].T, {"w": stack}, x, matrices=rule
    )
    np.testing.assert_allclose(found["w"][0], gram(x), rtol=1e-5)
    np.testing.assert_allclose(found["w"][1], gram(x), rtol=1e-5)
    np.testing.assert_array_equal(found["w"][2], 0)


def test_experts_of_a_mixture_that_see_the_same_and_their_own_inputs(rng):
    params = {"up": draw(rng, 3, 4, 2), "down": draw(rng, 3, 2, 4)}
    rule = Matrices.by_pattern({"up|down": MatrixSpec()})
    x = draw(rng, 5, 2)
    up = lambda p, x: jnp.einsum("bi,eoi->beo", x, p["up"])
    model = lambda p, x: jnp.einsum("beo,eio->bei", up(p, x), p["down"])
    found = statistics.gram_matrices(model, params, x, matrices=rule)
    for e in range(3):
        np.testing.assert_allclose(found["up"][e], gram(x), rtol=1e-5)
        own = up(params, x)[:, e]
        np.testing.assert_allclose(found["down"][e], gram(own), rtol=1e-4, atol=1e-4)


def test_attention_of_flax(rng):
    module = nnx.MultiHeadAttention(
        num_heads=2, in_features=4, rngs=nnx.Rngs(0), decode=False
    )
    graph, state = nnx.split(module)
    params = nnx.to_pure_dict(state)
    rule = Matrices.by_pattern(
        {
            r"(query|key|value)\.kernel": MatrixSpec(out=(-2, -1), in_=-3),
            r"out\.kernel": MatrixSpec(out=-1, in_=(-3, -2)),
            "bias": None,
        }
    )
    x = draw(rng, 3, 5, 4)
    found = statistics.gram_matrices(
        lambda p, x: nnx.merge(graph, p)(x), params, x, matrices=rule
    )
    for name in ("query", "key", "value"):
        np.testing.assert_allclose(found[f"{name}.kernel"], gram(x), rtol=1e-4)
    assert found["out.kernel"].shape == (4, 4)
    assert np.linalg.eigvalsh(found["out.kernel"])[0] > -1e-4


def test_gains_are_what_lot_is_given(rng):
    params = {"gain": draw(rng, 3), "shift": draw(rng, 3), "w": draw(rng, 2, 3)}
    x = draw(rng, 4, 5, 3)
    model = lambda p, x: (x * p["gain"] + p["shift"]) @ p["w"].T
    found = statistics.gram_matrices(model, params, x, gains=True)
    assert set(found) == {"gain", "w"}
    squares = np.sum(np.asarray(x, np.float64) ** 2, axis=(0, 1))
    np.testing.assert_allclose(found["gain"], squares, rtol=1e-5)
    merged = jaxmerge.lot()(params, [params, params], statistics=[found, found])
    np.testing.assert_allclose(merged["gain"], params["gain"], rtol=1e-5)


def test_regmean_of_captured_grams_solves_the_joint_regression(rng):
    """One linear layer, exact experts: the merge is least squares on all data."""
    inputs = [draw(rng, 20, 3) for _ in range(3)]
    targets = [draw(rng, 20, 2) for _ in range(3)]
    model = lambda p, x: x @ p["w"].T
    solve = lambda x, y: {"w": jnp.linalg.lstsq(x, y)[0].T}
    experts = [solve(x, y) for x, y in zip(inputs, targets, strict=True)]
    grams = [
        statistics.gram_matrices(model, p, x)
        for p, x in zip(experts, inputs, strict=True)
    ]
    base = {"w": jnp.zeros((2, 3))}
    merged = jaxmerge.regmean(off_diagonal=1.0)(base, experts, statistics=grams)
    joint = solve(jnp.concatenate(inputs), jnp.concatenate(targets))
    np.testing.assert_allclose(merged["w"], joint["w"], atol=1e-5)


def test_experts_are_mapped_over_and_batches_add_up(rng):
    experts, x = {"w": draw(rng, 3, 2, 4)}, draw(rng, 6, 4)
    one = lambda p, x: statistics.gram_matrices(lambda p, x: x @ p["w"].T, p, x)
    all_of = jax.vmap(one, in_axes=(0, None))(experts, x)
    assert all_of["w"].shape == (3, 4, 4)
    halves = [one({"w": experts["w"][0]}, part) for part in (x[:2], x[2:])]
    np.testing.assert_allclose(
        halves[0]["w"] + halves[1]["w"], all_of["w"][0], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda p, x: x @ p["w"], r"contracted over axes \[0\].*inputs are axes \[1\]"),
        (lambda p, x: x @ (p["w"] + 1).T, "multiplies nothing by it as it is"),
        (lambda p, x: x, "multiplies nothing by it as it is"),
        (
            lambda p, x: jax.lax.cond(x[0, 0] > 0, lambda: x @ p["w"].T, lambda: x),
            "goes into a cond",
        ),
    ],
    ids=["layout", "changed", "unused", "control flow"],
)
def test_what_cannot_be_read_off_is_an_error(rng, model, message):
    params, x = {"w": draw(rng, 3, 3)}, draw(rng, 4, 3)
    with pytest.raises(ValueError, match=message):
        statistics.gram_matrices(model, params, x)


@pytest.mark.parametrize("batch_size", [None, 2, 3, 10])
def test_fisher_is_the_mean_of_squared_gradients(rng, batch_size):
    params = {"w": draw(rng, 3), "b": draw(rng)}
    examples = {"x": draw(rng, 7, 3), "y": draw(rng, 7)}

    def loss(p, example):
        return (p["w"] @ example["x"] + p["b"] - example["y"]) ** 2

    found = statistics.diagonal_fisher(loss, params, examples, batch_size=batch_size)
    x, y = (np.asarray(examples[k], np.float64) for k in "xy")
    residual = x @ np.asarray(params["w"]) + float(params["b"]) - y
    expected = np.mean((2 * residual[:, None] * x) ** 2, axis=0)
    np.testing.assert_allclose(found["w"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["b"], np.mean(4 * residual**2), rtol=1e-5)


def test_fisher_of_no_examples_is_an_error(rng):
    for examples in (jnp.zeros((0, 2)), {"x": jnp.zeros(3), "y": jnp.zeros(2)}):
        with pytest.raises(ValueError, match="one leading axis of examples"):
            statistics.diagonal_fisher(
                lambda p, x: jnp.sum(p["w"]), {"w": jnp.ones(1)}, examples
            )


def test_the_page_runs():
    page = (Path(__file__).parents[1] / "docs" / "statistics.md").read_text()
    memory = page[: page.index("## On disk")]
    blocks = re.findall(r"```python\n(.*?)```", memory, re.DOTALL)
    assert len(blocks) == 2
    exec("\n".join(blocks), {})


def test_rules_of_differentiation_do_not_hide_a_product(rng):
    @jax.custom_vjp
    def linear(w, x):
        return x @ w.T

    linear.defvjp(
        lambda w, x: (linear(w, x), (w, x)), lambda r, g: (g.T @ r[1], g @ r[0])
    )
    params, x = {"w": draw(rng, 2, 3)}, draw(rng, 5, 3)
    found = statistics.gram_matrices(lambda p, x: linear(p["w"], x), params, x)
    np.testing.assert_allclose(found["w"], gram(x), rtol=1e-5)

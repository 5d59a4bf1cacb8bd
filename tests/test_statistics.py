"""Gram matrices and Fishers of functions against what they are defined as."""

import dataclasses
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


def follow_some_layers(p, x):
    """All layers but the last by a scan, the last by hand."""
    x = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["w"][:-1])[0]
    return x @ p["w"][-1]


def test_a_stack_that_is_used_in_parts(rng):
    stack, x = draw(rng, 3, 4, 4), draw(rng, 5, 4)
    rule = Matrices.by_pattern({"w": MatrixSpec(out=-1, in_=-2)})
    found = statistics.gram_matrices(
        follow_some_layers, {"w": stack}, x, matrices=rule
    )["w"]
    for i in range(3):
        np.testing.assert_allclose(found[i], gram(x), rtol=1e-4, atol=1e-4)
        x = jnp.tanh(x @ stack[i])


def test_other_parameters_may_be_what_is_multiplied(rng):
    """A learned state and a table of positions, times a shared matrix."""
    params = {"w": draw(rng, 3, 3), "state": draw(rng, 3), "place": draw(rng, 5, 3)}
    x = draw(rng, 5, 3)

    def model(p, x):
        state = jnp.broadcast_to(p["state"], x.shape)
        return x @ p["w"].T + state @ p["w"].T + p["place"] @ p["w"].T

    rule = Matrices.by_pattern({"place": None})
    found = statistics.gram_matrices(model, params, x, matrices=rule)["w"]
    states = np.broadcast_to(params["state"], (5, 3))
    expected = gram(x) + gram(states) + gram(np.asarray(params["place"]))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_recurrent_matrix_sees_every_step(rng):
    params, xs = {"u": draw(rng, 3, 3), "b": draw(rng, 3)}, draw(rng, 4, 5, 3)

    def model(p, xs):
        step = lambda h, x: (jnp.tanh(h @ p["u"].T + x + p["b"]), h)
        return jax.lax.scan(step, jnp.ones((5, 3)), xs)

    found = statistics.gram_matrices(lambda p, xs: model(p, xs)[0], params, xs)
    _, states = model(params, xs)
    np.testing.assert_allclose(found["u"], gram(states), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.complex64])
def test_inputs_of_other_types(rng, dtype):
    params, x = {"w": draw(rng, 2, 3)}, draw(rng, 6, 3).astype(dtype)
    x = (
        x * jnp.asarray(np.exp(1j * np.arange(3)), dtype)
        if dtype == jnp.complex64
        else x
    )
    model = lambda p, x: x @ p["w"].T.astype(x.dtype)
    found = statistics.gram_matrices(model, params, x)["w"]
    assert found.dtype == jnp.float32
    wide = np.asarray(x, np.complex128)
    np.testing.assert_allclose(found, np.real(wide.conj().T @ wide), rtol=1e-5)


def test_what_is_not_used_and_who_donates_do_no_harm(rng):
    params, x = {"w": draw(rng, 2, 3), "s": 2.0, "b": draw(rng, 2)}, draw(rng, 6, 3)
    donating = jax.jit(lambda x: 2 * x, donate_argnums=0)

    def model(p, x):
        _ = jnp.tanh(3 * x) @ p["w"].T
        y = donating(x) @ p["w"].T * p["s"]
        return jax.lax.cond(x[0, 0] > 0, lambda y: y + p["b"], lambda y: y, y)

    found = statistics.gram_matrices(model, params, x)
    np.testing.assert_allclose(found["w"], 4 * gram(x), rtol=1e-5)


IN_OTHER_WAYS = {
    "layout": (lambda p, x: x @ p["w"], r"over axes \[0\].*inputs are axes \[1\]"),
    "changed": (lambda p, x: x @ (p["w"] + 1).T, "uses it in a add"),
    "also changed": (lambda p, x: x @ p["w"].T + x @ (2 * p["w"]).T, "in a mul"),
    "permuted": (lambda p, x: x @ p["w"].T + x @ p["w"][:, ::-1].T, "in a rev"),
    "some inputs": (lambda p, x: x[:, :2] @ p["w"][:, :2].T, "of a part of it"),
    "some outputs": (lambda p, x: x @ p["w"][:2].T, "of a part of it"),
    "unused": (lambda p, x: x, "multiplies nothing by it"),
    "control flow": (
        lambda p, x: jax.lax.cond(x[0, 0] > 0, lambda: x @ p["w"].T, lambda: x),
        "in a cond",
    ),
    "a product of parameters": (lambda p, x: x @ (p["w"] @ p["v"]).T, "dot_general"),
}


@pytest.mark.parametrize("name", IN_OTHER_WAYS)
def test_what_cannot_be_read_off_is_an_error(rng, name):
    model, message = IN_OTHER_WAYS[name]
    params, x = {"v": draw(rng, 3, 3), "w": draw(rng, 3, 3)}, draw(rng, 4, 3)
    both = lambda p, x: (model(p, x), x @ p["v"].T)
    with pytest.raises(ValueError, match=message):
        statistics.gram_matrices(both, params, x)


def test_names_that_collide_and_pairs_are_errors(rng):
    w = draw(rng, 2, 2)
    model = lambda p, x: x
    with pytest.raises(ValueError, match="two leaves are called"):
        statistics.gram_matrices(model, {"a": {"b": w}, "a.b": w}, w)
    pair = {"w": jaxmerge.LowRank(w, w)}
    with pytest.raises(ValueError, match="w is a LowRank pair"):
        statistics.gram_matrices(model, pair, w)
    with pytest.raises(ValueError, match="w is complex"):
        statistics.gram_matrices(model, {"w": w.astype(jnp.complex64)}, w)


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


def hessian_gram(outputs, kernel) -> np.ndarray:
    """The Gram matrix of a linear map's inputs: half its squared outputs' Hessian."""
    half = lambda k: jnp.sum(outputs(k) ** 2) / 2
    size = kernel.size
    return np.asarray(jax.hessian(half)(kernel)).reshape(size, size)


CONVOLUTIONS = {
    "plain": {"window_strides": (1, 1), "padding": "SAME"},
    "strides": {"window_strides": (2, 1), "padding": "VALID"},
    "padding": {"window_strides": (1, 2), "padding": [(2, 0), (1, 3)]},
    "atrous": {"window_strides": (1, 1), "padding": "SAME", "rhs_dilation": (2, 1)},
    "transposed": {
        "window_strides": (1, 1),
        "padding": [(1, 1), (1, 1)],
        "lhs_dilation": (2, 3),
    },
}
LAYOUTS = {
    ("NHWC", "HWIO", "NHWC"): MatrixSpec(out=-1, in_=(-4, -3, -2)),
    ("NCHW", "OIHW", "NCHW"): MatrixSpec(out=-4, in_=(-3, -2, -1)),
    ("CWNH", "WOIH", "NHCW"): MatrixSpec(out=-3, in_=(-4, -2, -1)),
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: x[1])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_multiplies_patches(rng, name, layout):
    images, kernels, _ = layout
    x = draw(rng, *({"N": 2, "H": 5, "W": 6, "C": 2}[a] for a in images))
    sizes = {"O": 3, "I": 2, "H": 3, "W": 2}
    kernel = draw(rng, *(sizes[a] for a in kernels))
    rule = Matrices.by_pattern({"kernel": LAYOUTS[layout]})

    def model(p, x):
        return jax.lax.conv_general_dilated(
            x, p["kernel"], dimension_numbers=layout, **CONVOLUTIONS[name]
        )

    found = jax.jit(lambda p, x: statistics.gram_matrices(model, p, x, matrices=rule))
    one = jnp.take(kernel, jnp.array([0]), axis=kernels.index("O"))
    expected = hessian_gram(lambda k: model({"kernel": k}, x), one)
    np.testing.assert_allclose(
        found({"kernel": kernel}, x)["kernel"], expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("channels", [1, 2])
def test_a_convolution_as_a_product_of_shifted_views(rng, channels):
    """The kernel's axes are merged: its inputs are those of a convolution."""
    x, kernel = draw(rng, 2, 5, 4, channels), draw(rng, 3, 3, channels, 2)
    rule = Matrices.by_pattern({"kernel": MatrixSpec(out=-1, in_=(-4, -3, -2))})

    def views(p, x):
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        views = [x[:, i : i + 5, j : j + 4] for i in range(3) for j in range(3)]
        matrix = p["kernel"].reshape(-1, 2).reshape(9, channels, 2).reshape(-1, 2)
        return jnp.concatenate(views, axis=-1) @ matrix

    def convolution(p, x):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, p["kernel"], (1, 1), "SAME", dimension_numbers=layout
        )

    params = {"kernel": kernel}
    np.testing.assert_allclose(views(params, x), convolution(params, x), atol=1e-5)
    found, expected = (
        statistics.gram_matrices(model, params, x, matrices=rule)["kernel"]
        for model in (views, convolution)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_regmean_of_convolutions_of_flax(rng):
    """Two experts of one layer that see images of their own, and are both kept."""
    module = nnx.Conv(2, 3, kernel_size=(3, 3), rngs=nnx.Rngs(0))
    graph, state = nnx.split(module)
    base = nnx.to_pure_dict(state)
    rule = Matrices.by_pattern({"kernel": MatrixSpec(out=-1, in_=(-4, -3, -2))})
    model = lambda p, x: nnx.merge(graph, p)(x)
    # Each sees one of the two channels only.
    inputs = [draw(rng, 8, 6, 6, 2) * jnp.eye(2)[c] for c in range(2)]
    experts = [
        {**base, "kernel": base["kernel"] + draw(rng, *base["kernel"].shape)}
        for _ in inputs
    ]
    grams = [
        statistics.gram_matrices(model, p, x, matrices=rule)
        for p, x in zip(experts, inputs, strict=True)
    ]
    merger = dataclasses.replace(jaxmerge.regmean(off_diagonal=1.0), matrices=rule)
    merged = merger(base, experts, statistics=grams)
    for expert, x in zip(experts, inputs, strict=True):
        np.testing.assert_allclose(model(merged, x), model(expert, x), atol=1e-4)
    # The mean of kernels is no RegMean, and nobody would notice.
    with pytest.raises(ValueError, match="kernel was measured of a leaf that is a mat"):
        jaxmerge.regmean()(base, experts, statistics=grams)


def test_a_convolution_in_groups_is_an_error(rng):
    """Each group's inputs are its own, so that no one Gram matrix is right."""
    module = nnx.Conv(4, 4, kernel_size=(3,), feature_group_count=2, rngs=nnx.Rngs(0))
    graph, state = nnx.split(module)
    rule = Matrices.by_pattern({"kernel": MatrixSpec(out=-1, in_=(-3, -2))})
    with pytest.raises(ValueError, match="kernel of shape.*conv_general_dilated"):
        statistics.gram_matrices(
            lambda p, x: nnx.merge(graph, p)(x),
            nnx.to_pure_dict(state),
            draw(rng, 2, 5, 4),
            matrices=rule,
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


def test_what_a_fisher_refuses(rng):
    loss, x = lambda p, x: jnp.sum(p["w"] * x), draw(rng, 4, 3)
    with pytest.raises(ValueError, match="batch_size is 0; expected at least 1"):
        statistics.diagonal_fisher(loss, {"w": jnp.ones(3)}, x, batch_size=0)
    with pytest.raises(ValueError, match="n is of int32"):
        statistics.diagonal_fisher(loss, {"w": jnp.ones(3), "n": 3}, x)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from jaxmerge.curvature import (
    Matrix,
    gauss_newton_vector_product,
    hessian_vector_product,
    quadratic_rise,
)
from tests.curvature.matrices import (
    cross_entropy,
    digits,
    flat_hessian,
    logits,
    loss,
    trained,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


def random_like(params, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)
    return jax.tree.map(draw, params)


def flat(tree):
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves)


def times(operator, vector):
    return jax.jit(lambda operator: operator.matvec(vector))(operator)


@pytest.mark.parametrize("batch_size", [None, 50, 64, 1000])
def test_hessian_products_are_those_of_the_dense_hessian(batch_size):
    params, data = trained(), digits()
    vector = random_like(params)
    operator = hessian_vector_product(loss, params, *data, batch_size=batch_size)
    product = times(operator, vector)
    dense = flat_hessian(lambda p: loss(p, *data), params)
    np.testing.assert_allclose(flat(product), dense @ flat(vector), atol=2e-5)
    assert operator.dimension == dense.shape[0] == 118
    assert jax.tree.map(lambda x: (x.shape, x.dtype), product) == jax.tree.map(
        lambda x: (x.shape, x.dtype), params
    )


@pytest.mark.parametrize("batch_size", [None, 7])
def test_gauss_newton_is_the_hessian_of_linear_least_squares(batch_size, rng):
    inputs = jnp.asarray(rng.normal(size=(30, 3)), jnp.float32)
    targets = jnp.asarray(rng.normal(size=(30, 2)), jnp.float32)
    params = {"bias": jnp.ones(2), "kernel": jnp.ones((3, 2)), "unused": None}
    predict = lambda params, x: x @ params["kernel"] + params["bias"]
    squares = lambda outputs, y: jnp.mean(jnp.sum((outputs - y) ** 2, axis=1)) / 2
    matrix = gauss_newton_vector_product(
        predict, squares, params, inputs, targets, batch_size=batch_size
    )
    vector = random_like(params)
    whole = lambda params: squares(predict(params, inputs), targets)
    dense = flat_hessian(whole, params)
    np.testing.assert_allclose(
        flat(times(matrix, vector)), dense @ flat(vector), atol=1e-5
    )


def test_gauss_newton_of_a_softmax_is_the_fisher_matrix():
    params, (images, _) = trained(), digits()
    images = images[:20]
    labels = jnp.zeros(20, jnp.int32)  # The Fisher matrix does not depend on them.
    operator = gauss_newton_vector_product(
        logits, cross_entropy, params, images, labels
    )
    start, unravel = ravel_pytree(params)
    chances = lambda x: jax.nn.log_softmax(logits(unravel(x), images))
    score = np.asarray(jax.jit(jax.jacobian(chances))(start), np.float64)
    weights = np.exp(chances(start))
    fisher = np.einsum("nc,nci,ncj->ij", weights, score, score) / 20
    vector = random_like(params)
    np.testing.assert_allclose(
        flat(times(operator, vector)), fisher @ flat(vector), atol=1e-5
    )


def test_an_nnx_state_is_a_parameter_tree():
    module = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    graph, state = nnx.split(module)
    images = jnp.arange(12.0).reshape(4, 3) / 12

    def of_state(state, x):
        return jnp.mean(jnp.tanh(nnx.merge(graph, state)(x)) ** 2)

    operator = hessian_vector_product(of_state, state, images, batch_size=3)
    vector = jax.tree.map(jnp.ones_like, state)
    product = times(operator, vector)
    assert jax.tree.structure(product) == jax.tree.structure(state)
    dense = flat_hessian(lambda state: of_state(state, images), state)
    np.testing.assert_allclose(flat(product), dense @ np.ones(8), atol=1e-5)


def test_float64_stays_and_is_exact_to_it(rng):
    with jax.enable_x64(True):
        matrix = rng.normal(size=(5, 5))
        params = {"x": jnp.asarray(rng.normal(size=3)), "y": jnp.zeros(2, jnp.float32)}

        def quartic(params, weight):
            wide = jnp.concatenate([params["x"], params["y"].astype(jnp.float64)])
            return jnp.sum((weight @ wide) ** 4)

        operator = hessian_vector_product(quartic, params, jnp.asarray(matrix))
        product = operator.matvec(jax.tree.map(jnp.ones_like, params))
        assert (product["x"].dtype, product["y"].dtype) == (jnp.float64, jnp.float32)
        point = np.r_[np.asarray(params["x"]), 0.0, 0.0]
        inner = 12 * (matrix @ point) ** 2
        expected = matrix.T @ (inner * (matrix @ np.ones(5)))
        np.testing.assert_allclose(product["x"], expected[:3], rtol=1e-12)


def test_quadratic_rise_is_the_rise_of_a_quadratic(rng):
    half = jnp.asarray(rng.normal(size=(4, 4)), jnp.float32)
    matrix = half + half.T
    move = jnp.asarray(rng.normal(size=4), jnp.float32)
    expected = move @ matrix @ move / 2
    np.testing.assert_allclose(
        quadratic_rise(Matrix(matrix), move), expected, rtol=1e-5
    )


def test_data_are_arguments_and_not_constants():
    """A new data set of the same shape does not compile anew."""
    traces = []

    def counted(params, x):
        traces.append(x)
        return jnp.mean((x @ params) ** 2)

    product = jax.jit(lambda operator, vector: operator.matvec(vector))
    operators = [
        hessian_vector_product(counted, jnp.ones(3), scale * jnp.ones((5, 3)))
        for scale in (1.0, 2.0)
    ]
    first = product(operators[0], jnp.ones(3))
    seen = len(traces)
    second = product(operators[1], jnp.ones(3))
    assert len(traces) == seen
    np.testing.assert_allclose(second, 4 * first)


def mean_square(params, x):
    return jnp.mean((x @ params["w"]) ** 2)


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        (
            {"w": jnp.ones(3), "step": jnp.zeros((), jnp.int32)},
            TypeError,
            "step is int32",
        ),
        ({"w": {"deep": jnp.ones(3, jnp.bfloat16)}}, TypeError, "w.deep is bfloat16"),
        ({"w": jax.random.key(0)}, TypeError, "w is key<fry>"),
        ({}, ValueError, "no leaves"),
    ],
)
def test_leaves_that_have_no_curvature_are_refused_by_name(params, error, words):
    with pytest.raises(error, match=words):
        hessian_vector_product(mean_square, params, jnp.ones((2, 3)))
    with pytest.raises(error, match=words):
        gauss_newton_vector_product(
            mean_square, mean_square, params, jnp.ones((2, 3)), jnp.ones(2)
        )


def test_losses_and_data_that_make_no_mean_are_refused():
    params = {"w": jnp.ones(3)}
    x = jnp.ones((4, 3))
    with pytest.raises(ValueError, match="expected one floating scalar"):
        hessian_vector_product(lambda p, x: x @ p["w"], params, x)
    with pytest.raises(ValueError, match="expected one floating scalar"):
        hessian_vector_product(lambda p, x: (jnp.sum(x), x), params, x)
    two = lambda p, x, y: jnp.mean(x @ p["w"]) + jnp.mean(y)
    with pytest.raises(ValueError, match="data's 1 has 2 samples"):
        hessian_vector_product(two, params, x, jnp.ones(2), batch_size=2)
    with pytest.raises(ValueError, match="data's 1 has no leading axis"):
        hessian_vector_product(two, params, x, jnp.ones(()), batch_size=2)
    with pytest.raises(ValueError, match="nothing to take batches of"):
        hessian_vector_product(lambda p: jnp.sum(p["w"]), params, batch_size=2)
    with pytest.raises(ValueError, match="batch_size is 0"):
        hessian_vector_product(mean_square, params, x, batch_size=0)


def test_vectors_of_another_space_are_refused_by_name():
    operator = hessian_vector_product(mean_square, {"w": jnp.ones(3)}, jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"vector's w is float32\[4\]"):
        operator.matvec({"w": jnp.ones(4)})
    with pytest.raises(ValueError, match=r"vector's w is int32\[3\]"):
        operator.matvec({"w": jnp.ones(3, jnp.int32)})
    with pytest.raises(ValueError, match="has structure"):
        operator.matvec([jnp.ones(3)])

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxmerge.curvature import (
    Matrix,
    gauss_newton_vector_product,
    hessian_vector_product,
    spectral_density,
    top_eigenpairs,
    trace,
)
from tests.curvature.matrices import (
    SPECTRA,
    cross_entropy,
    digits,
    flat_hessian,
    logits,
    loss,
    rotated,
    trained,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


@functools.partial(jax.jit, static_argnames=("num_probes", "num_steps", "probes"))
def measure(operator, key, num_probes=64, num_steps=30, probes="rademacher"):
    return spectral_density(
        operator, key, num_probes, num_steps, probes=probes, parallel_probes=num_probes
    )


top = jax.jit(
    top_eigenpairs,
    static_argnums=2,
    static_argnames=("which", "num_steps", "block_size"),
)

FUNCTIONS = {
    "identity": lambda x: x,
    "square": lambda x: x**2,
    "decay": lambda x: 1 / (1 + x**2),
    "exponential": lambda x: jnp.exp(-x / 4),
}


def check(estimate, exact, relative=0.02):
    assert np.isfinite(estimate.mean)
    assert abs(estimate.mean - exact) < 4 * estimate.stderr + 1e-4 * abs(exact)
    assert abs(estimate.mean - exact) < relative * abs(exact)


@pytest.mark.parametrize("probes", ["rademacher", "normal"])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_trace_functions_of_known_spectra(spectrum, probes, key):
    """Within four standard errors; within 2 % where the function hardly varies."""
    eigenvalues = SPECTRA[spectrum]
    result = measure(Matrix(rotated(eigenvalues)), key, probes=probes)
    for name, f in FUNCTIONS.items():
        exact = np.sum(np.asarray(f(eigenvalues), np.float64))
        # Probes that are no vectors of the sphere's symmetry tell tr A only to their
        # own error: that of few large eigenvalues is large.
        within = 0.02 if name in ("decay", "exponential") else 0.3
        check(result.trace(f), exact, within)
        mean = result.expectation(f)
        np.testing.assert_allclose(mean.mean * 80, result.trace(f).mean, rtol=1e-6)
        assert mean.num_samples == 64


@pytest.mark.parametrize("eigenvalues", [[3.0], [-2.0, -2.0, -2.0]])
def test_few_dimensions_and_many_steps_are_exact(eigenvalues, key):
    matrix = rotated(np.array(eigenvalues))
    result = measure(Matrix(matrix), key, 4, 9)
    assert result.nodes.shape == (4, len(eigenvalues))
    check(result.trace(jnp.exp), np.exp(eigenvalues).sum(), relative=1)
    if len(set(eigenvalues)) == 1:
        np.testing.assert_allclose(
            result.trace(jnp.exp).mean, np.exp(eigenvalues).sum(), rtol=1e-5
        )


def test_the_standard_error_is_the_scatter_over_keys():
    """Rademacher: Var vᵀAv = 2 Σ_{i≠j} A_ij², over the number of probes."""
    matrix = rotated(SPECTRA["indefinite"])
    keys = jax.random.split(jax.random.key(7), 20)
    many = jax.jit(jax.vmap(lambda key: trace(Matrix(matrix), key, 100)))(keys)
    off = np.asarray(matrix) - np.diag(np.diag(matrix))
    expected = np.sqrt(2 * np.sum(off**2) / 100)
    np.testing.assert_allclose(np.mean(many.stderr), expected, rtol=0.1)
    exact = SPECTRA["indefinite"].sum()
    assert np.max(np.abs(many.mean - exact)) < 4 * expected
    np.testing.assert_allclose(np.std(many.mean), expected, rtol=0.5)


def test_a_sketch_makes_a_steep_trace_nearly_exact(key):
    eigenvalues = SPECTRA["powers"] ** 2
    matrix = Matrix(rotated(eigenvalues))
    plain = jax.jit(lambda m, k: trace(m, k, 10, probes="normal"))(matrix, key)
    better = jax.jit(lambda m, k: trace(m, k, 10, sketch_size=20))(matrix, key)
    check(plain, eigenvalues.sum(), 1.0)
    check(better, eigenvalues.sum(), 0.01)
    assert better.stderr < plain.stderr / 10


def test_a_sketch_of_a_low_rank_operator_is_exact(key):
    matrix = Matrix(rotated(np.r_[np.zeros(9), 2.0, 5.0]))
    result = jax.jit(lambda m: trace(m, key, 2, sketch_size=30, parallel_probes=2))(
        matrix
    )
    np.testing.assert_allclose(result.mean, 7, rtol=1e-5)
    np.testing.assert_allclose(result.stderr, 0, atol=1e-4)


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
@pytest.mark.slow
def test_the_spectrum_of_a_small_network(kind, key):
    params, data = trained(), digits()
    if kind == "hessian":
        operator = hessian_vector_product(loss, params, *data, batch_size=64)
        dense = flat_hessian(lambda params: loss(params, *data), params)
    else:
        operator = gauss_newton_vector_product(
            logits, cross_entropy, params, *data, batch_size=64
        )
        outputs = logits(params, data[0])

        def linearised(moved):
            change = jax.tree.map(jnp.subtract, moved, params)
            shift = jax.jvp(lambda p: logits(p, data[0]), (params,), (change,))[1]
            return cross_entropy(outputs + shift, data[1])

        dense = flat_hessian(linearised, params)
    exact = np.linalg.eigvalsh(dense)
    result = measure(operator, key)
    negative = np.sum(exact < -1e-3)
    assert negative > 0 if kind == "hessian" else negative == 0
    # tr H^2 of the Gauss-Newton matrix is its largest few eigenvalues': to 30 %.
    check(result.trace(jnp.square), np.sum(exact**2), 0.3)
    check(result.trace(lambda x: 1 / (1 + jnp.abs(x))), np.sum(1 / (1 + abs(exact))))
    np.testing.assert_allclose(result.nodes.max(), exact.max(), rtol=1e-4)
    np.testing.assert_allclose(result.nodes.min(), exact.min(), atol=1e-4)
    pairs = top(operator, key, 3)
    np.testing.assert_allclose(pairs.values, exact[::-1][:3], rtol=1e-4)
    assert np.all(pairs.residuals < 1e-3)
    assert jax.tree.structure(pairs.vectors) == jax.tree.structure(params)
    assert pairs.vectors["first"]["kernel"].shape == (3, 16, 4)


def test_representative_eigenvalues_are_the_quantiles(key):
    eigenvalues = SPECTRA["repeated"]
    result = measure(Matrix(rotated(eigenvalues)), key)
    guess = result.representative_eigenvalues(80)
    # 40, 30 and 10 of them, up to what 64 probes do not know.
    assert np.all(np.diff(guess) <= 1e-4)
    for value, count in ((0.5, 40), (2.0, 30), (7.0, 10)):
        assert abs(np.sum(np.abs(guess - value) < 1e-3) - count) <= 3


def test_a_density_integrates_to_one_and_sees_its_bumps(key):
    result = measure(Matrix(rotated(SPECTRA["repeated"])), key)
    grid = jnp.linspace(-2, 10, 400)
    density = result.density(grid, 0.2)
    assert density.mean.shape == density.stderr.shape == (400,)
    np.testing.assert_allclose(np.trapezoid(density.mean, grid), 1, rtol=1e-4)
    top = result.density(jnp.array([0.5, 2.0, 7.0]), 0.2)
    peaks = np.array([0.5, 0.375, 0.125]) / (0.2 * np.sqrt(2 * np.pi))
    assert np.all(np.abs(top.mean - peaks) < 4 * top.stderr + 1e-3)


def test_shortened_is_what_fewer_steps_give(key):
    matrix = Matrix(rotated(SPECTRA["powers"]))
    short, long = measure(matrix, key, num_steps=5), measure(matrix, key)
    np.testing.assert_allclose(long.shortened(5).nodes, short.nodes, atol=1e-5)
    np.testing.assert_allclose(long.shortened(5).weights, short.weights, atol=1e-5)
    np.testing.assert_array_equal(long.shortened(30).nodes, long.nodes)
    assert long.shortened(1).nodes.shape == (64, 1)


def test_keys_trees_and_chunks_do_not_matter(key):
    """The same key gives the same result; more probes continue fewer."""
    matrix = Matrix(rotated(SPECTRA["powers"]))
    first, again = measure(matrix, key, num_steps=5), measure(matrix, key, num_steps=5)
    np.testing.assert_array_equal(first.nodes, again.nodes)
    few = jax.jit(lambda m: spectral_density(m, key, 5, 5, parallel_probes=2))(matrix)
    np.testing.assert_allclose(few.nodes, first.nodes[:5], atol=1e-5)
    other = measure(matrix, jax.random.key(1), num_steps=5)
    assert np.abs(other.nodes - first.nodes).max() > 1e-3

    params, data = trained(), digits()
    flat = {f"{a}.{b}": x for a, tree in params.items() for b, x in tree.items()}

    def of_flat(flat, images, labels):
        tree = {"first": {}, "head": {}}
        for name, leaf in flat.items():
            layer, part = name.split(".")
            tree[layer][part] = leaf
        return loss(tree, images, labels)

    run = jax.jit(lambda operator: trace(operator, key, 2))
    nested_trace = run(hessian_vector_product(loss, params, *data))
    flat_trace = run(hessian_vector_product(of_flat, flat, *data))
    np.testing.assert_allclose(flat_trace.mean, nested_trace.mean, rtol=1e-4)


def test_one_program_for_all_experts(key):
    """Jitted once for other parameters and data; mapped over stacked experts."""
    quartic = lambda params, x: jnp.mean((x @ params["w"] + params["b"]) ** 4)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(12, 4)), jnp.float32)
    experts = {"w": jnp.array([[1.0, 2, 3, 4], [0, 1, 0, 1]]), "b": jnp.ones(2)}
    traces = []

    @jax.jit
    def spectrum(params, x):
        traces.append(1)
        operator = hessian_vector_product(quartic, params, x, batch_size=5)
        return spectral_density(operator, key, 2, 3)

    alone = [spectrum(jax.tree.map(lambda x, i=i: x[i], experts), x) for i in range(2)]
    assert len(traces) == 1
    together = jax.jit(jax.vmap(spectrum, in_axes=(0, None)))(experts, x)
    for i in range(2):
        np.testing.assert_allclose(together.nodes[i], alone[i].nodes, rtol=1e-3)


def test_sharded_parameters_give_the_same_spectrum(key):
    """On a mesh whose axes the compiler propagates (`AxisType.Auto`)."""
    quartic = lambda params, x: jnp.mean((x @ params) ** 4)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(12, 16)), jnp.float32)
    run = jax.jit(
        lambda params: spectral_density(
            hessian_vector_product(quartic, params, x, batch_size=5), key, 2, 3
        )
    )
    params = jnp.ones(16)
    mesh = jax.make_mesh((8,), ("shard",), axis_types=(AxisType.Auto,))
    split = jax.device_put(params, NamedSharding(mesh, PartitionSpec("shard")))
    np.testing.assert_allclose(run(split).nodes, run(params).nodes, rtol=1e-4)


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
def test_eigenpairs_in_the_order_asked_for(which, key):
    eigenvalues = np.r_[np.linspace(-1, 1, 34), -9.0, -6.0, 5.0, 8.0]
    matrix = rotated(eigenvalues)
    pairs = top(Matrix(matrix), key, 3, which=which)
    expected = {
        "largest": [8, 5, 1],
        "smallest": [-9, -6, -1],
        "magnitude": [-9, 8, -6],
    }[which]
    np.testing.assert_allclose(pairs.values, expected, atol=2e-2)
    np.testing.assert_allclose(pairs.values[:2], expected[:2], atol=1e-5)
    images = pairs.vectors @ matrix
    errors = jnp.linalg.norm(images - pairs.values[:, None] * pairs.vectors, axis=1)
    np.testing.assert_allclose(pairs.residuals, errors, atol=2e-5)
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(3), atol=1e-5)


def test_repeated_eigenvalues_need_a_block_or_all_steps(key):
    eigenvalues = np.r_[4.0, 4.0, np.linspace(0, 1, 38)]
    matrix = Matrix(rotated(eigenvalues))
    two = top(matrix, key, 3, num_steps=30, block_size=2)
    np.testing.assert_allclose(two.values[:2], [4, 4], rtol=1e-5)
    whole = top(matrix, key, 3, num_steps=99)
    np.testing.assert_allclose(whole.values, [4, 4, 1], rtol=1e-5)


@pytest.mark.parametrize("eigenvalues", [[0.0] * 3, [3.0, 3.0, 0.0]])
def test_eigenpairs_of_small_and_degenerate_operators_are_all_there(eigenvalues, key):
    matrix = Matrix(rotated(np.array(eigenvalues)))
    pairs = top(matrix, key, len(eigenvalues))
    np.testing.assert_allclose(pairs.values, eigenvalues, atol=1e-5)
    assert np.all(pairs.residuals < 1e-5)


def test_errors(key):
    matrix = Matrix(jnp.eye(3))
    with pytest.raises(ValueError, match="probes is 'cauchy'"):
        spectral_density(matrix, key, 2, 2, probes="cauchy")
    with pytest.raises(ValueError, match="num_probes is 0"):
        spectral_density(matrix, key, 0, 2)
    with pytest.raises(ValueError, match="num_steps is 0"):
        spectral_density(matrix, key, 2, 0)
    with pytest.raises(TypeError, match="key"):
        spectral_density(matrix, jax.random.PRNGKey(0), 2, 2)
    one = spectral_density(matrix, key, 1, 2)
    with pytest.raises(ValueError, match="at least two"):
        one.expectation(jnp.square)
    with pytest.raises(ValueError, match="elementwise"):
        one.expectation(jnp.sum)
    with pytest.raises(ValueError, match="expected 1 to 2"):
        one.shortened(3)
    with pytest.raises(ValueError, match="num is 0"):
        one.representative_eigenvalues(0)
    with pytest.raises(ValueError, match="num_probes is 1"):
        trace(matrix, key, 1)
    with pytest.raises(ValueError, match="sketch_size is -1"):
        trace(matrix, key, 2, sketch_size=-1)
    with pytest.raises(ValueError, match="num_pairs is 4"):
        top_eigenpairs(matrix, key, 4)
    with pytest.raises(ValueError, match="num_steps is 1"):
        top_eigenpairs(matrix, key, 2, num_steps=1)
    with pytest.raises(ValueError, match="which is 'top'"):
        top_eigenpairs(matrix, key, 1, which="top")
    with pytest.raises(ValueError, match="block_size is 9"):
        top_eigenpairs(matrix, key, 1, block_size=9)

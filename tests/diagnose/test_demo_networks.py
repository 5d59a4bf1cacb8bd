"""Curvature and thresholds of networks as the demo trains them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.more_experts.config import PRESETS
from experiments.more_experts.tasks import draw_samples
from experiments.more_experts.train import make_architecture, train_or_load
from jaxmerge import checkpoint, curvature
from jaxmerge.diagnose import saturation


@pytest.mark.slow
def test_experts_of_the_demo_have_cones_and_thresholds(tmp_path):
    config = PRESETS["smoke"]
    architecture = make_architecture(config)
    trained = train_or_load(config, tmp_path, lambda stage: None)
    experts = trained.experts[:2]
    samples = draw_samples(config.seed, "validation", 1, num_tasks=2)

    def loss_of(task):
        def loss(params):
            logits = architecture.logits(params, samples.inputs[task][:128])
            labels = samples.labels[task][:128]
            return jnp.mean(
                optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            )

        return loss

    losses = [loss_of(task) for task in range(2)]
    options = {"key": jax.random.key(0), "num_samples": 64, "eta": 0.05}
    found = saturation(
        trained.base, experts, loss=losses, epsilon=0.1, negative="flat", **options
    )
    dimensions = np.asarray(found.statistical_dimensions.mean)
    # Most directions are flat for a network, and some are not.
    assert np.all((dimensions > found.parameters / 2) & (dimensions < found.parameters))
    lost = found.parameters - dimensions
    capacity = found.thresholds["intersection_capacity"]
    assert math.isinf(float(capacity.value)) == (lost.sum() <= found.parameters)
    expected = found.parameters - dimensions.mean()
    np.testing.assert_allclose(
        float(found.thresholds["random_direction"].value), expected, rtol=1e-3
    )

    params = jax.tree.map(jnp.asarray, checkpoint.load(experts[0]))
    hessian = curvature.hessian_vector_product(losses[0], params)
    spectrum = curvature.spectral_density(hessian, jax.random.key(1), 2, 30)
    top = curvature.top_eigenpairs(hessian, jax.random.key(2), 1)
    assert float(top.residuals[0]) < 1e-2 * float(top.values[0])
    np.testing.assert_allclose(
        float(jnp.max(spectrum.nodes)), float(top.values[0]), rtol=1e-2
    )

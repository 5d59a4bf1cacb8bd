"""What docs/curvature.md shows runs."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp

PAGE = (Path(__file__).parents[2] / "docs" / "curvature.md").read_text()


def test_the_example_runs_and_maps_over_experts(quick_compilation, capsys):
    scope: dict = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0], scope)
    cone = scope["cone"]
    assert 0 < cone.dimension.mean < 54
    assert len(capsys.readouterr().out.split()) == 3
    experts = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), scope["params"])
    cones = jax.jit(jax.vmap(scope["cone_of"], in_axes=(0, None, None)))(
        experts, 0.01, 2.0
    )
    assert cones.dimension.mean.shape == (2,)
    assert abs(cones.dimension.mean[0] - cone.dimension.mean) < 0.01

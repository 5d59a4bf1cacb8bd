"""What the README shows runs."""

import re
from pathlib import Path

import jax.numpy as jnp

from jaxmerge.checkpoint.recipe_yaml import parse_recipe

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_library_example_runs():
    scope: dict = {}
    exec(blocks("python")[0], scope)
    assert scope["merged"]["w"].shape == (64, 64)
    assert scope["swept"]["w"].shape == (5, 64, 64)
    assert jnp.isfinite(scope["gradient"]).all()


def test_the_yaml_example_is_a_recipe():
    recipe = parse_recipe(blocks("yaml")[0])
    assert recipe.base is not None
    assert len(recipe.experts) == 2


def test_the_saturation_example_runs():
    scope: dict = {}
    exec(blocks("python")[0] + blocks("python")[2], scope)
    assert scope["found"].whole.width.mean.shape == (3,)
    assert "gram_capacity" in scope["found"].missing

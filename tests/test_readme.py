"""What the README shows runs."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp

import jaxmerge
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


def test_the_law_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = {"w": jnp.zeros(4)}
    rows = jax.random.normal(jax.random.key(0), (9, 4)) + 1
    scope = {
        "jax": jax,
        "base": base,
        "experts": [{"w": row} for row in rows],
        "merger": jaxmerge.average(),
        "loss": lambda params: 1 + jnp.sum((params["w"] - 1) ** 2),
    }
    exec(blocks("python")[3], scope)
    assert len(scope["table"]) == 511
    assert (tmp_path / "losses.csv").exists()
    # The loss is quadratic, so the forecast is the measured curve.
    forecast = scope["laws"].forecast_curve(scope["expansion"])
    measured = scope["table"].points().mean
    assert abs(forecast.mean - measured).max() < 1e-5

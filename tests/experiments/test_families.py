"""Families by name, and the ResNet's kernels as matrices."""

import dataclasses
import importlib

import numpy as np
import pytest

from experiments.common.families import FAMILIES, KERNELS, make_family
from experiments.common.merging import Scorer, merged_model
from experiments.common.methods import select
from experiments.toy import digits
from experiments.toy.presets import PRESETS
from experiments.toy.training import Schedule

pytestmark = pytest.mark.usefixtures("quick_compilation")

QUESTIONS = (
    "saturation",
    "heavy_tails",
    "scaling",
    "thresholds",
    "mechanisms",
    "default",
)


@pytest.mark.parametrize("preset", ["smoke", "cpu", "gpu"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_every_preset_asks_families_that_there_are(question, preset):
    module = importlib.import_module(f"experiments.{question}.config")
    config = module.PRESETS[preset]
    asked = {name for name, _ in config.families}
    asked |= {getattr(config, "population", None)} - {None}
    assert asked <= FAMILIES.keys()
    trained = {name for name in asked if not name.startswith("regression")}
    assert all(name.endswith("_gpu") == (preset == "gpu") for name in trained)


def test_an_unknown_family_is_named(tmp_path):
    with pytest.raises(ValueError, match="no family 'gpt'; there are regression_small"):
        make_family("gpt", 0, tmp_path)


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    """A small ResNet's pool, as families make it."""
    small = PRESETS["smoke"]["mlp"]
    assert isinstance(small, digits.DigitsConfig)
    config = dataclasses.replace(
        small,
        network="resnet",
        width=4,
        num_tasks=2,
        base=Schedule(20, 32, 5e-3),
        expert=Schedule(20, 32, 3e-3),
        required_gain=-100.0,
    )
    made = digits.make_pool(config, tmp_path_factory.mktemp("resnet"))
    return dataclasses.replace(made, matrices=KERNELS).thinned(16)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["average", "isotropic", "regmean"])
def test_convolutions_are_matrices_to_methods(residual, name):
    """Of one expert alone each makes the expert itself, but for its spectra."""
    (method,) = select([name])
    scorer = Scorer(residual)
    merged = merged_model(scorer, method, [0], seed=0)
    kernel = lambda params: params["stage1_block0"]["first"]["kernel"]
    if method.informed:
        assert scorer.grams[0]["stage1_block0.first.kernel"].shape == (36, 36)
    same = np.allclose(kernel(merged), kernel(residual.expert(0)), atol=1e-5)
    assert same == (name != "isotropic")

"""What recipes may say, what they mean for each tensor, and how they are refused."""

import textwrap
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxmerge.checkpoint import Source, TensorInfo
from jaxmerge.checkpoint.errors import RecipeError
from jaxmerge.checkpoint.recipe_settings import Depths, Rule, Setting
from jaxmerge.checkpoint.recipe_yaml import load_recipe, parse_recipe
from jaxmerge.combine import (
    ActiveMean,
    AmplifiedActiveMean,
    EnergyWeightedElection,
    SignElectedMean,
    VaryingEntries,
    WeightedSum,
    WudiDescent,
)

LAYERS = 4
NAMES = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"] + [
    f"model.layers.{i}.{part}.weight"
    for i in range(LAYERS)
    for part in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm")
]


class Headers(Source):
    """A checkpoint of which only the headers may be looked at."""

    def __init__(self, names=NAMES, kind="huggingface", config=None):
        self.path, self.kind, self.config = Path("model"), kind, config
        self.infos = {n: TensorInfo(n, (2, 2), np.dtype(np.float32)) for n in names}
        self.metadata, self.aliases, self.sidecars, self.notes = {}, {}, [], []

    def read_range(self, name, start, stop, out=None):
        raise AssertionError(f"{name} was read")

    def identity(self, checksums=False):
        return {}


def resolve(text, **kwargs):
    recipe = parse_recipe(textwrap.dedent(text))
    base = None if recipe.base is None else Headers(**kwargs)
    return recipe.resolve(base, [Headers(**kwargs) for _ in recipe.experts])


def ties(model_a="weight: 1", parameters="density: 0.5", extra=""):
    return f"""
merge_method: ties
base_model: base
models:
  - model: a
    parameters: {{{model_a}}}
  - model: b
    parameters: {{weight: 1}}
parameters: {{{parameters}}}
{extra}
"""


# --- values by tensor, computed by hand ----------------------------------------------

LAYER = "model.layers.{}.{}.weight"
MLP, ATTENTION = "mlp.up_proj", "self_attn.q_proj"


@pytest.mark.parametrize(
    ("setting", "name", "expected"),
    [
        ("0.25", "lm_head.weight", 0.25),
        ("true", "lm_head.weight", 1.0),
        ("1e-3", "lm_head.weight", 1e-3),
        # A gradient: t = layer / 3, and 0 outside of the layers.
        ("[0, 1]", LAYER.format(0, MLP), 0.0),
        ("[0, 1]", LAYER.format(1, MLP), 1 / 3),
        ("[0, 1]", LAYER.format(3, MLP), 1.0),
        ("[0.5, 1]", "model.embed_tokens.weight", 0.5),
        ("[0.5, 1]", "model.norm.weight", 0.5),
        ("[0.5, 1]", "lm_head.weight", 0.5),
        # Three values: layer 1 is at 2/3 of the way from the first to the second.
        ("[0, 0.3, 0.9]", LAYER.format(1, MLP), 0.2),
        ("[0, 0.3, 0.9]", LAYER.format(2, MLP), 0.5),
        ("[0.7]", LAYER.format(2, MLP), 0.7),
        # Filters: the first that fits, by substring.
        ("[{filter: mlp, value: 0.1}, {value: 0.2}]", LAYER.format(0, MLP), 0.1),
        ("[{filter: mlp, value: 0.1}, {value: 0.2}]", LAYER.format(0, ATTENTION), 0.2),
        ("[{filter: '*', value: 0.1}, {value: 0.2}]", LAYER.format(0, MLP), 0.1),
        ("[{filter: null, value: 0.1}]", LAYER.format(0, MLP), 0.1),
        ("[{filter: layers.1, value: 0.1}, {value: 0.2}]", LAYER.format(1, MLP), 0.1),
        ("{filter: mlp, value: [0, 0.6]}", LAYER.format(2, MLP), 0.4),
        # No filter fits: the next place is asked, which says 0.5.
        ("{filter: mlp, value: 0.1}", "lm_head.weight", 0.5),
        ("[{filter: q_proj, value: 0.1}]", LAYER.format(0, MLP), 0.5),
    ],
)
def test_a_parameter_for_a_tensor(setting, name, expected):
    values = resolve(ties(f"weight: 1, density: {setting}")).at(name)["density"]
    assert values == pytest.approx((expected, 0.5), abs=1e-15)


def test_a_model_is_asked_first_then_the_slice_then_the_recipe_then_the_default():
    text = """
    merge_method: ties
    base_model: base
    slices:
      - sources:
          - {model: base, layer_range: [0, 4]}
          - {model: a, layer_range: [0, 4], parameters: {weight: 1, density: 0.1}}
          - {model: b, layer_range: [0, 4], parameters: {weight: 2}}
        parameters:
          density: [{filter: mlp, value: 0.2}]
          lambda: 3
    parameters: {density: {filter: q_proj, value: 0.3}, lambda: 4}
    """
    resolved = resolve(text)
    assert resolved.at(LAYER.format(0, MLP))["density"] == (0.1, 0.2)
    assert resolved.at(LAYER.format(0, ATTENTION))["density"] == (0.1, 0.3)
    assert resolved.at("lm_head.weight")["density"] == (0.1, 1.0)
    assert resolved.at("lm_head.weight")["weight"] == (1.0, 2.0)
    assert resolved.values["lambda"] == 3.0
    assert "adds nothing" in resolved.notes[0]


def test_slerp_by_layer_and_filter():
    text = """
    merge_method: slerp
    base_model: a
    slices:
      - sources:
          - {model: a, layer_range: [0, 4]}
          - {model: b, layer_range: [0, 4]}
    parameters:
      t:
        - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
        - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
        - value: 0.5
    dtype: bfloat16
    """
    resolved = resolve(text)
    t = lambda name: resolved.at(name)["t"]
    # Layer 1 is at 4/3 of the five values: a third of the way from 0.5 to 0.3.
    assert t(LAYER.format(1, ATTENTION)) == pytest.approx(0.5 - 0.2 / 3)
    assert t(LAYER.format(1, MLP)) == pytest.approx(0.5 + 0.2 / 3)
    assert t(LAYER.format(3, MLP)) == 0
    assert t("lm_head.weight") == 0.5
    assert resolved.dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("names", "name", "position"),
    [
        (["h.0.w", "h.1.w", "h.2.w"], "h.2.w", 1.0),
        (["encoder.block.0.layer.1.w", "encoder.block.1.layer.0.w"], None, 0.0),
        (["a.layers.0.w", "a.layers.1.w", "b.layers.0.w"], "b.layers.0.w", 1.0),
        (["model.layers.0.experts.7.w", "model.layers.4.experts.3.w"], None, 0.0),
        (["x.double_blocks.0.w", "x.double_blocks.3.w", "x.w"], "x.w", 0.0),
        (["embeddings.layer_norm.weight"], None, 0.0),
    ],
)
def test_depth_is_by_the_outermost_stack(names, name, position):
    assert Depths.of(names).position(name or names[0]) == position


def test_layers_beyond_those_of_the_config_count_as_the_last():
    names = [f"model.layers.{i}.w" for i in range(5)]
    depths = Depths.of(names, num_layers=4)
    assert [depths.position(n) for n in names] == [0.0, 1 / 3, 2 / 3, 1.0, 1.0]
    config = {"text_config": {"num_hidden_layers": 4}}
    resolved = resolve(ties("weight: [0, 3]"), names=names, config=config)
    assert resolved.at(names[4])["weight"] == (3.0, 1.0)


def test_plain_numbers_stay_plain():
    merger = resolve(ties()).merger
    assert merger.weights == (1.0, 1.0)
    assert merger.scale == 1.0
    assert merger.transforms[0].density == (0.5, 0.5)


def test_a_setting_says_whether_it_is_one_number():
    assert Setting((Rule(None, (0.5,)),)).constant == 0.5
    assert Setting((Rule("mlp", (0.5,)),)).constant is None
    assert Setting((Rule(None, (0.5, 1.0)),)).constant is None


# --- what methods become -------------------------------------------------------------


def one(method, parameters="weight: 1", top=""):
    return f"""
merge_method: {method}
base_model: base
models:
  - {{model: a, parameters: &p {{{parameters}}}}}
  - {{model: b, parameters: *p}}
{top}
"""


@pytest.mark.parametrize(
    ("text", "combine", "transforms"),
    [
        (one("ties", "weight: 1, density: 0.3"), SignElectedMean(), 1),
        (one("ties"), SignElectedMean(), 0),
        (
            one("ties", top="parameters: {normalize: false}"),
            SignElectedMean(divisor="none"),
            0,
        ),
        (one("task_arithmetic"), WeightedSum(), 0),
        (
            one("task_arithmetic", top="parameters: {normalize: true}"),
            WeightedSum(normalize=True),
            0,
        ),
        (one("dare_linear", "weight: 1, density: 0.3"), WeightedSum(), 1),
        (
            one("dare_ties", "weight: 1, density: 0.3"),
            SignElectedMean(divisor="none"),
            1,
        ),
        (one("magnitude_prune", "density: 0.3"), WeightedSum(), 1),
        (one("breadcrumbs", "weight: 1, density: 0.3"), WeightedSum(), 2),
        (
            one("breadcrumbs_ties", "weight: 1, density: 0.3"),
            SignElectedMean(divisor="none"),
            2,
        ),
        (one("della", "weight: 1, density: 0.3"), SignElectedMean(), 1),
        (one("della"), SignElectedMean(), 0),
        (one("della_linear", "weight: 1, density: 0.3"), WeightedSum(), 1),
    ],
)
def test_methods_by_mergekits_definitions(text, combine, transforms):
    merger = resolve(text).merger
    assert merger.combine == combine
    assert len(merger.transforms) == transforms


def test_rescaling_restores_the_l1_norm_by_mergekits_defaults():
    def rescale(method, flag=""):
        top = f"parameters: {{rescale: {flag}}}" if flag else ""
        return resolve(one(method, "weight: 1, density: 0.3", top)).merger.transforms

    assert rescale("ties")[0].rescale == "none"
    assert rescale("ties", "true")[0].rescale == "l1"
    assert rescale("dare_ties")[0].rescale == "l1"
    assert rescale("dare_linear", "false")[0].rescale == "none"
    assert rescale("ties")[0].at_least == 1
    assert [t.rescale for t in rescale("breadcrumbs")] == ["none", "none"]
    assert [t.rescale for t in rescale("breadcrumbs", "true")] == ["l1", "l1"]
    assert rescale("della_linear")[0].rescale == "l1"
    assert rescale("della", "false")[0].rescale == "none"


def test_parameters_of_sparsifiers_by_model_and_by_default():
    crumbs = resolve(one("breadcrumbs", "weight: 1, density: 0.3")).merger.transforms
    assert [(t.gamma, t.drops) for t in crumbs] == [
        ((0.01, 0.01), "smallest"),
        ((0.01, 0.01), "largest"),
    ]
    text = one("della", "weight: 1, density: 0.3", "parameters: {epsilon: 0.2}")
    assert resolve(text).merger.transforms[0].epsilon == (0.2, 0.2)
    text = one("della", "weight: 1, density: 0.3, epsilon: [0.1, 0.2]")
    merger = resolve(text).merger
    assert merger.transforms[0].epsilon.at("model.layers.3.w") == (0.2, 0.2)
    assert resolve(one("della", "weight: 1, density: 0.3")).values["epsilon"] == (
        0.15,
        0.15,
    )


def test_spheres_are_of_deltas_where_there_is_a_base_and_else_of_models():
    for method in ("nuslerp", "multislerp"):
        based = resolve(one(method))
        assert based.merger.combine.frame == "delta"
        assert based.merger.weights == (1.0, 1.0)
        alone = resolve(one(method).replace("base_model: base", ""))
        assert alone.merger.combine.frame == "absolute"
    by_row = "parameters: {nuslerp_flatten: false, nuslerp_row_wise: true}"
    combine = resolve(one("nuslerp", top=by_row)).merger.combine
    assert (combine.flatten, combine.row_wise) == (False, True)
    combine = resolve(one("multislerp", top="parameters: {eps: 1e-6}")).merger.combine
    assert (combine.normalize_weights, combine.eps) == (True, 1e-6)


def test_karcher_averages_a_base_that_is_named_like_any_model():
    listed = "models: [{model: a}, {model: b}]"
    assert roles("merge_method: karcher\n" + listed) == ("None", ["a", "b"])
    text = "merge_method: karcher\nbase_model: base\n" + listed
    assert roles(text) == ("None", ["base", "a", "b"])
    text = "merge_method: karcher\nbase_model: b\n" + listed
    assert roles(text) == ("None", ["b", "a"])
    combine = resolve(text + "\nparameters: {max_iter: 3, tol: 1e-3}").merger.combine
    assert (combine.max_iter, combine.tol) == (3, 1e-3)


def test_methods_of_deltas_with_other_parameters():
    deltas = "base_model: base\nmodels: [{model: a}, {model: b}]\n"
    passes = lambda m, p="": (
        resolve(f"merge_method: {m}\n{deltas}parameters: {{{p}}}").merger.combine
    )
    assert passes("sce") == EnergyWeightedElection("mergekit")
    assert passes("sce", "select_topk: 0.3") == (
        VaryingEntries(0.3, "mergekit"),
        EnergyWeightedElection("mergekit"),
    )
    assert passes("ram", "epsilon: 1e-3") == ActiveMean(1e-3)
    assert passes("ramplus_tl", "r: 0.3") == AmplifiedActiveMean(1e-5, r=0.3, limit=0.2)


OWN = {
    "average": "",
    "consensus": "min_tasks: 1",
    "magnitude_prune": "",
    "magmax": "",
    "isotropic": "lambda: 1.3",
    "iso_cts": "common: 0.5",
    "tsv_m": "",
    "dc_merge": "density: 0.1",
    "wudi": "steps: 10, learning_rate: 1e-4",
    "swudi": "time: 100, share: 0.5",
    "subspace_boosting": "share: 0.02",
    "rht": "",
}


@pytest.mark.parametrize("method", OWN)
def test_own_methods_are_reached(method):
    base = "" if method == "average" else "base_model: base"
    text = f"merge_method: {method}\n{base}\nmodels: [{{model: a}}, {{model: b}}]"
    text += f"\nparameters: {{{OWN[method]}}}"
    assert resolve(text).merger.weights == (1.0, 1.0)


def test_numbers_of_own_methods_arrive():
    merger = resolve(one("wudi", top="parameters: {steps: 10, lambda: 0.2}")).merger
    assert merger.combine == WudiDescent(1e-5, 10)
    assert merger.scale == 0.2
    merger = resolve(one("ace", "", "parameters: {eps: 2e-4}")).merger
    assert (merger.combine.eps, merger.combine.k_frac) == (2e-4, 0.3)
    text = one("consensus", "threshold: 0.2", "parameters: {min_tasks: 1}")
    mask = resolve(text).merger.combine[1]
    assert (mask.threshold, mask.min_tasks) == ((0.2, 0.2), 1.0)


@pytest.mark.parametrize(
    ("dtype", "out_dtype", "expected"),
    [
        ("", "", None),
        ("dtype: float32", "", np.float32),
        ("dtype: torch.float16", "", np.float16),
        ("dtype: float32", "out_dtype: bfloat16", ml_dtypes.bfloat16),
    ],
)
def test_the_dtype_written(dtype, out_dtype, expected):
    resolved = resolve(ties(extra=f"{dtype}\n{out_dtype}"))
    assert resolved.dtype == (None if expected is None else np.dtype(expected))


# --- which models --------------------------------------------------------------------


def roles(text):
    recipe = parse_recipe(textwrap.dedent(text))
    return str(recipe.base), [str(m.reference) for m in recipe.experts]


def test_the_base_among_the_models_is_what_each_method_makes_of_it():
    weight = "parameters: {weight: 1}"
    listed = f"models: [{{model: a, {weight}}}, {{model: base, {weight}}}]"
    head = "base_model: base\n" + listed
    assert roles("merge_method: ties\n" + head) == ("base", ["a"])
    assert roles("merge_method: linear\n" + head) == ("None", ["base", "a"])
    t = "\nparameters: {t: 0.5}"
    assert roles("merge_method: slerp\n" + head + t) == ("None", ["base", "a"])
    alone = "merge_method: slerp\nbase_model: base\nmodels: [{model: a}]" + t
    assert roles(alone) == ("None", ["base", "a"])


def test_references_with_revisions_and_adapters():
    text = """
    merge_method: linear
    models:
      - {model: org/x@v1+lora@r2, parameters: {weight: 1}}
      - model: {model: {path: org/x, revision: v1}, lora: {path: other}}
        parameters: {weight: 1}
    """
    recipe = parse_recipe(textwrap.dedent(text))
    assert str(recipe.base) == "org/x@v1"
    assert [m.reference.source for m in recipe.experts] == ["lora@r2", "other"]


# --- refusals ------------------------------------------------------------------------

LINEAR = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "keys and values"),
        ("- a", "keys and values"),
        ("a: [", "not a YAML recipe"),
        ("a: 1\n---\nb: 2", "several documents"),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' is there twice .first in line 1"),
        ("models: []", "'merge_method' is missing"),
        ("merge_method: tise", "line 1: merge_method: 'tise' is no method.*'ties'"),
        (LINEAR + "paramters: {}", "line 3: paramters: .*not known.*'parameters'"),
        (LINEAR + "chat_template: auto", "chat_template: .*not supported"),
        (LINEAR + "modules: {}", "modules: .*not supported"),
        (LINEAR + "slices: []", "either 'models' or 'slices'"),
        ("merge_method: linear", "either 'models' or 'slices'"),
        (LINEAR + "parameters: {normalise: 1}", "line 3: .*did you mean 'normalize'"),
        (LINEAR + "dtype: float31", "dtype: 'float31'.*did you mean 'float32'"),
        (LINEAR + "dtype: int64", "not a dtype to write"),
        (LINEAR + "tokenizer_source: union", "'union' is not supported"),
        (LINEAR + "tokenizer: {source: base, tokens: {}}", "tokens: .*not supported"),
        (LINEAR + "base_model: z", "z is not in 'models'"),
        (LINEAR + "base_model: 7", "expected a text"),
        ("merge_method: linear\nmodels: []", "no models are listed"),
        ("merge_method: linear\nmodels: a", "expected a list"),
        ("merge_method: linear\nmodels: [a]", "expected keys and values"),
        ("merge_method: linear\nmodels: [{modle: a}]", "did you mean 'model'"),
        ("merge_method: linear\nmodels: [{parameters: {}}]", "'model' is missing"),
        ("merge_method: linear\nmodels: [{model: a+b+c}]", "MODEL.ADAPTER"),
        ("merge_method: linear\nmodels: [{model: a}, {model: a}]", "listed twice"),
        ("merge_method: ties\nmodels: [{model: a}]", "'base_model' is missing"),
        ("merge_method: ties\nbase_model: a\nmodels: [{model: a}]", "needs a model"),
        (
            "merge_method: model_stock\nbase_model: a\nmodels: [{model: b}]",
            "needs 2 models or more",
        ),
        (
            "merge_method: nearswap\nbase_model: a\nmodels: [{model: b}, {model: c}]",
            "nearswap merges one model besides the base_model, not 2",
        ),
        (
            "merge_method: arcee_fusion\nmodels: [{model: b}]",
            "'base_model' is missing; arcee_fusion needs it",
        ),
        (
            "merge_method: nuslerp\nmodels: [{model: b}]",
            "needs 2 models or more",
        ),
        (
            "merge_method: nuslerp\nmodels: [{model: a}, {model: b}, {model: c}]",
            "nuslerp merges 2 models besides the base_model, not 3",
        ),
        (
            "merge_method: slerp\nbase_model: a\nmodels: [{model: b}, {model: c}]",
            "the base_model and one other",
        ),
        (
            "merge_method: slerp\nbase_model: a\n"
            "models: [{model: b, parameters: {t: 0.5}}]",
            "one number for the whole merge",
        ),
        (
            "merge_method: ties\nbase_model: a\nmodels: [{model: b+lora}]",
            "an adapter on b",
        ),
        (
            "merge_method: ties\nbase_model: a+lora\nmodels: [{model: b}]",
            "merge it into a checkpoint first",
        ),
        (ties("densty: 1"), "line 6: .*densty: .*did you mean 'density'"),
        (ties("weight: heavy"), "expected a number"),
        (ties("weight: .nan"), "expected a finite number"),
        (ties("weight: [1, .inf]"), "finite"),
        (ties("weight: []"), "empty list"),
        (ties("weight: {filter: mlp}"), "expected a 'value'"),
        (ties("weight: {value: 1, fliter: mlp}"), "did you mean 'filter'"),
        (ties("weight: [1, {value: 1}]"), "expected keys and values"),
        (
            "merge_method: passthrough\nslices: []",
            "'passthrough' is a method of mergekit",
        ),
        (
            "merge_method: linear\nslices: [{sources: [{model: a}]}, {sources: []}]",
            "2 slices",
        ),
        (
            "merge_method: linear\nslices: [{sources: [{model: a, layer_range: 4}]}]",
            "expected .first, last",
        ),
    ],
)
def test_refused_as_written(text, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ties("density: 1"), "'weight' is not set for the model a, and"),
        (
            ties("weight: {filter: mlp, value: 1}"),
            "'weight' is not set for the model a and model.embed_tokens.weight",
        ),
        (ties("weight: 1, density: 53"), "'density' is 53; expected from 0 to 1"),
        (
            ties("weight: 1, density: [0.5, 2]"),
            "'density' is 1.5 for model.layers.2.self_attn.q_proj.weight",
        ),
        (
            ties(parameters="normalize: {filter: mlp, value: 0}"),
            "'normalize' differs between tensors",
        ),
        (
            "merge_method: slerp\nbase_model: a\nmodels: [{model: b}]",
            "'t' is not set, and has to be",
        ),
        (
            "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}},"
            " {model: b, parameters: {weight: [-2, -1]}}]",
            "for model.layers.3.self_attn.q_proj.weight are .* sum to zero",
        ),
        (one("task_arithmetic", "weight: 0", "parameters: {normalize: 1}"), "to zero"),
        (one("multislerp", "weight: 0"), "set normalize_weights: false"),
        (one("della", "weight: 1, epsilon: 0.7"), "'epsilon' is 0.7; expected from 0"),
        (
            one("multislerp", top="parameters: {eps: 0}"),
            "'eps' is 0; expected more than 0",
        ),
        (
            "merge_method: karcher\nmodels: [{model: a}, {model: b}]\n"
            "parameters: {max_iter: [3, 5]}",
            "'max_iter' differs between tensors",
        ),
        (
            "merge_method: linear\nslices: [{sources: "
            "[{model: a, layer_range: [0, 3], parameters: {weight: 1}}]}]",
            "is not all of its layers .it has 4",
        ),
    ],
)
def test_refused_for_these_models(text, message):
    with pytest.raises(RecipeError, match=message):
        resolve(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ties(parameters="int8_mask: true"), "'int8_mask' has no effect in ties"),
        (one("model_stock"), "'weight' has no effect in model_stock"),
        (ties("weight: {filter: mpl, value: 1}", "weight: 1"), "'mpl' of weight is in"),
        (ties(extra="dtype: bfloat16"), "arithmetic is in float32"),
        (ties(extra="tokenizer_source: base"), "tokenizer and embedding rows"),
        (one("ties", "weight: -1"), "takes the sign away"),
        (
            "merge_method: ties\nbase_model: b\n"
            "models: [{model: a, parameters: {weight: 0.5}}]",
            "its weight has no effect",
        ),
    ],
)
def test_notes(text, message):
    assert any(message in note for note in resolve(text).notes)


def test_silence_where_there_is_nothing_to_say():
    assert resolve(ties()).notes == ()


def test_anchors_and_merge_keys_are_followed():
    text = """
    merge_method: linear
    models:
      - model: a
        parameters: &p {weight: 2}
      - model: b
        parameters: {<<: *p}
    """
    assert resolve(text).merger.weights == (2.0, 2.0)


def test_a_file_is_named_in_its_errors(tmp_path):
    path = tmp_path / "r.yml"
    with pytest.raises(RecipeError, match=r"r\.yml cannot be read"):
        load_recipe(path)
    path.write_text("merge_method: tise")
    with pytest.raises(RecipeError, match=r"r\.yml: line 1"):
        load_recipe(path)
    path.write_text(LINEAR)
    assert load_recipe(path).text == LINEAR

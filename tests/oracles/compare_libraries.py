"""Comparisons with mergekit, PEFT, RHT's authors and merging-eval, and with no oracle.

mergekit's recipes are read from their YAML; the others are given as functions of what
was recorded of a case.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxmerge
from jaxmerge import merge_leaves
from jaxmerge.checkpoint.recipe_yaml import load_recipe
from jaxmerge.cli.merge import open_models
from jaxmerge.laws.designs import all_subsets
from tests import registry
from tests.oracles import fixtures
from tests.oracles.compare import (
    LIBRARY,
    OWN,
    PORT,
    Comparison,
    Pair,
    arrays,
    merge_given_draws,
    short,
)
from tests.oracles.fixtures import LoraCase, Tensors

# --- mergekit, a small Llama ---------------------------------------------------------


def mergekit(method: str, *names: str, kind: str = LIBRARY) -> Comparison:
    """Recorded recipes, read from their YAML and run in memory."""
    found = {case.name: case for case in fixtures.mergekit_cases()}
    cases = [found[name] for name in names]
    version = fixtures.recorded("mergekit")["versions"]["mergekit"]

    def pairs() -> Iterator[Pair]:
        for case in cases:
            yield from run_yaml(case)

    return Comparison(method, kind, f"mergekit {version}", ", ".join(names), pairs)


def run_yaml(case: fixtures.MergekitCase) -> Iterator[Pair]:
    recipe, models = load_recipe(case.recipe), fixtures.mergekit_models()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(case.root))
        merger = recipe.resolve(*open_models(recipe, None, stack)).merger
    experts = [model.reference.source for model in recipe.experts]
    base = None if recipe.base is None else recipe.base.source
    start = models[experts[0] if base is None else base]
    for name, expected in case.expected.items():
        # Tensor by tensor, so that it is known which draw is whose.
        at = lambda model, name=name: {name: models[model][name]}
        of = [case.masks[e, name] for e in experts if (e, name) in case.masks]
        start_of = None if base is None else at(base)
        merged = merge_given_draws(merger, start_of, [at(e) for e in experts], of)
        yield Pair(arrays(merged), {name: expected}, start)


# --- LoRA factors, by PEFT and by RHT's authors --------------------------------------

Lora = Callable[[LoraCase, np.ndarray], jaxmerge.Merger]


def lora(
    method: str, folder: str, function: str, make: Lora, *, kind: str = LIBRARY
) -> Comparison:
    """A function's recorded merges in float32 that vote by the sum."""
    about, cases = fixtures.recorded(folder), fixtures.lora_cases(folder, function)
    votes = lambda p: p.get("sign", p.get("majority_sign_method", "total"))
    cases = [
        case
        for case in cases
        if case.params["dtype"] == "float32" and votes(case.params) == "total"
    ]
    if "commit" in about:
        oracle = f"{about['repository']} {about['commit']}"
    else:
        oracle = f"{about['oracle']} {about['versions'][about['oracle']]}"

    def pairs() -> Iterator[Pair]:
        for case in cases:
            merger = make(case, np.asarray(case.params["weights"], np.float32))
            zeros = jnp.zeros(case.expected.shape)
            merged = merge_given_draws(merger, zeros, case.inputs, case.masks)
            yield Pair({case.name: np.asarray(merged)}, {case.name: case.expected})

    what = f"{function}: {len(cases)} merges of factors"
    return Comparison(method, kind, short(oracle), what, pairs)


# --- merging-eval, every set of four experts -----------------------------------------


def merging_eval(
    method: str, name: str, make: Callable[[dict, Tensors], jaxmerge.Merger]
) -> Comparison:
    """All sets by one program. The package is not by the authors of these methods."""
    path = fixtures.FIXTURES / "merging_eval" / "tensors.safetensors"
    about, tensors = fixtures.recorded("merging_eval"), fixtures.read_safetensors(path)
    base, num = fixtures.under(tensors, "base"), about["num_experts"]
    experts = [fixtures.under(tensors, f"expert/{t}") for t in range(num)]
    sets = all_subsets(num)

    def pairs() -> Iterator[Pair]:
        merger = make(about["cases"][name], base)
        run = jax.jit(jax.vmap(lambda m: merger(base, experts, members=m)))
        merged = run(sets.masks)
        for row, subset in enumerate(sets.names):
            expected = fixtures.under(tensors, f"{name}/{subset}")
            yield Pair(
                {k: np.asarray(x[row]) for k, x in merged.items()}, expected, base
            )

    oracle = f"merging-eval {about['versions']['merging-eval']}"
    return Comparison(method, PORT, oracle, f"{name}: {len(sets.names)} sets", pairs)


# --- the project's own references ----------------------------------------------------


def own(name: str) -> Comparison:
    """A method that nobody else's results are recorded of: NumPy, in float64."""

    def pairs() -> Iterator[Pair]:
        method = next(m for m in registry.METHODS if m.name == name)
        assert not method.random, f"{name} needs draws: compare it by hand"
        (case, *_) = fixtures.research_cases()
        deltas = case.deltas[: method.experts]
        merger, base = (
            method.make(),
            {k: np.zeros_like(x) for k, x in case.base.items()},
        )
        seen = registry.statistics_of(merger, base, deltas)
        merged: Any = merge_leaves(merger, base, deltas, statistics=seen)
        at = lambda k: method.reference(base[k], [d[k] for d in deltas])
        expected = (
            method.reference(base, deltas)
            if method.whole_model
            else {k: at(k) for k in base}
        )
        if isinstance(merged, jaxmerge.TaskModels):
            for t, each in enumerate(expected):
                yield Pair(arrays(merged.params(t)), each)
        else:
            yield Pair(arrays(merged), expected)

    return Comparison(name, OWN, "tests/reference", "the tensors of research", pairs)

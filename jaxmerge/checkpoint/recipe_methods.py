"""The methods that a recipe may name: mergekit's, and jaxmerge's own."""

import dataclasses
from collections.abc import Callable, Mapping

from jaxmerge import recipes
from jaxmerge.checkpoint.recipe_mergekit import MERGEKIT, addition, largest, mean
from jaxmerge.checkpoint.recipe_parameters import (
    ANY_WEIGHT,
    DENSITY,
    LAMBDA,
    Method,
    Parameter,
    Values,
    flag,
)
from jaxmerge.merger import Merger


def _consensus(values: Values) -> Merger:
    return recipes.consensus(
        threshold=values["threshold"],
        min_tasks=values["min_tasks"],
        scale=values["lambda"],
        weights=values["weight"],
    )


def _rht(values: Values) -> Merger:
    return recipes.rht(
        density=values["density"],
        weights=values["weight"],
        scale=values["lambda"],
        normalize_weights=bool(values["normalize"]),
        divide_by_count=bool(values["divide_by_count"]),
        norm_matched=bool(values["norm_matched"]),
        space="product",
    )


def _ace(values: Values) -> Merger:
    return recipes.ace(
        eps=values["eps"],
        tau=values["tau"],
        k_frac=values["k_frac"],
        scale=values["lambda"],
    )


def _boosted(values: Values) -> Merger:
    sums = recipes.task_arithmetic(scale=values["lambda"], weights=values["weight"])
    return recipes.subspace_boosting(sums, share=values["share"])


def _sum(
    recipe: Callable[..., Merger],
    scale: Parameter = LAMBDA,
    whole: tuple[str, ...] = (),
    **parameters: Parameter,
) -> Method:
    """A recipe of weighted deltas and a scale; `whole` are those that it counts in."""

    def build(values: Values) -> Merger:
        own = {
            name: int(values[name]) if name in whole else values[name]
            for name in parameters
        }
        return recipe(scale=values["lambda"], weights=values["weight"], **own)

    return Method({"weight": ANY_WEIGHT, **parameters, "lambda": scale}, build)


def _fixed(
    default: float, lowest: float, highest: float = float("inf"), above: bool = False
) -> Parameter:
    return Parameter(default, fixed=True, lowest=lowest, highest=highest, above=above)


OWN: Mapping[str, Method] = {
    "average": Method(
        {"weight": ANY_WEIGHT, "normalize": flag(True)},
        mean,
        models="means",
        normalized="normalize",
    ),
    "magnitude_prune": addition(
        largest, {"weight": ANY_WEIGHT, "density": DENSITY}, elect=False
    ),
    "consensus": Method(
        {
            "weight": ANY_WEIGHT,
            "threshold": Parameter(0.4, per_model=True, lowest=0.0),
            "min_tasks": Parameter(2.0, lowest=0.0),
            "lambda": Parameter(0.3),
        },
        _consensus,
    ),
    "magmax": _sum(recipes.magmax, Parameter(0.5)),
    "isotropic": _sum(recipes.isotropic),
    "iso_cts": _sum(recipes.iso_cts, common=_fixed(0.8, 0.0, 1.0, above=True)),
    "tsv_m": _sum(recipes.tsv_m),
    "dc_merge": _sum(recipes.dc_merge, density=_fixed(1e-3, 0.0, 1.0, above=True)),
    "wudi": _sum(
        recipes.wudi,
        whole=("steps",),
        learning_rate=_fixed(1e-5, 0.0, above=True),
        steps=_fixed(300.0, 1.0),
    ),
    "swudi": _sum(
        recipes.swudi,
        time=_fixed(300.0, 0.0, above=True),
        share=_fixed(0.65, 0.0, 1.0, above=True),
    ),
    "ace": Method(
        {
            "eps": Parameter(1e-5, lowest=0.0, above=True),
            "tau": Parameter(0.3, lowest=0.0),
            "k_frac": _fixed(0.3, 0.0, 1.0),
            "lambda": LAMBDA,
        },
        _ace,
    ),
    "subspace_boosting": Method(
        {
            "weight": ANY_WEIGHT,
            "share": _fixed(0.01, 0.0, 1.0),
            "lambda": Parameter(0.3),
        },
        _boosted,
    ),
    "rht": Method(
        {
            "weight": ANY_WEIGHT,
            "density": dataclasses.replace(DENSITY, default=0.7, above=True),
            "lambda": LAMBDA,
            "normalize": flag(True),
            "divide_by_count": flag(True),
            "norm_matched": flag(False),
        },
        _rht,
        normalized="normalize",
    ),
}

METHODS: Mapping[str, Method] = {**MERGEKIT, **OWN}

# Methods of mergekit that are not here, to tell them from misspelt ones.
MISSING = ("passthrough",)

# Parameters of mergekit that change nothing in a method that does not have them, as
# there; other unknown names are refused.
WITHOUT_EFFECT = (
    "int8_mask",
    "weight",
    "density",
    "gamma",
    "epsilon",
    "normalize",
    "rescale",
    "lambda",
    "t",
    "filter_wise",
    "scale",
    "select_topk",
    "max_iter",
    "tol",
    "normalize_weights",
    "eps",
    "nuslerp_flatten",
    "nuslerp_row_wise",
    "r",
    "alpha",
)

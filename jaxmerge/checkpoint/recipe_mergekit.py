"""mergekit's methods: its names, parameters and defaults, and the mergers they mean.

The arithmetic is mergekit's too (`compat="mergekit"` throughout: weights enter before
the sign election, rescaling restores the l1 norm).
"""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from jaxmerge import recipes
from jaxmerge.checkpoint.recipe_parameters import (
    DENSITY,
    LAMBDA,
    WEIGHT,
    Method,
    Parameter,
    Values,
    flag,
)
from jaxmerge.combine import SignElectedMean, WeightedSum
from jaxmerge.merger import Merger
from jaxmerge.transforms import DropByRank, DropRandom, KeepLargest, breadcrumbs

# From the values and how to rescale to transforms.
_Sparsifier = Callable[[Values, str], tuple[Any, ...]]


def largest(values: Values, rescale: str) -> tuple[Any, ...]:
    """The largest entries, at least one."""
    return (KeepLargest(values["density"], rescale=rescale, at_least=1),)


def _random(values: Values, rescale: str) -> tuple[Any, ...]:
    return (DropRandom(values["density"], rescale=rescale),)


def _by_rank(values: Values, rescale: str) -> tuple[Any, ...]:
    return (DropByRank(values["density"], values["epsilon"], rescale=rescale),)


def _crumbs(values: Values, rescale: str) -> tuple[Any, ...]:
    return breadcrumbs(values["density"], values["gamma"], rescale=rescale)


def _all_ones(density: Any) -> bool:
    values = density if isinstance(density, tuple) else (density,)
    return all(isinstance(v, float) and v >= 1 for v in values)


def _deltas(sparsifier: _Sparsifier | None, elect: bool, values: Values) -> Merger:
    """Task arithmetic as mergekit generalises it: sparsify, elect, add, normalise."""
    normalize = bool(values["normalize"])
    transforms = ()
    if sparsifier is not None and not _all_ones(values["density"]):
        transforms = sparsifier(values, "l1" if values.get("rescale") else "none")
    election = SignElectedMean("weighted", "weight" if normalize else "none")
    return Merger(
        transforms=transforms,
        combine=election if elect else WeightedSum(normalize=normalize),
        weights=values["weight"],
        # Given even if it is 1, so that all share their compiled programs.
        scale=values["lambda"],
    )


def addition(
    sparsifier: _Sparsifier | None,
    parameters: Mapping[str, Parameter] = MappingProxyType({}),
    *,
    elect: bool,
    normalize: bool = False,
) -> Method:
    """A method that adds task vectors, with further parameters."""
    return Method(
        {
            "weight": WEIGHT,
            "normalize": flag(normalize),
            "lambda": LAMBDA,
            **parameters,
        },
        functools.partial(_deltas, sparsifier, elect),
        random=sparsifier in (_random, _by_rank),
        elects=elect,
        normalized="normalize",
    )


def mean(values: Values) -> Merger:
    """The mean of the models themselves."""
    return recipes.average(
        weights=values["weight"], normalize=bool(values["normalize"])
    )


def _slerp(values: Values) -> Merger:
    return recipes.slerp(t=values["t"])


def _nuslerp(values: Values) -> Merger:
    return recipes.nuslerp(
        weights=values["weight"],
        flatten=bool(values["nuslerp_flatten"]),
        row_wise=bool(values["nuslerp_row_wise"]),
    )


def _multislerp(values: Values) -> Merger:
    return recipes.multislerp(
        weights=values["weight"],
        normalize_weights=bool(values["normalize_weights"]),
        eps=values["eps"],
    )


def _karcher(values: Values) -> Merger:
    return recipes.karcher(max_iter=int(values["max_iter"]), tol=values["tol"])


def _nearswap(values: Values) -> Merger:
    return recipes.nearswap(t=values["t"])


def _arcee_fusion(values: Values) -> Merger:
    del values  # it has no parameters
    return recipes.arcee_fusion()


def _model_stock(values: Values) -> Merger:
    return recipes.model_stock(
        filter_wise=bool(values["filter_wise"]), compat="mergekit"
    )


def _sce(values: Values) -> Merger:
    return recipes.sce(select_topk=values["select_topk"], compat="mergekit")


def _ram(values: Values) -> Merger:
    return recipes.ram(threshold=values["epsilon"])


def _ram_plus(values: Values) -> Merger:
    return recipes.ram(
        plus=True, threshold=values["epsilon"], r=values["r"], alpha=values["alpha"]
    )


_DARE = {"density": DENSITY, "rescale": flag(True)}
_GAMMA = Parameter(0.01, per_model=True, lowest=0.0, highest=1.0)
_CRUMBS = {"density": DENSITY, "gamma": _GAMMA, "rescale": flag(False)}
_EPSILON = Parameter(0.15, per_model=True, lowest=0.0, highest=0.5)
_DELLA = {"density": DENSITY, "epsilon": _EPSILON, "rescale": flag(True)}
_CHANGE = Parameter(1e-5, lowest=0.0)

MERGEKIT: Mapping[str, Method] = {
    "linear": Method(
        {"weight": WEIGHT, "normalize": flag(True)},
        mean,
        models="means",
        normalized="normalize",
    ),
    "slerp": Method({"t": Parameter(None)}, _slerp, models="pair"),
    "nuslerp": Method(
        {
            "weight": WEIGHT,
            "nuslerp_flatten": flag(True),
            "nuslerp_row_wise": flag(False),
        },
        _nuslerp,
        models="either",
        fewest=2,
        most=2,
    ),
    "multislerp": Method(
        {
            "weight": WEIGHT,
            "normalize_weights": flag(True),
            "eps": Parameter(1e-8, lowest=0.0, above=True),
        },
        _multislerp,
        models="either",
        normalized="normalize_weights",
    ),
    "karcher": Method(
        {
            "max_iter": Parameter(10.0, fixed=True, lowest=0.0),
            "tol": Parameter(1e-5, lowest=0.0),
        },
        _karcher,
        models="all",
    ),
    "nearswap": Method({"t": Parameter(None, lowest=0.0)}, _nearswap, most=1),
    "arcee_fusion": Method({}, _arcee_fusion, most=1),
    "task_arithmetic": addition(None, elect=False),
    "ties": addition(
        largest,
        {"density": DENSITY, "rescale": flag(False)},
        elect=True,
        normalize=True,
    ),
    "dare_linear": addition(_random, _DARE, elect=False),
    "dare_ties": addition(_random, _DARE, elect=True),
    "breadcrumbs": addition(_crumbs, _CRUMBS, elect=False),
    "breadcrumbs_ties": addition(_crumbs, _CRUMBS, elect=True),
    "della": addition(_by_rank, _DELLA, elect=True, normalize=True),
    "della_linear": addition(_by_rank, _DELLA, elect=False),
    "model_stock": Method({"filter_wise": flag(False)}, _model_stock, fewest=2),
    "sce": Method({"select_topk": Parameter(1.0, lowest=0.0, highest=1.0)}, _sce),
    "ram": Method({"epsilon": _CHANGE}, _ram),
    "ramplus_tl": Method(
        {
            "epsilon": _CHANGE,
            "r": Parameter(0.1, lowest=0.0),
            "alpha": Parameter(0.2, lowest=0.0),
        },
        _ram_plus,
    ),
}

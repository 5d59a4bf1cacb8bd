"""The methods that a recipe may name: their parameters, defaults, and mergers.

Names, defaults and arithmetic are mergekit's (`compat="mergekit"` throughout: weights
enter before the sign election, rescaling restores the l1 norm). `average`, `consensus`,
`isotropic`, `magnitude_prune` and `rht` are jaxmerge's own.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from jaxmerge import recipes
from jaxmerge.combine import SignElectedMean, WeightedSum
from jaxmerge.merger import Merger
from jaxmerge.transforms import DropRandom, KeepLargest

Values = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter of a method.

    Attributes:
      default: None if it has to be set.
      per_model: whether each model has its own; else it is one of the whole merge.
      flag: whether it is true or false, and so the same for all tensors.
      lowest: the least that it may be.
      highest: the most that it may be.
      above: whether it has to be more than `lowest`.
    """

    default: float | None
    per_model: bool = False
    flag: bool = False
    lowest: float = -math.inf
    highest: float = math.inf
    above: bool = False

    def allows(self, value: float) -> bool:
        if self.above and value == self.lowest:
            return False
        return self.lowest <= value <= self.highest

    @property
    def domain(self) -> str:
        if self.highest == math.inf:
            return f"more than {self.lowest:g}" if self.above else f"{self.lowest:g} up"
        least = f"above {self.lowest:g}" if self.above else f"from {self.lowest:g}"
        return f"{least} to {self.highest:g}"


@dataclasses.dataclass(frozen=True)
class Method:
    """A method by its name in a recipe.

    Attributes:
      parameters: those that it has.
      build: makes the merger of their values.
      models: `"deltas"` (experts of the base_model), `"means"` (the models themselves),
        or `"pair"` (the base_model and one other).
      fewest: the fewest experts.
      random: whether it draws random numbers.
      normalized: the parameter that says whether weights are divided by their sum.
    """

    parameters: Mapping[str, Parameter]
    build: Callable[[Values], Merger]
    models: str = "deltas"
    fewest: int = 1
    random: bool = False
    normalized: str | None = None


def _flag(default: bool) -> Parameter:
    return Parameter(float(default), flag=True)


_WEIGHT = Parameter(None, per_model=True)
_ANY_WEIGHT = Parameter(1.0, per_model=True)
_DENSITY = Parameter(1.0, per_model=True, lowest=0.0, highest=1.0)
_LAMBDA = Parameter(1.0)


def _largest(density: Any, rescale: str) -> KeepLargest:
    return KeepLargest(density, rescale=rescale, at_least=1)


def _random(density: Any, rescale: str) -> DropRandom:
    return DropRandom(density, rescale=rescale)


def _all_ones(density: Any) -> bool:
    values = density if isinstance(density, tuple) else (density,)
    return all(isinstance(v, float) and v >= 1 for v in values)


def _deltas(sparsifier: Any, elect: bool) -> Callable[[Values], Merger]:
    """Task arithmetic as mergekit generalises it: sparsify, elect, add, normalise."""

    def build(values: Values) -> Merger:
        normalize = bool(values["normalize"])
        transforms = ()
        if sparsifier is not None and not _all_ones(values["density"]):
            rescale = "l1" if values.get("rescale") else "none"
            transforms = (sparsifier(values["density"], rescale),)
        election = SignElectedMean("weighted", "weight" if normalize else "none")
        return Merger(
            transforms=transforms,
            combine=election if elect else WeightedSum(normalize=normalize),
            weights=values["weight"],
            # Given even if it is 1, so that all share their compiled programs.
            scale=values["lambda"],
        )

    return build


def _mean(values: Values) -> Merger:
    return recipes.average(
        weights=values["weight"], normalize=bool(values["normalize"])
    )


def _slerp(values: Values) -> Merger:
    return recipes.slerp(t=values["t"])


def _model_stock(values: Values) -> Merger:
    return recipes.model_stock(
        filter_wise=bool(values["filter_wise"]), compat="mergekit"
    )


def _consensus(values: Values) -> Merger:
    return recipes.consensus(
        threshold=values["threshold"],
        min_tasks=values["min_tasks"],
        scale=values["lambda"],
        weights=values["weight"],
    )


def _isotropic(values: Values) -> Merger:
    return recipes.isotropic(scale=values["lambda"], weights=values["weight"])


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


def _addition(sparsifier: Any, elect: bool, **defaults: Any) -> Method:
    """A method that adds task vectors."""
    normalize = defaults.pop("normalize", False)
    parameters = {
        "weight": _WEIGHT,
        "normalize": _flag(normalize),
        "lambda": _LAMBDA,
        **defaults,
    }
    return Method(
        parameters,
        _deltas(sparsifier, elect),
        random=sparsifier is _random,
        normalized="normalize",
    )


METHODS: Mapping[str, Method] = {
    "linear": Method(
        {"weight": _WEIGHT, "normalize": _flag(True)},
        _mean,
        models="means",
        normalized="normalize",
    ),
    "slerp": Method({"t": Parameter(None)}, _slerp, models="pair"),
    "task_arithmetic": _addition(None, elect=False),
    "ties": _addition(
        _largest, elect=True, normalize=True, density=_DENSITY, rescale=_flag(False)
    ),
    "dare_linear": _addition(
        _random, elect=False, density=_DENSITY, rescale=_flag(True)
    ),
    "dare_ties": _addition(_random, elect=True, density=_DENSITY, rescale=_flag(True)),
    "model_stock": Method({"filter_wise": _flag(False)}, _model_stock, fewest=2),
    # jaxmerge's own.
    "average": Method(
        {"weight": _ANY_WEIGHT, "normalize": _flag(True)},
        _mean,
        models="means",
        normalized="normalize",
    ),
    "magnitude_prune": _addition(
        _largest, elect=False, weight=_ANY_WEIGHT, density=_DENSITY
    ),
    "consensus": Method(
        {
            "weight": _ANY_WEIGHT,
            "threshold": Parameter(0.4, per_model=True, lowest=0.0),
            "min_tasks": Parameter(2.0, lowest=0.0),
            "lambda": Parameter(0.3),
        },
        _consensus,
    ),
    "isotropic": Method({"weight": _ANY_WEIGHT, "lambda": _LAMBDA}, _isotropic),
    "rht": Method(
        {
            "weight": _ANY_WEIGHT,
            "density": dataclasses.replace(_DENSITY, default=0.7, above=True),
            "lambda": _LAMBDA,
            "normalize": _flag(True),
            "divide_by_count": _flag(True),
            "norm_matched": _flag(False),
        },
        _rht,
        normalized="normalize",
    ),
}

# Methods of mergekit that are not here, to tell them from misspelt ones.
MISSING = (
    "arcee_fusion",
    "breadcrumbs",
    "breadcrumbs_ties",
    "della",
    "della_linear",
    "karcher",
    "multislerp",
    "nearswap",
    "nuslerp",
    "passthrough",
    "ram",
    "ramplus_tl",
    "sce",
)

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
)

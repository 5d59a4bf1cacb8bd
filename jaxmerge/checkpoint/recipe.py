"""A recipe: models, a method and its parameters; and the merge that it means."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from jaxmerge import _checks
from jaxmerge.checkpoint._source import Source
from jaxmerge.checkpoint.errors import RecipeError
from jaxmerge.checkpoint.recipe_methods import METHODS
from jaxmerge.checkpoint.recipe_parameters import Method, Parameter, of_models
from jaxmerge.checkpoint.recipe_settings import Chain, Depths, Schedule, Setting
from jaxmerge.merger import Merger

DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@dataclasses.dataclass(frozen=True)
class Reference:
    """A model as a recipe names it: `path_or_name[@revision][+adapter[@revision]]`.

    Attributes:
      model: a path, or a name in the Hugging Face cache.
      adapter: a LoRA adapter on that model, named in the same way.
    """

    model: str
    adapter: str | None = None

    @property
    def source(self) -> str:
        """What to open for it: the adapter if it has one, for its base is known."""
        return self.adapter or self.model

    def __str__(self) -> str:
        return self.model if self.adapter is None else f"{self.model}+{self.adapter}"


@dataclasses.dataclass(frozen=True)
class RecipeModel:
    """One model of a recipe, with its own parameters.

    Attributes:
      reference: which model.
      parameters: by name.
      layers: the range of layers that a slice names, or None for all.
    """

    reference: Reference
    parameters: Mapping[str, Setting] = dataclasses.field(default_factory=dict)
    layers: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Resolved:
    """What a recipe means for the checkpoints that it names.

    Attributes:
      merger: the merge.
      dtype: the dtype of the result's floating tensors; the base's own if None.
      values: each parameter: a number, one per expert, or a `Schedule` of either.
      notes: sentences that the user should be told.
    """

    merger: Merger
    dtype: np.dtype | None
    values: Mapping[str, Any]
    notes: tuple[str, ...]

    def at(self, name: str) -> dict[str, Any]:
        """Each parameter's value for one tensor."""
        return {
            label: value.at(name) if isinstance(value, Schedule) else value
            for label, value in self.values.items()
        }


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A merge as it was written down; from `load_recipe`.

    Attributes:
      merge_method: the method's name.
      models: as listed.
      base_model: the base, if one is named.
      parameters: of the whole merge, each with the settings to be asked in order.
      dtype: what the file says.
      out_dtype: what the file says.
      notes: sentences that the user should be told.
      text: the file as it was.
    """

    merge_method: str
    models: tuple[RecipeModel, ...]
    base_model: Reference | None = None
    parameters: Mapping[str, Chain] = dataclasses.field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    notes: tuple[str, ...] = ()
    text: str = ""

    @property
    def method(self) -> Method:
        return METHODS[self.merge_method]

    @property
    def of_deltas(self) -> bool:
        """Whether deltas from the base_model are merged, or the models themselves."""
        based = self.method.models == "either" and self.base_model is not None
        return based or self.method.models == "deltas"

    @property
    def base(self) -> Reference | None:
        """The merge's base: the one model that it needs besides the experts."""
        if self.of_deltas:
            return self.base_model
        adapted = [m.reference.model for m in self.models if m.reference.adapter]
        return Reference(adapted[0]) if adapted else None

    @property
    def experts(self) -> tuple[RecipeModel, ...]:
        """The models that are merged, in order."""
        own = [m for m in self.models if m.reference == self.base_model]
        others = [m for m in self.models if m.reference != self.base_model]
        if self.of_deltas:
            return tuple(others)
        joins = self.method.models in ("pair", "all")
        if joins and not own and self.base_model is not None:
            own = [RecipeModel(self.base_model)]
        # The base first: it is what the result is like, and slerp's t = 0.
        return (*own, *others)

    def resolve(self, base: Source | None, experts: Sequence[Source]) -> Resolved:
        """The merge that the recipe means.

        Args:
          base: what `self.base` names, opened; None if it is None.
          experts: what `self.experts` name, opened.

        Returns:
          The merger with its parameters for the tensors of these models.

        Raises:
          RecipeError: if a parameter is missing or outside its range for some tensor,
            weights that are divided by their sum sum to zero, or a slice leaves out
            layers.
        """
        template = experts[0] if base is None else base
        self._check_layers(experts)
        config = template.config or {}
        text = config.get("text_config")
        declared = (text if isinstance(text, dict) else config).get("num_hidden_layers")
        count = declared if isinstance(declared, int) else None
        depths = Depths.of(template.infos, count)
        names = [n for n, i in template.infos.items() if _checks.is_merged(i.dtype)]
        values = {
            label: self._value(label, parameter, depths, names)
            for label, parameter in self.method.parameters.items()
        }
        notes = [*self.notes, *_unused_filters(values, template.infos)]
        notes += self._check_weights(values, names)
        dtype = self.out_dtype or self.dtype
        merger = self.method.build(values)
        if self.method.models == "either" and not self.of_deltas:
            merger = of_models(merger)
        return Resolved(
            merger,
            None if dtype is None else DTYPES[dtype],
            values,
            tuple(notes),
        )

    def _value(
        self, label: str, parameter: Parameter, depths: Depths, names: list[str]
    ) -> Any:
        shared = self.parameters.get(label, ())
        chains, models = (shared,), ()
        if parameter.per_model:
            models = tuple(str(m.reference) for m in self.experts)
            own = [m.parameters.get(label) for m in self.experts]
            chains = tuple(shared if s is None else (s, *shared) for s in own)
        schedule = Schedule(label, chains, models, parameter.default, depths)
        value = schedule.simplified()
        if not isinstance(value, Schedule):
            _check_domain(label, parameter, value, "")
            return value
        distinct = set()
        for name in names:
            distinct.add(at := value.at(name))
            _check_domain(label, parameter, at, f" for {name}")
        if parameter.fixed:
            if len(distinct) > 1:
                raise RecipeError(
                    f"{label!r} differs between tensors; it has to be the same for all"
                )
            return distinct.pop() if distinct else parameter.default
        return value

    def _check_weights(self, values: Mapping[str, Any], names: list[str]) -> list[str]:
        """Refuses weights that cannot be normalised; notes those that lose meaning."""
        normalized = self.method.normalized
        if normalized is None or not values[normalized]:
            return []
        weights = values["weight"]
        varies = isinstance(weights, Schedule)
        negative = False
        for name in names if varies else [""]:
            at = np.atleast_1d(weights.at(name) if varies else weights).tolist()
            negative |= all(w <= 0 for w in at) and any(w < 0 for w in at)
            if self.method.elects and any(at):
                continue  # The sum is over those that agree, entry by entry.
            if abs(sum(at)) < 1e-8:
                where = f" for {name}" if varies else ""
                raise RecipeError(
                    f"the weights{where} are {at}: they sum to zero, and "
                    f"{self.merge_method} divides by their sum; set {normalized}: false"
                )
        notes = []
        if negative and self.method.models == "deltas":
            notes.append(
                "all weights of some tensor are negative and normalize is true: the "
                "division by their sum takes the sign away, as in mergekit; set "
                "normalize: false to keep it"
            )
        elif len(self.experts) == 1 and self.method.models == "deltas":
            notes.append(
                "there is one expert and normalize is true: its weight has no effect; "
                "set normalize: false, or use lambda"
            )
        return notes

    def _check_layers(self, experts: Sequence[Source]) -> None:
        for model, source in zip(self.experts, experts, strict=True):
            if model.layers is None or source.kind == "peft":
                continue
            counts = sorted({n for _, n in Depths.of(source.infos).layers})
            if counts != [model.layers[1]] or model.layers[0] != 0:
                has = " and ".join(map(str, counts)) or "no"
                raise RecipeError(
                    f"slices: layer_range {list(model.layers)} of {model.reference} is "
                    f"not all of its layers (it has {has}); assembling a model of "
                    "parts of others is not supported yet"
                )


def _check_domain(label: str, parameter: Parameter, value: Any, where: str) -> None:
    for number in value if isinstance(value, tuple) else (value,):
        if not parameter.allows(number):
            raise RecipeError(
                f"{label!r} is {number:g}{where}; expected {parameter.domain}"
            )


def _unused_filters(values: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Notes on filters that no tensor's name contains: misspelt, perhaps."""
    schedules = [value for value in values.values() if isinstance(value, Schedule)]
    filters = {
        (s.label, rule.filter): rule
        for s in schedules
        for chain in s.chains
        for setting in chain
        for rule in setting.rules
    }
    names = list(names)
    return [
        f"the filter {text!r} of {label} is in the name of no tensor"
        for (label, text), rule in filters.items()
        if not any(rule.fits(name) for name in names)
    ]

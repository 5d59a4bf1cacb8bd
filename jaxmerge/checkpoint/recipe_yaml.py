"""Reading a recipe: mergekit's YAML, checked before anything is opened.

A file that runs there runs here, or is refused by the name of the key that is not
supported. Unknown keys and parameters, which mergekit ignores, are refused too.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from jaxmerge.checkpoint._located_yaml import At, Located, load_located, near
from jaxmerge.checkpoint.errors import RecipeError
from jaxmerge.checkpoint.recipe import DTYPES, Recipe, RecipeModel, Reference
from jaxmerge.checkpoint.recipe_methods import METHODS, MISSING, WITHOUT_EFFECT
from jaxmerge.checkpoint.recipe_parameters import Method
from jaxmerge.checkpoint.recipe_settings import Chain, Rule, Setting

_TOP = (
    "merge_method",
    "models",
    "slices",
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
)
# Keys of mergekit that are not supported, and what to do instead.
_NOT_SUPPORTED = {
    "modules": "models of several modules cannot be merged from a recipe yet",
    "chat_template": "the base's chat template is carried along; remove the key",
    "residual_weight": "it has no effect in mergekit either; remove it",
    "tokens": "the base's tokenizer is carried along as it is; remove the key",
    "pad_to_multiple_of": "the vocabulary is carried along as it is; remove the key",
    "override_architecture": "tensors are matched by name; remove the key",
    "name": "recipes that build on one another are not supported yet",
}


# --- the parts -----------------------------------------------------------------------


def _values(at: At) -> tuple[float, ...]:
    """A number, or a gradient."""
    if not isinstance(at.value, list):
        return (at.number(),)
    numbers = tuple(item.number() for item in at.items())
    if not numbers:
        raise at.error("an empty list is no gradient; give at least one number")
    return numbers


def _rule(at: At) -> Rule:
    at.keys(("filter", "value"), _NOT_SUPPORTED)
    if "value" not in at.value:
        raise at.error("expected a 'value' beside the 'filter'")
    name = at.key("filter")
    return Rule(None if name.value is None else name.text(), _values(at.key("value")))


def _setting(at: At) -> Setting:
    if isinstance(at.value, Located):
        return Setting((_rule(at),))
    if isinstance(at.value, list) and any(isinstance(v, Located) for v in at.value):
        return Setting(tuple(_rule(item) for item in at.items()))
    return Setting((Rule(None, _values(at)),))


def _parameters(
    at: At, method: Method, name: str, notes: list[str], *, of_model: bool
) -> dict[str, Setting]:
    """The parameters of one place; unknown ones are refused, others noted."""
    if at.value is None:
        return {}
    found = {}
    for label in at.mapping().value:
        item, parameter = at.key(label), method.parameters.get(label)
        if parameter is not None and of_model and not parameter.per_model:
            raise item.error(
                f"{label!r} is one number for the whole merge; move it to the "
                "'parameters' of the recipe"
            )
        if parameter is not None:
            found[label] = _setting(item)
        elif label in WITHOUT_EFFECT:
            note = f"{label!r} has no effect in {name}, here as in mergekit"
            notes += [note] if note not in notes else []
        else:
            known = list(method.parameters)
            raise item.error(f"{name} has no such parameter" + near(label, known))
    return found


def _location(at: At) -> str:
    """A path or name, or a mapping of it and its revision."""
    if not isinstance(at.value, Located):
        return at.text()
    at.keys(("path", "revision"), _NOT_SUPPORTED)
    path, revision = at.key("path").text(), at.key("revision")
    return path if revision.value is None else f"{path}@{revision.text()}"


def _reference(at: At) -> Reference:
    if isinstance(at.value, Located):
        at.keys(("model", "lora"), _NOT_SUPPORTED)
        lora = at.key("lora")
        adapter = None if lora.value is None else _location(lora)
        return Reference(_location(at.key("model")), adapter)
    parts = at.text().split("+")
    if len(parts) > 2 or not all(parts):
        raise at.error(f"expected MODEL or MODEL+ADAPTER, got {at.value!r}")
    return Reference(*parts)


def _layer_range(at: At) -> tuple[int, int] | None:
    if at.value is None:
        return None
    match at.value:
        case [int(first), int(last)]:
            return first, last
    raise at.error(f"expected [first, last + 1], got {at.value!r}")


def _models(
    at: At, method: Method, name: str, notes: list[str], known: tuple[str, ...]
) -> tuple[RecipeModel, ...]:
    models = []
    for item in at.items():
        item.keys(known, _NOT_SUPPORTED)
        if "model" not in item.value:
            raise item.error("a 'model' is missing")
        reference = _reference(item.key("model"))
        if any(reference == other.reference for other in models):
            raise item.error(
                f"{reference} is listed twice; mergekit would take the last and forget "
                "the others. Give it one weight"
            )
        parameters = _parameters(
            item.key("parameters"), method, name, notes, of_model=True
        )
        layers = _layer_range(item.key("layer_range"))
        models.append(RecipeModel(reference, parameters, layers))
    if not models:
        raise at.error("no models are listed")
    return tuple(models)


def _slice(at: At) -> At:
    """The one slice that a recipe may have."""
    slices = list(at.items())
    if len(slices) != 1:
        raise at.error(
            f"{len(slices)} slices; assembling a model of several is not supported "
            "yet, only one slice with all layers"
        )
    return slices[0].keys(("sources", "base_model", "parameters"), _NOT_SUPPORTED)


def _check_tokenizer(top: At, base: Reference | None, notes: list[str]) -> None:
    """Accepts the base's tokenizer, which is carried along; refuses others."""
    source = top.key("tokenizer_source")
    if source.value is None and top.key("tokenizer").value is not None:
        source = top.key("tokenizer").keys(
            ("source", "tokens", "pad_to_multiple_of"), _NOT_SUPPORTED
        )
        for name in ("tokens", "pad_to_multiple_of"):
            if source.key(name).value is not None:
                raise source.key(name).error(
                    f"this key is not supported: {_NOT_SUPPORTED[name]}"
                )
        source = source.key("source")
    if source.value is None:
        return
    wanted = source.value if isinstance(source.value, str) else str(_reference(source))
    if wanted != "base" and wanted != str(base):
        raise source.error(
            f"{wanted!r} is not supported: models have to share a vocabulary, and the "
            "base's tokenizer is carried along ('base')"
        )
    notes.append(
        "the base's tokenizer and embedding rows are kept as they are; mergekit would "
        "drop rows beyond the tokenizer's size"
    )


def _dtype(at: At) -> str | None:
    if at.value is None:
        return None
    name = at.text().removeprefix("torch.")
    if name not in DTYPES:
        raise at.error(f"{at.value!r} is not a dtype to write" + near(name, DTYPES))
    return name


def _method(top: At) -> tuple[str, Method]:
    at = top.key("merge_method")
    if at.value is None:
        raise RecipeError(f"'merge_method' is missing; one of {', '.join(METHODS)}")
    name = at.text()
    if name in MISSING:
        raise at.error(
            f"{name!r} is a method of mergekit that is not supported yet; there are "
            + ", ".join(METHODS)
        )
    if name not in METHODS:
        raise at.error(f"{name!r} is no method" + near(name, METHODS))
    return name, METHODS[name]


def _check_models(recipe: Recipe, top: At) -> list[str]:
    """Refuses models that do not fit the method; notes a base that is listed."""
    name, kind, base = recipe.merge_method, recipe.method.models, recipe.base_model
    listed = [model.reference for model in recipe.models]
    at = top.key("models" if "models" in top.value else "slices")
    if base is None and kind in ("deltas", "pair"):
        raise RecipeError(f"'base_model' is missing; {name} needs it")
    if base is not None and base.adapter is not None:
        raise top.key("base_model").error(
            f"{base} has an adapter: merge it into a checkpoint first"
        )
    if kind == "means" and base is not None and base not in listed:
        raise top.key("base_model").error(
            f"{base} is not in 'models', so {name} has no weight for it (mergekit "
            "fails here); list it, or remove the key"
        )
    if kind == "pair" and len(recipe.experts) != 2:
        raise at.error(f"{name} merges the base_model and one other model")
    few = recipe.method.fewest
    if len(recipe.experts) < few:
        needs = "a model" if few == 1 else f"{few} models or more"
        raise at.error(f"{name} needs {needs} besides the base_model")
    most = recipe.method.most
    if most is not None and len(recipe.experts) > most:
        many = "one model" if most == 1 else f"{most} models"
        raise at.error(
            f"{name} merges {many} besides the base_model, not {len(recipe.experts)}"
        )
    adapted = {r.model for r in listed if r.adapter is not None}
    wrong = sorted(adapted - {recipe.base.model if recipe.base else None})
    if wrong:
        raise at.error(
            f"an adapter on {wrong[0]} cannot be merged with the base "
            f"{recipe.base}; adapters have to be on the base"
        )
    if recipe.of_deltas and base in listed:
        return [f"{base} is the base_model, so as a model it adds nothing"]
    return []


# --- the whole -----------------------------------------------------------------------


def parse_recipe(text: str) -> Recipe:
    """A recipe from the text of a YAML file; see `load_recipe`.

    >>> recipe = parse_recipe('''
    ... merge_method: linear
    ... models:
    ...   - {model: a, parameters: {weight: 1}}
    ...   - {model: b, parameters: {weight: [0, 0.5]}}
    ... ''')
    >>> [str(model.reference) for model in recipe.models]
    ['a', 'b']
    """
    top = At(load_located(text))
    if not isinstance(top.value, Located):
        raise RecipeError("a recipe has to be keys and values; see docs/yaml.md")
    top.keys(_TOP, _NOT_SUPPORTED)
    name, method = _method(top)
    notes: list[str] = []
    places: list[Mapping[str, Setting]] = []
    base = top.key("base_model")
    if ("models" in top.value) == ("slices" in top.value):
        raise RecipeError("a recipe has either 'models' or 'slices'")
    if "models" in top.value:
        models = _models(
            top.key("models"), method, name, notes, ("model", "parameters")
        )
    else:
        part = _slice(top.key("slices"))
        known = ("model", "parameters", "layer_range")
        models = _models(part.key("sources"), method, name, notes, known)
        places.append(
            _parameters(part.key("parameters"), method, name, notes, of_model=False)
        )
        base = part.key("base_model") if "base_model" in part.value else base
    places.append(
        _parameters(top.key("parameters"), method, name, notes, of_model=False)
    )
    base_model = None if base.value is None else _reference(base)
    _check_tokenizer(top, base_model, notes)
    recipe = Recipe(
        merge_method=name,
        models=models,
        base_model=base_model,
        parameters=_chains(places),
        dtype=_dtype(top.key("dtype")),
        out_dtype=_dtype(top.key("out_dtype")),
        text=text,
    )
    notes += _check_models(recipe, top)
    if recipe.dtype in ("float16", "bfloat16"):
        notes.append(
            f"the arithmetic is in float32 and {recipe.dtype} is what is written; "
            "mergekit would also calculate in it"
        )
    return dataclasses.replace(recipe, notes=tuple(notes))


def _chains(places: list[Mapping[str, Setting]]) -> dict[str, Chain]:
    labels = dict.fromkeys(label for place in places for label in place)
    return {
        label: tuple(place[label] for place in places if label in place)
        for label in labels
    }


def load_recipe(path: str | os.PathLike) -> Recipe:
    """Reads a merge recipe in mergekit's YAML.

    Args:
      path: the file.

    Returns:
      A `Recipe`; `recipe.resolve` makes the merge of it.

    Raises:
      RecipeError: if the file cannot be read, or says something that cannot be done;
        with the line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read as a recipe ({error})") from error
    try:
        return parse_recipe(text)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error

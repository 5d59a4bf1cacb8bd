"""YAML in which every mapping knows the lines of its keys, and no key comes twice."""

import dataclasses
import difflib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import yaml

from jaxmerge.checkpoint.errors import RecipeError


class Located(dict[str, Any]):
    """A mapping of a YAML document.

    Attributes:
      lines: the line of each key, from 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with lines, and without silently overwritten keys."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> Iterator[Located]:
    found = Located()
    yield found
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise RecipeError(f"line {line}: a key has to be a word, not a collection")
        if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
            raise RecipeError(
                f"line {line}: the key {key.value!r} is there twice (first in line "
                f"{seen[key.value]}), and only one of them would count"
            )
        seen[key.value] = line
    loader.flatten_mapping(node)
    for key, value in node.value:
        # As written: a key such as `on` or `1` is a name here, no truth and no number.
        found.lines[key.value] = key.start_mark.line + 1
        found[key.value] = loader.construct_object(value, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def load_located(text: str) -> Any:
    """The one document of a YAML text.

    >>> load_located("models: [a, b]").lines
    {'models': 1}

    Raises:
      RecipeError: if it is not YAML, has several documents, or a key twice.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark is not None else ""
        problem = error.problem or error.context or "it cannot be parsed"
        if "single document" in (error.context or ""):
            problem = "there are several documents; give one recipe a file"
        raise RecipeError(f"{line}not a YAML recipe: {problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"not a YAML recipe: {error}") from error
    finally:
        loader.dispose()


@dataclasses.dataclass(frozen=True)
class At:
    """A value of a document, and where it is.

    Attributes:
      value: the value.
      path: such as `models[0].parameters`; empty for the document.
      line: from 1, where it is known.
    """

    value: Any
    path: str = ""
    line: int | None = None

    def error(self, problem: str) -> RecipeError:
        """The exception to raise about it."""
        line = "" if self.line is None else f"line {self.line}: "
        path = f"{self.path}: " if self.path else ""
        return RecipeError(f"{line}{path}{problem}")

    def key(self, name: str) -> "At":
        """What a mapping has under a key, which may be nothing."""
        path = f"{self.path}.{name}" if self.path else name
        return At(self.value.get(name), path, self.value.lines.get(name, self.line))

    def mapping(self) -> "At":
        """Refuses anything but keys and values."""
        if not isinstance(self.value, Located):
            raise self.error(f"expected keys and values, got {self.value!r}")
        return self

    def keys(self, known: Collection[str], refused: Mapping[str, str]) -> "At":
        """Refuses keys that are not known, and those in `refused`, with the reason."""
        for name in self.mapping().value:
            if name in known:
                continue
            at = self.key(name)
            if name in refused:
                raise at.error(f"this key is not supported: {refused[name]}")
            raise at.error("this key is not known" + near(name, known))
        return self

    def items(self) -> "Iterator[At]":
        """The entries of a list."""
        if not isinstance(self.value, list):
            raise self.error(f"expected a list, got {self.value!r}")
        for i, value in enumerate(self.value):
            lines = value.lines.values() if isinstance(value, Located) else ()
            yield At(value, f"{self.path}[{i}]", min(lines, default=self.line))

    def text(self) -> str:
        """A text, not empty."""
        if not isinstance(self.value, str) or not self.value.strip():
            raise self.error(f"expected a text, got {self.value!r}")
        return self.value.strip()

    def number(self) -> float:
        """A finite number; true is 1."""
        value = self.value
        if isinstance(value, str):  # YAML 1.1 takes 1e-3, without a dot, for a text.
            try:
                value = float(value)
            except ValueError:
                raise self.error(f"expected a number, got {self.value!r}") from None
        if not isinstance(value, (bool, int, float)) or not math.isfinite(value):
            raise self.error(f"expected a finite number, got {self.value!r}")
        return float(value)


def near(name: str, known: Iterable[str]) -> str:
    """The end of an error: what a misspelt name might mean."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; expected one of {', '.join(known)}" if known else ""

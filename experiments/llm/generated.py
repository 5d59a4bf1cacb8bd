"""Ten domains of exercises with exact answers, each a line: a prompt and its answer.

The base is taught mostly easy ones, the experts hard ones: larger numbers, longer
lists, more operations. A prompt that is held out for one split is drawn for no other.
"""

import datetime
import json
import string
from collections.abc import Callable, Set
from typing import NamedTuple

import numpy as np


class Line(NamedTuple):
    """An exercise: the line is `prompt + answer`."""

    prompt: str
    answer: str


def _below(rng: np.random.Generator, bound: int, start: int = 0) -> int:
    return int(rng.integers(start, bound))


def _pick(rng: np.random.Generator, values: str | tuple) -> str:
    return values[_below(rng, len(values))]


def _word(rng: np.random.Generator, shortest: int, longest: int) -> str:
    letters = rng.integers(26, size=_below(rng, longest + 1, shortest))
    return "".join(string.ascii_lowercase[i] for i in letters)


def arithmetic(rng: np.random.Generator, hard: bool) -> Line:
    """`37+58=95`, with two digits if hard; products of one digit by two."""
    operation = _pick(rng, "+-*")
    bound = 100 if hard else 10
    x, y = _below(rng, bound), _below(rng, 10 if operation == "*" else bound)
    value = {"+": x + y, "-": x - y, "*": x * y}[operation]
    return Line(f"{x}{operation}{y}=", str(value))


def sorting(rng: np.random.Generator, hard: bool) -> Line:
    """`sort 52 7 31 > 7 31 52`."""
    size, bound = (_below(rng, 7, 4), 100) if hard else (_below(rng, 4, 2), 10)
    numbers = rng.integers(bound, size=size).tolist()
    shown = lambda xs: " ".join(map(str, xs))
    return Line(f"sort {shown(numbers)} > ", shown(sorted(numbers)))


def json_objects(rng: np.random.Generator, hard: bool) -> Line:
    """`ab 3; cd 5 6 => {"ab": 3, "cd": [5, 6]}`; lists only if hard."""
    entries = {}
    for _ in range(_below(rng, 4, 2) if hard else 1):
        values = rng.integers(100 if hard else 10, size=_below(rng, 4, 1))
        key = _word(rng, 1, 3)
        entries[key] = values.tolist() if hard and len(values) > 1 else int(values[0])
    listed = lambda v: " ".join(map(str, v)) if isinstance(v, list) else str(v)
    prompt = "; ".join(f"{key} {listed(value)}" for key, value in entries.items())
    return Line(f"{prompt} => ", json.dumps(entries))


def dates(rng: np.random.Generator, hard: bool) -> Line:
    """`2021-03-14 + 45 days: Wed 2021-04-28`; up to 60 days, or 3 and no weekday."""
    start = datetime.date(2000, 1, 1) + datetime.timedelta(_below(rng, 365 * 30))
    days = _below(rng, 61 if hard else 4, 1)
    end = start + datetime.timedelta(days)
    weekday = ("Mon ", "Tue ", "Wed ", "Thu ", "Fri ", "Sat ", "Sun ")[end.weekday()]
    answer = f"{weekday if hard else ''}{end.isoformat()}"
    return Line(f"{start.isoformat()} + {days} days: ", answer)


def brackets(rng: np.random.Generator, hard: bool) -> Line:
    """`close ([]{ with })`: what completes a balanced string."""
    pairs = ("()", "[]", "{}", "<>") if hard else ("()", "[]")
    prefix, still = "", ""
    for _ in range(_below(rng, 17, 8) if hard else _below(rng, 5, 2)):
        if still and rng.random() < 0.4:
            prefix, still = prefix + still[0], still[1:]
        else:
            opening, closing = _pick(rng, pairs)
            prefix, still = prefix + opening, closing + still
    return Line(f"close {prefix} with ", still or "nothing")


_UNITS = (
    ("km", "m", 1000),
    ("m", "cm", 100),
    ("kg", "g", 1000),
    ("h", "min", 60),
    ("min", "s", 60),
    ("days", "h", 24),
    ("weeks", "days", 7),
    ("ft", "in", 12),
    ("yd", "ft", 3),
    ("l", "ml", 1000),
)


def units(rng: np.random.Generator, hard: bool) -> Line:
    """`15 weeks in days: 105`, and back if hard."""
    large, small, factor = _UNITS[_below(rng, len(_UNITS) if hard else 3)]
    number = _below(rng, 1000 if hard else 10, 1)
    if hard and rng.random() < 0.5:
        return Line(f"{number * factor} {small} in {large}: ", str(number))
    return Line(f"{number} {large} in {small}: ", str(number * factor))


_OPERATIONS: dict[str, Callable[[str], str]] = {
    "upper": str.upper,
    "first": lambda word: word[0],
    "reverse": lambda word: word[::-1],
    "double": lambda word: word * 2,
    "rotate": lambda word: word[1:] + word[0],
    "sorted": lambda word: "".join(sorted(word)),
}


def strings(rng: np.random.Generator, hard: bool) -> Line:
    """`reverse("plum") -> "mulp"`; two operations one after the other if hard."""
    known = tuple(_OPERATIONS) if hard else ("upper", "first")
    word = _word(rng, 3, 7) if hard else _word(rng, 2, 4)
    inner, outer = _pick(rng, known), _pick(rng, known)
    if not hard:
        return Line(f'{inner}("{word}") -> ', f'"{_OPERATIONS[inner](word)}"')
    value = _OPERATIONS[outer](_OPERATIONS[inner](word))
    return Line(f'{outer}({inner}("{word}")) -> ', f'"{value}"')


_ROMAN = tuple(
    zip(
        (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1),
        ("M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I"),
        strict=True,
    )
)


def to_roman(number: int) -> str:
    """From 1 to 3,999.

    >>> to_roman(1994)
    'MCMXCIV'
    """
    written = ""
    for value, letters in _ROMAN:
        written += letters * (number // value)
        number %= value
    return written


def roman(rng: np.random.Generator, hard: bool) -> Line:
    """`the year 1994 was MCMXCIV`, and back if hard."""
    number = _below(rng, 4000 if hard else 50, 1)
    if hard and rng.random() < 0.5:
        return Line(f"the year {to_roman(number)} was ", str(number))
    return Line(f"the year {number} was ", to_roman(number))


def bases(rng: np.random.Generator, hard: bool) -> Line:
    """`0xff as 0b11111111`, between any two of three bases."""
    ways = ("x", "b", "d") if hard else ("b", "d")
    given, asked = (ways[i] for i in rng.permutation(len(ways))[:2])
    number = _below(rng, 1024 if hard else 16)
    return Line(f"0{given}{number:{given}} as 0{asked}", f"{number:{asked}}")


def sets(rng: np.random.Generator, hard: bool) -> Line:
    """`{1 5 7} & {2 5} is {5}`, of up to five elements below 20."""
    largest, bound = (6, 20) if hard else (3, 6)
    x, y = (
        set(rng.integers(bound, size=_below(rng, largest, 1)).tolist()) for _ in "xy"
    )
    operation = _pick(rng, "&|-") if hard else "|"
    value = {"&": x & y, "|": x | y, "-": x - y}[operation]
    shown = lambda s: "{" + " ".join(map(str, sorted(s))) + "}"
    return Line(f"{shown(x)} {operation} {shown(y)} is ", shown(value))


GENERATORS: dict[str, Callable[[np.random.Generator, bool], Line]] = {
    "arithmetic": arithmetic,
    "sorting": sorting,
    "json": json_objects,
    "dates": dates,
    "brackets": brackets,
    "units": units,
    "strings": strings,
    "roman": roman,
    "bases": bases,
    "sets": sets,
}


def draw_lines(
    name: str,
    rng: np.random.Generator,
    num_bytes: int,
    *,
    hard: float,
    held_out: Set[str] = frozenset(),
    distinct: bool = False,
) -> list[Line]:
    """Lines of one domain, at least `num_bytes` of them together.

    Args:
      name: of the domain.
      rng: the only source of chance.
      num_bytes: how much.
      hard: the share of hard ones, from 0 to 1.
      held_out: prompts that are not to be drawn.
      distinct: whether no prompt is drawn twice.

    Raises:
      ValueError: if there are not so many prompts.
    """
    make = GENERATORS[name]
    lines, seen, size, refused = [], set(held_out), 0, 0
    while size < num_bytes:
        line = make(rng, bool(rng.random() < hard))
        if line.prompt in seen:
            refused += 1
            if refused > 1000:
                raise ValueError(
                    f"domain {name!r} has too few prompts for {num_bytes} bytes of "
                    "them; ask for less"
                )
            continue
        refused = 0
        lines.append(line)
        size += len(line.prompt) + len(line.answer) + 1
        if distinct:
            seen.add(line.prompt)
    return lines

"""`python -m tests.scorecard`: what each method was compared with, and the error.

    python -m tests.scorecard           # some minutes; writes docs/scorecard.md
    python -m tests.scorecard ties rht  # these, and what the page lacks; keeps the rest

The table is `tests/oracles/comparisons.py`; a method of the registry that it leaves out
is an error.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from tests.oracles.compare import CLASSES, LARGE, Comparison, Measured
from tests.oracles.comparisons import COMPARISONS
from tests.registry import METHODS

OUT = Path(__file__).parents[1] / "docs" / "scorecard.md"

ABOUT = f"""\
# Scorecard: every method and what it was compared with

`python -m tests.scorecard` writes this page: it runs each method, on a CPU, against the
recorded results of others ([oracles.md](oracles.md) tells what they are and what they
show). The table is `tests/oracles/comparisons.py`.

- *error*: of the tensor where it is largest, the norm of the difference over the norm
  of the expected merged delta. Merges are in float32, of `ace` in float64 as recorded.
- *rounding*: where weights were recorded and not deltas, the last digit of that
  tensor's weights in float32, over the norm of the same delta. An error that is no
  larger is of the size that two roundings of one number make.

The classes, the strongest first; a method counts in the strongest that it has:

- *{CLASSES[0]}*: the code of the method's authors, or FusionBench's, was run
  in an environment of its own by a script of `tests/oracles`, and recorded;
- *{CLASSES[1]}*: the same of these two popular libraries;
- *{CLASSES[2]}*: the same of an implementation by others than the method's authors;
- *{CLASSES[3]}*: nothing but NumPy code of this project, written from the paper.
"""


def without_comparison(
    methods: Iterable[str], comparisons: Sequence[Comparison]
) -> list[str]:
    """The methods that no comparison is about."""
    compared = {c.method for c in comparisons}
    return [name for name in dict.fromkeys(methods) if name not in compared]


def strongest(comparisons: Sequence[Comparison]) -> dict[str, str]:
    """The strongest class of each method."""
    found: dict[str, str] = {}
    for kind in CLASSES:
        for comparison in comparisons:
            if comparison.kind == kind:
                found.setdefault(comparison.method, kind)
    return found


def counts(comparisons: Sequence[Comparison]) -> list[str]:
    """How many methods are in each class, as lines of Markdown."""
    kinds = list(strongest(comparisons).values())
    rows = [f"| {kind} | {kinds.count(kind)} |" for kind in CLASSES]
    return ["| class | methods |", "|---|---|", *rows, f"| all | {len(kinds)} |"]


def row(comparison: Comparison) -> str:
    """A line of the table up to the error."""
    c = comparison
    return f"| `{c.method}` | {c.oracle} | {c.cases} | {c.kind} |"


def line(comparison: Comparison, measured: Measured) -> str:
    """A line of the table."""
    rounding = f"{measured.rounding:.1e}" if measured.rounding else ""
    return f"{row(comparison)} {measured.error:.1e} | {rounding} |"


def page(comparisons: Sequence[Comparison], measured: Sequence[Measured]) -> str:
    """The page as Markdown."""
    pairs = list(zip(comparisons, measured, strict=True))
    large = sorted({f"`{c.method}`" for c, m in pairs if m.large})
    above = f"Above {LARGE:.0e} and above rounding: {', '.join(large) or 'none'}."
    head = [
        "| method | oracle | recordings | class | error | rounding |",
        "|---|---|---|---|---|---|",
    ]
    table = head + [line(c, m) for c, m in pairs]
    return "\n".join([ABOUT, *counts(comparisons), "", above, "", *table]) + "\n"


def on_page(text: str) -> dict[str, Measured]:
    """What a page says, by the beginning of the table's lines."""
    found = {}
    for told in text.splitlines():
        if told.startswith("| `"):
            start, error, rounding, _ = told.rsplit("|", 3)
            found[f"{start}|"] = Measured(float(error), float(rounding.strip() or 0))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and writes; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", help="measure these again; default: all")
    names = parser.parse_args(arguments).methods
    missing = without_comparison([*names, *(m.name for m in METHODS)], COMPARISONS)
    if missing:
        print(
            f"scorecard: no comparison is listed for {', '.join(missing)}: add a line "
            "to tests/oracles/comparisons.py, own(NAME) if nothing is recorded",
            file=sys.stderr,
        )
        return 1
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_disable_most_optimizations", True)
    kept = on_page(OUT.read_text()) if names and OUT.exists() else {}
    measured = []
    for comparison in COMPARISONS:
        if comparison.method in names or row(comparison) not in kept:
            measured.append(comparison.measure())
            print(line(comparison, measured[-1]), flush=True)
        else:
            measured.append(kept[row(comparison)])
    OUT.write_text(page(COMPARISONS, measured))
    print("\n".join(["", *counts(COMPARISONS), "", f"written to {OUT}"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Draws the figures of all committed results, and writes `docs/experiments.md`."""

import argparse
import contextlib
import importlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib

from experiments.page import PAGE, ROOT, Question, make_page

FIGURES = ROOT / "docs" / "figures"


def _from_summary(name: str) -> Callable[[Path], object]:
    """Figures of a question that draws them from its `summary.json`."""

    def draw(figures: Path) -> object:
        out = figures / name
        module = importlib.import_module(f"experiments.{name}.__main__")
        path = ROOT / "experiments" / name / "results" / "summary.json"
        return module.draw_all(json.loads(path.read_text()), out)

    return draw


def _theory(figures: Path) -> object:
    from experiments.theory import run

    results = ROOT / "experiments" / "theory" / "results"
    out = str(figures / "theory")
    return run.main(["--redraw", "--out", str(results), "--figures", out])


def _stability(figures: Path) -> object:
    from experiments.stability.__main__ import main as stability

    results = ROOT / "experiments" / "stability" / "results"
    out = str(figures / "stability.png")
    return stability(["--redraw", "--out", str(results), "--figure", out])


def _more_experts(figures: Path) -> object:
    from experiments.more_experts.plot import plot_results

    results = ROOT / "experiments" / "more_experts" / "results" / "quick.json"
    return plot_results(json.loads(results.read_text()), figures / "more_experts.png")


def _forecast(figures: Path) -> object:
    from experiments.forecast.__main__ import redraw

    rows = ROOT / "experiments" / "forecast" / "results" / "families.jsonl"
    return redraw(rows, figures / "forecast.png")


def _worlds(figures: Path) -> object:
    # Closed forms, and merges of 200 vectors: seconds.
    from experiments.toy.curves import main as worlds

    return worlds(["--out", str(figures / "toy_worlds.png")])


def _summarised(name: str) -> Question:
    return Question(name, _from_summary(name))


QUESTIONS = (
    _summarised("saturation"),
    _summarised("heavy_tails"),
    _summarised("scaling"),
    _summarised("thresholds"),
    _summarised("mechanisms"),
    _summarised("default"),
    Question("stability", _stability),
    Question("more_experts", _more_experts),
    Question("theory", _theory, "theory.run"),
    Question("forecast", _forecast),
    Question("diagnose"),
)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments")
    parser.add_argument(
        "--text", action="store_true", help="only the page, not the figures"
    )
    options = parser.parse_args(arguments)
    matplotlib.use("agg")
    drawn = [q.draw for q in QUESTIONS if q.draw is not None and q.was_run]
    # The questions' own commands tell their numbers.
    with contextlib.redirect_stdout(io.StringIO()):
        for draw in [] if options.text else [*drawn, _worlds]:
            draw(FIGURES)
    there = [question for question in QUESTIONS if question.readme.exists()]
    PAGE.write_text(make_page(there))
    print(PAGE.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())

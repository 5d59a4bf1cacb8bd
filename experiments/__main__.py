"""Draws the figures of all committed results, and writes `docs/experiments.md`."""

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib

from experiments.page import PAGE, ROOT, Question, make_page

FIGURES = ROOT / "docs" / "figures"


def _from_summary(name: str) -> Callable[[Path], object]:
    """Figures of a question that draws them from its `summary.json`."""

    def draw(out: Path) -> object:
        module = importlib.import_module(f"experiments.{name}.__main__")
        path = ROOT / "experiments" / name / "results" / "summary.json"
        return module.draw_all(json.loads(path.read_text()), out)

    return draw


def _theory(out: Path) -> object:
    from experiments.theory import run

    results = ROOT / "experiments" / "theory" / "results"
    return run.main(["--redraw", "--out", str(results), "--figures", str(out)])


def _summarised(name: str) -> Question:
    return Question(name, _from_summary(name), (f"{name}/*.png",))


QUESTIONS = (
    _summarised("saturation"),
    _summarised("heavy_tails"),
    _summarised("scaling"),
    _summarised("thresholds"),
    _summarised("mechanisms"),
    Question("stability", None, ("stability.png",)),
    Question("more_experts", None, ("more_experts.png",)),
    Question("theory", _theory, ("theory/*.png",), "theory.run"),
    Question("forecast", None, ("forecast.png",)),
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
    for question in QUESTIONS:
        if options.text or question.draw is None or not question.results.exists():
            continue
        out = FIGURES / question.folder
        out.mkdir(parents=True, exist_ok=True)
        question.draw(out)
    there = [question for question in QUESTIONS if question.readme.exists()]
    PAGE.write_text(make_page(there))
    print(PAGE.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())

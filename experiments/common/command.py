"""The command line that the questions share: run a preset, or draw a summary again."""

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from tqdm import tqdm

from experiments.common.families import CACHE, with_families
from experiments.common.manifest import make_manifest
from experiments.common.results import write_json


@dataclasses.dataclass(frozen=True)
class Command:
    """What is particular about a question's command.

    Attributes:
      name: of its folder.
      presets: its configs by name.
      compute: `(config, out, cache)` to the summary and the seconds of its stages;
        rows are kept in `out`, models in `cache`.
      table: `(config, summary)` to what is printed.
      draw_all: `(summary as read, folder)`: writes the figures.
      files: what a run leaves in `out`, in words.
      by_family: whether `--family` may leave out some.
    """

    name: str
    presets: Mapping[str, Any]
    compute: Callable[[Any, Path, Path], tuple[dict[str, Any], dict[str, float]]]
    table: Callable[[Any, dict[str, Any]], str]
    draw_all: Callable[[dict[str, Any], Path], Sequence[Path]]
    files: str
    by_family: bool = True

    def run(self, config: Any, out: Path, cache: Path) -> dict[str, Any]:
        """Everything of a run, written into a folder; the summary."""
        out.mkdir(parents=True, exist_ok=True)
        found, durations = self.compute(config, out, cache)
        found["manifest"] = make_manifest(config, durations=durations)
        write_json(out / "summary.json", found)
        # Read back, so that keys are text as they are for whoever draws it later.
        self.draw_all(json.loads((out / "summary.json").read_text()), out)
        return found

    def main(self, arguments: list[str] | None = None) -> int:
        """The command line."""
        program = f"python -m experiments.{self.name}"
        parser = argparse.ArgumentParser(prog=program)
        parser.add_argument("--preset", choices=self.presets, default="cpu")
        if self.by_family:
            parser.add_argument(
                "--family", nargs="+", help="some of the preset's families"
            )
        parser.add_argument("--out", type=Path)
        parser.add_argument("--cache", type=Path, default=CACHE, help="trained models")
        parser.add_argument("--draw", type=Path, help="a summary.json to draw again")
        options = parser.parse_args(arguments)
        matplotlib.use("agg")
        if options.draw:
            found = json.loads(options.draw.read_text())
            for path in self.draw_all(found, options.out or options.draw.parent):
                print(path)
            return 0
        out = options.out or Path("runs") / self.name / options.preset
        config = self.presets[options.preset]
        if self.by_family:
            config = with_families(parser, config, options.family)
        print(self.table(config, self.run(config, out, options.cache)))
        print(f"in {out}: {self.files}")
        return 0


def save_figure(figure: Figure, path: Path, dpi: int = 90) -> Path:
    """Writes a figure that is the same bytes for the same numbers; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi, metadata={"Software": None})
    return path


def with_progress(rows: Iterable[Any], config: Any, what: str | None = None) -> list:
    """All rows, one for each family and training seed, with a bar."""
    total = sum(seeds for _, seeds in config.families)
    return list(tqdm(rows, what, total, unit="pool", leave=False))

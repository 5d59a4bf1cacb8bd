"""The command line that the questions share: run a preset, or draw a summary again."""

import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import time
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
      rows: `(config, out, cache)`: an iterable that leaves in `out` the rows that
        `compute` asks for; of several families, processes side by side do that first.
    """

    name: str
    presets: Mapping[str, Any]
    compute: Callable[[Any, Path, Path], tuple[dict[str, Any], dict[str, float]]]
    table: Callable[[Any, dict[str, Any]], str]
    draw_all: Callable[[dict[str, Any], Path], Sequence[Path]]
    files: str
    by_family: bool = True
    rows: Callable[[Any, Path, Path], Iterable[Any]] | None = None

    def run(
        self, config: Any, out: Path, cache: Path, workers: int = 1
    ) -> dict[str, Any]:
        """Everything of a run, written into a folder; the summary."""
        out.mkdir(parents=True, exist_ok=True)
        before = {}
        if workers > 1 and self.rows is not None:
            started = time.perf_counter()
            _side_by_side(self.rows, config, out, cache, workers)
            before[f"rows, {workers} processes"] = time.perf_counter() - started
        found, durations = self.compute(config, out, cache)
        found["manifest"] = make_manifest(config, durations=before | durations)
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
        if self.rows is not None:
            parser.add_argument(
                "--workers",
                type=int,
                default=1,
                help="processes, each with a family at a time",
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
        workers = getattr(options, "workers", 1)
        print(self.table(config, self.run(config, out, options.cache, workers)))
        print(f"in {out}: {self.files}")
        return 0


def _all_rows(rows: Callable[..., Iterable[Any]], *arguments: Any) -> None:
    for _ in rows(*arguments):
        pass


def _side_by_side(
    rows: Callable[..., Iterable[Any]],
    config: Any,
    out: Path,
    cache: Path,
    workers: int,
) -> None:
    """Computes the rows of each family in a process of its own, some at a time.

    Compiling, most of the work for small models, keeps one core busy.
    """
    # A process that is forked from one in which JAX runs may hang.
    fresh = multiprocessing.get_context("spawn")
    # The last of a preset are the largest.
    families = [(family,) for family in reversed(config.families)]
    with concurrent.futures.ProcessPoolExecutor(
        workers, fresh, max_tasks_per_child=1
    ) as executor:
        running = [
            executor.submit(
                _all_rows, rows, dataclasses.replace(config, families=one), out, cache
            )
            for one in families
        ]
        done = concurrent.futures.as_completed(running)
        for job in tqdm(done, "merging", len(running), unit="family", leave=False):
            job.result()


def save_figure(figure: Figure, path: Path, dpi: int = 90) -> Path:
    """Writes a figure that is the same bytes for the same numbers; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi, metadata={"Software": None})
    return path


def with_progress(rows: Iterable[Any], config: Any, what: str | None = None) -> list:
    """All rows, one for each family and training seed, with a bar."""
    total = sum(seeds for _, seeds in config.families)
    return list(tqdm(rows, what, total, unit="pool", leave=False))

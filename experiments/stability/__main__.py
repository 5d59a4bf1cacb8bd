"""Fine-tunes, predicts, merges, and says which terms of the bound rank the merges.

`python -m experiments.stability --preset cpu`; a rerun reuses finished fine-tunes and
rows, and `--redraw` needs nothing but the rows, as they are or gzipped.
"""

import argparse
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
from tqdm import tqdm

from experiments.common.manifest import make_manifest
from experiments.common.results import Results, write_json
from experiments.stability.config import PRESETS, Config, grid, num_fine_tunes
from experiments.stability.plot import draw
from experiments.stability.report import summarise, text
from experiments.stability.sweep import run_model

_ROWS = {"predicted": "predictions.jsonl", "measured": "measured.jsonl"}
_COSTS = ("identity", "parameters", "samples", "flops", "smoothness")


def finish(config: Config, found: dict[str, Any], figure: Path) -> dict[str, Any]:
    """The summary and the figure, from rows."""
    summary = summarise(config, found)
    matplotlib.use("agg")
    picture = draw(config, found, summary)
    picture.savefig(figure, dpi=80, metadata={"Software": None})
    return summary


def run(config: Config, out: Path, figure: Path | None = None) -> dict[str, Any]:
    """All models: rows, figure and `summary.json` with its manifest, in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    bar = tqdm(config.models, unit="model", leave=False)
    found = {model: run_model(config, model, out, bar.set_postfix_str) for model in bar}
    cost = {
        model: {
            "fine_tunes": num_fine_tunes(config),
            "merges": sum(len(row["risk"]) for row in rows["measured"]),
            "grid": len(grid(config)),
            **{n: rows[n] for n in _COSTS},
        }
        for model, rows in found.items()
    }
    seconds = {model: rows["seconds"] for model, rows in found.items()}
    manifest = make_manifest(config, durations=seconds, cost=cost)
    summary = finish(config, found, figure or out / "figure.png")
    write_json(out / "summary.json", {"models": summary, "manifest": manifest})
    return summary


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, or of its gzipped copy."""
    packed = path.with_name(path.name + ".gz")
    if path.exists() or not packed.exists():
        return list(Results(path).rows.values())
    lines = gzip.decompress(packed.read_bytes()).splitlines()
    return [json.loads(line)["row"] for line in lines]


def publish(out: Path, folder: Path) -> None:
    """Copies what is committed: the summary, and the rows gzipped."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_bytes((out / "summary.json").read_bytes())
    for file in _ROWS.values():
        packed = gzip.compress((out / file).read_bytes(), compresslevel=9, mtime=0)
        (folder / f"{file}.gz").write_bytes(packed)


def redraw(config: Config, out: Path, figure: Path | None = None) -> dict[str, Any]:
    """The summary and the figure again, from the rows and the manifest of a folder."""
    manifest = json.loads((out / "summary.json").read_text())["manifest"]
    rows = {name: read_rows(out / file) for name, file in _ROWS.items()}
    found = {
        model: {
            **{n: [r for r in rows[n] if r["run"] == cost["identity"]] for n in _ROWS},
            "smoothness": cost["smoothness"],
        }
        for model, cost in manifest["cost"].items()
    }
    summary = finish(config, found, figure or out / "figure.png")
    write_json(out / "summary.json", {"models": summary, "manifest": manifest})
    return summary


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.stability")
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--redraw", action="store_true", help="only tables and figure, from the rows"
    )
    parser.add_argument(
        "--publish", type=Path, metavar="FOLDER", help="also copy the rows, gzipped"
    )
    parser.add_argument("--figure", type=Path, help="where to draw, if not in --out")
    options = parser.parse_args(arguments)
    out = options.out or Path("runs") / "stability" / options.preset
    made = redraw if options.redraw else run
    print(text(made(PRESETS[options.preset], out, options.figure)))
    if options.publish:
        publish(out, options.publish)
    print(f"in {out}: summary.json, predictions.jsonl, measured.jsonl")
    print(f"figure: {options.figure or out / 'figure.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

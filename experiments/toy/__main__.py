"""Trains the families of a preset, or finds them trained, and prints what they score.

`python -m experiments.toy --preset cpu --family vit resnet`; models are kept in
`runs/toy/PRESET/FAMILY` and used again by whoever asks for the same pool.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.common.manifest import make_manifest
from experiments.common.results import write_json
from experiments.toy.presets import PRESETS, Family, train_family
from experiments.toy.training import summary


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run trains.

    Attributes:
      seed: None: each family has its own.
      families: by name.
    """

    seed: int | None
    families: dict[str, Family]


def table(found: dict[str, Any]) -> str:
    """Test accuracies of one family, a row a task, and the mean."""
    columns = ("base", "expert", "multitask")
    lines = [
        f"{found['name']}: {found['parameters']:,} parameters, {len(found['tasks'])} "
        "experts",
        f"  {'task':<18}" + "".join(f"{name:>11}" for name in columns),
    ]
    rows = list(zip(found["tasks"], *(found[c] for c in columns), strict=True))
    shown = rows if len(rows) <= 16 else rows[:4]
    for name, *values in shown:
        lines.append(f"  {name:<18}" + "".join(f"{v:>11.1%}" for v in values))
    if len(shown) < len(rows):
        lines.append(f"  … {len(rows) - len(shown)} more")
    means = [sum(found[c]) / len(rows) for c in columns]
    lines.append(f"  {'mean':<18}" + "".join(f"{v:>11.1%}" for v in means))
    if found["dropped"]:
        lines.append(f"  dropped, gained too little: {', '.join(found['dropped'])}")
    return "\n".join(lines)


def run(families: dict[str, Family], out: Path) -> list[dict[str, Any]]:
    """Every family's accuracies; writes models and `results.json` into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    rows, seconds, work = [], {}, {}
    bar = tqdm(families.items(), unit="family", leave=False)
    for name, config in bar:
        started = time.perf_counter()
        stage = lambda what, name=name: bar.set_postfix_str(f"{name}: {what}")
        pool, record = train_family(config, out / name, stage)
        rows.append(summary(pool))
        seconds[name] = time.perf_counter() - started
        work[name] = {key: record[key] for key in ("samples", "flops", "gains")}
    manifest = make_manifest(Config(None, families), durations=seconds, work=work)
    write_json(out / "results.json", {"families": rows, "manifest": manifest})
    return rows


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.toy")
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--family", nargs="+", help="some of the preset's families")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    families = PRESETS[options.preset]
    chosen = options.family or list(families)
    if unknown := [name for name in chosen if name not in families]:
        parser.error(
            f"no family {unknown[0]!r} in preset {options.preset}; there are "
            f"{', '.join(families)}"
        )
    out = options.out or Path("runs") / "toy" / options.preset
    for row in run({name: families[name] for name in chosen}, out):
        print(table(row))
    print(f"in {out}: results.json, and the models by family")
    return 0


if __name__ == "__main__":
    sys.exit(main())

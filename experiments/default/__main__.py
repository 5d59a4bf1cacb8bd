"""Is `jaxmerge.default` a good default, on families that its design has not seen?

`python -m experiments.default --preset cpu`; a rerun goes on where one stopped.
"""

import sys
import time
from pathlib import Path
from typing import Any

from experiments.common.command import Command, save_figure, with_progress
from experiments.default.config import PRESETS
from experiments.default.plot import draw, draw_regret
from experiments.default.report import summary, table
from experiments.saturation.config import Config
from experiments.saturation.sweep import run_sweep


def draw_all(found: dict[str, Any], out: Path) -> list[Path]:
    """Writes every figure of a summary into a folder."""
    curves = save_figure(draw(found), out / "curves.png", 80)
    return [curves, save_figure(draw_regret(found), out / "regret.png")]


def compute(
    config: Config, out: Path, cache: Path
) -> tuple[dict[str, Any], dict[str, float]]:
    """All merges: their summary, and how long they took."""
    started = time.perf_counter()
    pools = with_progress(run_sweep(config, out, cache), config)
    return summary(config, pools), {"sweep": time.perf_counter() - started}


main = Command(
    name="default",
    presets=PRESETS,
    compute=compute,
    table=table,
    draw_all=draw_all,
    files="summary.json, merges.jsonl and the figures",
    rows=run_sweep,
).main


if __name__ == "__main__":
    sys.exit(main())

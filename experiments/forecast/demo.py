"""The forecast on the networks that `make demo` trains: ten experts on digits.

`python -m experiments.forecast.demo` after `make demo`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax

from experiments.common.results import write_json
from experiments.forecast.plot import draw
from experiments.more_experts.config import PRESETS
from experiments.more_experts.tasks import TASKS, draw_samples
from experiments.more_experts.train import make_architecture
from jaxmerge import checkpoint, laws


def measure(models: Path, preset: str) -> dict[str, Any]:
    """Forecasts the pooled loss of averages of ten experts, then merges all sets."""
    config = PRESETS[preset]
    architecture = make_architecture(config)
    samples = draw_samples(config.seed, "validation", 1, num_tasks=config.num_tasks)

    def pooled(params: Any) -> jax.Array:
        def of_task(inputs: jax.Array, labels: jax.Array) -> jax.Array:
            logits = architecture.logits(params, inputs)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.mean(losses)

        return jnp.mean(jax.lax.map(lambda s: of_task(*s), tuple(samples)))

    load = lambda name: jax.tree.map(
        jnp.asarray, checkpoint.load(models / f"{name}.safetensors")
    )
    names = [task.name for task in TASKS[: config.num_tasks]]
    base, experts = load("base"), [load(f"expert_{name}") for name in names]
    expansion = jax.jit(lambda b, e: laws.expand(pooled, b, e))(base, experts)
    forecast = laws.forecast_curve(expansion)
    at_base = jax.jit(lambda b, e: laws.predict_tail(pooled, b, e, at="base"))(
        base, experts
    )
    table = laws.measure(
        laws.linear_merge(base, experts),
        laws.all_subsets(len(experts)),
        {"pooled": pooled},
        batch_size=8,
    )
    points = table.points()
    return {
        "kind": "digits",
        "k": points.k.astype(int).tolist(),
        "measured": points.mean.tolist(),
        "spread": np.sqrt(np.nan_to_num(points.variance)).tolist(),
        "forecast": forecast.mean.tolist(),
        "forecast_spread": forecast.spread.tolist(),
        "second_order": np.asarray(expansion.mean(points.k, order=2)).tolist(),
        "taylor_at_base": np.asarray(at_base.curve(points.k)).tolist(),
    }


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.forecast.demo")
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--models", type=Path, help="where the demo's models are")
    parser.add_argument("--out", type=Path, default=Path("runs") / "forecast" / "demo")
    options = parser.parse_args(arguments)
    models = options.models or Path("runs") / "more_experts" / options.preset / "models"
    if not (models / "base.safetensors").exists():
        print(f"{models} has no models; run make demo first", file=sys.stderr)
        return 1
    row = measure(models, options.preset)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "demo.json", row)
    matplotlib.use("agg")
    draw([row]).savefig(options.out / "demo.png", dpi=110)
    columns = ("k", "measured", "forecast", "second_order", "taylor_at_base")
    print("".join(f"{name:>16}" for name in columns))
    for values in zip(*(row[name] for name in columns), strict=True):
        print("".join(f"{value:>16.5g}" for value in values))
    return 0


if __name__ == "__main__":
    sys.exit(main())

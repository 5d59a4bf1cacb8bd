"""Tables that a person reads: a pool's training, and merges of real models.

`python -m experiments.llm.report RECORD.json` prints the page's table of all pools.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def training_table(record: dict[str, Any]) -> str:
    """The losses on the test sets: a row a domain, and the mean.

    Args:
      record: as `pool.load_pool` gives it.
    """
    losses, shares = record["test_loss"], record["test_accuracy"]
    own = lambda table: np.diagonal(np.array(table["experts"]))
    columns = [
        losses["base"],
        own(losses),
        _of_others(np.array(losses["experts"])),
        losses["multitask"],
        shares["base"],
        own(shares),
        shares["multitask"],
    ]
    values = np.array(columns, float).T
    rows = [
        f"{'':<12} {'nats a token':>34} {'':>8} {'right':>26}",
        f"{'domain':<12} {'base':>8} {'own':>8} {'others':>8} {'multi':>8} {'':>8}"
        f" {'base':>8} {'own':>8} {'multi':>8}",
    ]
    for name, row in zip(
        [*record["tasks"], "mean"], [*values, values.mean(axis=0)], strict=True
    ):
        nats = " ".join(f"{x:>8.3f}" for x in row[:4])
        right = " ".join(f"{x:>8.1%}" for x in row[4:])
        rows.append(f"{name:<12} {nats} {'':>8} {right}")
    for gone in record["dropped"]:
        rows.append(
            f"dropped, no clear gain: {gone['task']} "
            f"({gone['gain']:+.3f} ± {gone['stderr']:.3f})"
        )
    return "\n".join(rows)


def _of_others(experts: np.ndarray) -> np.ndarray:
    """The mean loss on each domain of the experts of other domains."""
    size = len(experts)
    return (experts.sum(axis=0) - np.diagonal(experts)) / (size - 1)


def markdown_table(records: list[dict[str, Any]]) -> str:
    """All pools of a record, a row each: means over the kept domains of test losses."""
    lines = [
        "| pool | parameters | experts | FLOPs | base | own | multitask | others "
        "| dropped |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        experts = np.array(record["test_loss"]["experts"])
        means = [
            np.mean(record["test_loss"]["base"]),
            np.mean(np.diagonal(experts)),
            np.mean(record["test_loss"]["multitask"]),
            np.mean(_of_others(experts)),
        ]
        gone = [
            f"{entry['task']} ({entry['gain']:.3f} ± {entry['stderr']:.3f})"
            for entry in record["dropped"]
        ]
        cells = [
            record["name"],
            f"{record['num_parameters']:,}",
            str(len(experts)),
            f"{record['flops']['total']:.1e}",
            *(f"{mean:.3f}" for mean in means),
            ", ".join(gone),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def costs(record: dict[str, Any]) -> str:
    """Parameters, tokens and FLOPs in a line."""
    return (
        f"{record['num_parameters']:,} parameters, "
        f"{record['tokens']['total']:,} tokens, "
        f"{record['flops']['total']:.2g} FLOPs"
    )


def domain_table(rows: list[dict[str, Any]]) -> str:
    """The base and each expert on each domain, in nats a token.

    Args:
      rows: as `real.run` gives them.
    """
    alone = [row for row in rows if row["method"] in ("base", "expert")]
    domains = list(alone[0]["losses"])
    lines = [f"{'':<24}" + "".join(f" {name:>12.12}" for name in domains)]
    for row in alone:
        name = row["experts"][0] if row["experts"] else "base"
        losses = "".join(f" {row['losses'][d]:>12.4f}" for d in domains)
        lines.append(f"{name:<24.24}{losses}")
    return "\n".join(lines)


def merge_table(rows: list[dict[str, Any]]) -> str:
    """The mean loss over domains of each method's merges, a column for each k.

    Args:
      rows: as `real.run` gives them; several merges of one k are averaged.
    """
    merges = [row for row in rows if row["method"] not in ("base", "expert")]
    counts = sorted({row["k"] for row in merges})
    lines = [f"{'k':<24}" + "".join(f" {k:>8}" for k in counts)]
    for method in dict.fromkeys(row["method"] for row in merges):
        cells = []
        for k in counts:
            means = [
                float(np.mean(list(row["losses"].values())))
                for row in merges
                if row["method"] == method and row["k"] == k
            ]
            cells.append(f" {np.mean(means):>8.4f}" if means else f" {'':>8}")
        lines.append(f"{method:<24}" + "".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown_table(json.loads(Path(sys.argv[1]).read_text())))

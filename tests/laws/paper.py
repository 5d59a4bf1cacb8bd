"""The paper's tables, from tests/fixtures/scaling_law."""

import csv
from pathlib import Path

import numpy as np

from jaxmerge.laws import JointLaw, Points, curve_points

FOLDER = Path(__file__).parents[1] / "fixtures" / "scaling_law"
SIZES = np.array([0.5, 1.5, 3.0, 7.0, 14.0, 32.0, 72.0])
COUNTS = np.arange(1.0, 10.0)


def rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / f"{name}.csv").open(newline="") as text:
        return list(csv.DictReader(text))


def law(row: dict[str, str]) -> JointLaw:
    floor = row.get("Lstar") or row["Vstar"]
    names = ("B", "beta", "A0", "gamma", "b0")
    return JointLaw(float(floor), *(float(row[name]) for name in names))


def joint_laws(table: str = "joint_fit_mean") -> dict[tuple[str, str], JointLaw]:
    return {(row["method"], row["domain"]): law(row) for row in rows(table)}


def grid(law: JointLaw, noise: np.ndarray | float = 0.0) -> Points:
    """The paper's 7 x 9 grid."""
    size, k = np.meshgrid(SIZES, COUNTS, indexing="ij")
    return curve_points(k, law(size, k) * (1 + noise), size=size)


def sixteen(domain: str = "overall16") -> Points:
    """Table 20: the one measured curve that the paper prints in full."""
    own = {
        row["stat"]: row
        for row in rows("measured_16domain_llama3b_ta")
        if row["domain"] == domain
    }
    columns = [f"k{k}" for k in range(2, 17, 2)]
    read = lambda stat: [float(own[stat][c] or "nan") for c in columns]
    return curve_points(np.arange(2, 17, 2), read("ce"), variance=read("var"))

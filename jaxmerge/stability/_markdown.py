"""A merge-friendliness report as plain data and as Markdown."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxmerge.stability.report import MergeFriendliness


def plain(value: Any) -> Any:
    """Python numbers, lists and dicts; JSON has no infinity, it becomes a string."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    return [lines[0], "|" + "---|" * len(header), *lines[1:]]


def markdown(found: "MergeFriendliness") -> str:
    """A section of a page: the experts, the bound's terms, notes, what is missing."""
    columns: dict[str, Any] = {
        "norm": found.norms,
        "coefficient": found.coefficients,
        "suggested": found.suggested_coefficients,
        "length ηK": found.training_lengths,
        "ηLK": found.curvature_steps,
        "K*": found.best_steps,
    }
    known = {name: column for name, column in columns.items() if column is not None}
    rows = [
        [found.names[t], *(f"{column[t]:.4g}" for column in known.values())]
        for t in range(len(found.names))
    ]
    off = ~np.eye(len(found.names), dtype=bool)
    lines = ["## Merge-friendliness", "", f"Confidence: {found.confidence}.", ""]
    lines += _table(["expert", *known], rows)
    facts = [f"dispersion V = {found.dispersion:.4g}"]
    if off.any():
        facts.append(f"mean cosine {found.cosines[off].mean():.3f}")
    if found.heterogeneity is not None:
        facts.append(f"ζ² = {found.heterogeneity:.4g}")
    if found.chi_squared is not None:
        facts.append(f"χ² = {found.chi_squared:.4g}")
    lines += ["", "; ".join(facts) + "."]
    if found.terms is not None and found.shares is not None:
        shares = found.shares
        rows = [
            [
                name.replace("_", " "),
                f"{value:.4g}",
                f"{100 * shares[name]:.0f} %" if name in shares else "",
            ]
            for name, value in found.terms.items()
        ]
        lines += ["", *_table(["term of the bound", "value", "share"], rows)]
    lines += [""] * bool(found.notes) + [f"- {note}" for note in found.notes]
    if found.missing:
        lines += ["", *(f"Not given: {what}." for what in found.missing.values())]
    return "\n".join(lines)

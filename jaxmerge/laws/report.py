"""Fits and plans as lines of text, as plain data, and as a figure."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxmerge.laws._numbers import Real
from jaxmerge.laws.curves import FORMS, Curve, JointLaw
from jaxmerge.laws.fit import Fit
from jaxmerge.laws.guards import Caution
from jaxmerge.laws.plans import Answer, Plan

_SYMBOLS = {
    "floor": "floor",
    "amplitude": "A",
    "offset": "b",
    "size_amplitude": "B",
    "size_exponent": "beta",
    "amplitude_exponent": "gamma",
    "rise": "D",
    "half": "q",
}
_ORDER = tuple(_SYMBOLS)


def formula(law: Any) -> str:
    """The law in symbols."""
    tail = FORMS[law.form].formula
    if isinstance(law, Curve):
        rise = " + D k / (k + q)" if law.rise else ""
        return f"L(k) = floor + {tail}{rise}"
    return f"L(N, k) = floor + B N^-beta + {tail.replace('A', 'A N^-gamma', 1)}"


def _interval(ends: tuple[float, float]) -> str:
    return "" if np.isnan(ends[0]) else f"{ends[0]:.5g} to {ends[1]:.5g}"


def fit_rows(fit: Fit) -> list[list[str]]:
    """A table of parameters: symbol, value, interval, and whether it is on a bound."""
    rows = [["", "value", "95 % interval", ""]]
    for name in sorted(fit.names, key=_ORDER.index):
        value = fit.values[fit.names.index(name)]
        note = f"on its {fit.active[name]} bound" if name in fit.active else ""
        rows.append(
            [_SYMBOLS[name], f"{value:.5g}", _interval(fit.interval(name)), note]
        )
    return rows


def fit_lines(fit: Fit, rivals: Sequence[Fit] = ()) -> list[str]:
    """How good a fit is, and how its rivals do.

    Args:
      fit: of the law.
      rivals: all forms, from `compare`.
    """
    lines = [
        f"R^2 {fit.r_squared:.5f} over {len(fit.points)} points "
        f"({fit.r_squared_weighted:.5f} with the fit's weights)"
    ]
    if rivals:
        best = min(rival.aicc for rival in rivals)
        listed = ", ".join(
            f"{FORMS[rival.law.form].formula.strip()} {rival.aicc - best:+.1f}"
            for rival in rivals
            if np.isfinite(rival.aicc)
        )
        lines.append(f"AICc above the best form: {listed}")
    return lines


def caution_lines(cautions: Sequence[Caution]) -> list[str]:
    """A line for each caution, each name once."""
    unique = {(caution.name, caution.text): caution for caution in cautions}
    return [f"warning: {caution}" for caution in unique.values()]


def _count(value: Real | None) -> str:
    if value is None:
        return "none"
    return f"{value:.4g}" if value != int(value) else f"{int(value)}"


def plan_rows(plan: Plan) -> list[list[str]]:
    """A table of answers."""
    rows = [["question", "answer", "95 % interval"]]
    for answer in plan.answers:
        ends = f"{_count(answer.lower)} to {_count(answer.upper)}"
        same = answer.lower == answer.upper == answer.value
        rows.append([answer.question, _count(answer.value), "" if same else ends])
    return rows


def as_data(fit: Fit, plan: Plan | None = None) -> dict[str, Any]:
    """All of it, ready for `json.dumps`: what is not finite is None."""
    number = lambda x: float(x) if np.isfinite(x) else None
    data: dict[str, Any] = {
        "form": fit.law.form,
        "formula": formula(fit.law),
        "parameters": {
            name: {
                "value": number(value),
                "stderr": number(error),
                "interval": [number(end) for end in fit.interval(name)],
                "on_bound": fit.active.get(name),
            }
            for name, value, error in zip(
                fit.names, fit.values, fit.stderr, strict=True
            )
        },
        "r_squared": fit.r_squared,
        "r_squared_weighted": fit.r_squared_weighted,
        "aicc": number(fit.aicc),
        "points": {
            name: [number(x) for x in getattr(fit.points, name)]
            for name in ("size", "k", "mean", "variance", "count")
        },
        "cautions": [vars(caution) for caution in fit.cautions],
    }
    if plan is not None:
        data["plan"] = {
            "size": plan.size,
            "pool": plan.pool,
            "answers": [vars(answer) for answer in plan.answers],
            "choice": None if plan.choice is None else plan.choice._asdict(),
        }
        data["cautions"] = [vars(caution) for caution in plan.cautions]
    return data


def figure(fit: Fit, plan: Plan | None = None) -> Any:
    """The law over the measured means; needs matplotlib.

    The band is that of the bootstrap draws, the bars two standard errors of the means.
    Floors are dashed; the plan's first answer is marked.
    """
    from matplotlib.figure import Figure

    result = Figure(figsize=(6.0, 4.2), layout="constrained")
    axes = result.subplots()
    sizes = fit.points.sizes
    last = max(fit.points.k.max() * 1.5, fit.points.k.max() + 2)
    k = np.linspace(fit.points.k.min(), last, 200)
    colors = _colors(len(sizes))
    for size, color in zip(sizes, colors, strict=True):
        own = fit.points.at_size(size)
        at = lambda law, size=size: law.at(size) if isinstance(law, JointLaw) else law
        if fit.draws is not None:
            drawn = np.stack([np.asarray(at(law)(k)) for law in fit.laws()])
            low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
            axes.fill_between(k, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(k, at(fit.law)(k), color=color, linewidth=1.5)
        if not np.isnan(size):
            end = (k[-1], float(at(fit.law)(k[-1])))
            axes.annotate(
                f"N = {size:g}",
                end,
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                color=color,
            )
        error = 2 * np.sqrt(own.variance / own.count)
        error = np.where(np.isfinite(error), error, 0.0)
        axes.errorbar(
            own.k, own.mean, yerr=error, fmt="o", color=color, ms=4, linewidth=0.8
        )
        if FORMS[fit.law.form].has_floor:
            floor = float(at(fit.law).floor)
            axes.axhline(floor, color=color, linewidth=0.7, linestyle=(0, (4, 3)))
    axes.axvline(fit.points.k.max(), color="#bbbbbb", linewidth=0.8, linestyle=":")
    if plan is not None and plan.answers:
        _mark(axes, plan.answers[0], last)
    axes.set_xlabel("number of experts merged, k")
    axes.set_ylabel("mean loss over subsets")
    axes.set_title(formula(fit.law), fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return result


def _mark(axes: Any, answer: Answer, last: float) -> None:
    if answer.value is None or answer.value > last:
        return
    axes.axvline(answer.value, color="#000000", linewidth=1.0)
    axes.annotate(
        f"k = {_count(answer.value)}: {answer.question.removeprefix('experts ')}",
        (answer.value, 0.98),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        va="top",
        fontsize=7.5,
        color="#000000",
    )


def _colors(num: int) -> list[str]:
    """Okabe and Ito's palette, told apart with any colour vision."""
    palette = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
    return [palette[i % len(palette)] for i in range(num)]

"""A diagnosis as one HTML file that opens without a network."""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

from jaxmerge.diagnose import report
from jaxmerge.diagnose.diagnosis import Diagnosis
from jaxmerge.diagnose.figures import FIGURES

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; font-size: 0.85rem; display: block;
        overflow-x: auto; }
th, td { text-align: left; padding: 0.2rem 0.8rem 0.2rem 0; vertical-align: top;
         border-bottom: 1px solid #ddd; }
figure { margin: 1rem 0; } img { max-width: 100%; }
.quiet { color: #666; } .box { background: #f4f4f0; padding: 0.6rem 1rem; }
pre { white-space: pre-wrap; font-size: 0.8rem; background: #f8f8f8; padding: 1rem; }
"""


def _table(rows: Sequence[Sequence[str]]) -> str:
    cells = lambda row, tag: "".join(
        f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row
    )
    head, *body = rows
    lines = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in body)
    return (
        f"<table><thead><tr>{cells(head, 'th')}</tr></thead>"
        f"<tbody>{lines}</tbody></table>"
    )


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(x)}</li>" for x in lines) + "</ul>"


def _image(canvas: Any, name: str) -> str:
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=120)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure><img alt="{html.escape(name)}" src="data:image/png;base64,{data}" />'
        "</figure>"
    )


def _advice(found: Diagnosis) -> str:
    rows = [["about", "advice", "the number behind it (95 %)", "changes at"]]
    for one in found.advice:
        said = f"no advice: {one.text}" if one.abstains else one.text
        behind = f"{one.number}: {report.interval_text(one.found)}"
        rows.append([one.topic, said, behind, f"{one.neutral:g}"])
    return _table(rows)


def _antidotes(found: Diagnosis) -> list[str]:
    return [
        f"{name}: {one.antidote}"
        for name, one in found.mechanisms.items()
        if one.verdict == "at work"
    ]


def as_html(found: Diagnosis, title: str = "Diagnosis of a merge") -> str:
    """The report, whole: styles and figures are inside, nothing is fetched.

    Args:
      found: from `diagnose`.
      title: of the page.

    Raises:
      ModuleNotFoundError: without matplotlib.
    """
    measured = found.measurements
    images = {name: _image(draw(found), name) for name, draw in FIGURES.items()}
    friendliness = html.escape(found.friendliness.as_markdown())
    heading = html.escape(title)
    parts = [
        f"<h1>{heading}</h1>",
        f"<p>Experts: {len(measured.experts)}. Parameters: "
        f"{measured.whole.parameters:,}. Layers: {len(measured.layers)}.</p>",
        "<h2>Advice</h2>",
        f"<p>Method: <strong>{html.escape(str(found.choice))}</strong></p>",
        _advice(found),
        f'<p class="box">{html.escape(report.record_line())}</p>',
        "<h2>Six mechanisms</h2>",
        _table(report.mechanisms_table(found)),
        "<p>What helps against those at work:</p>" if _antidotes(found) else "",
        _list(_antidotes(found)) if _antidotes(found) else "",
        "<h2>The experts</h2>",
        _table(report.experts_table(measured)),
        images.get("cosines", ""),
        images.get("norms", ""),
        "<h2>One more expert</h2>",
        _table(report.gains_table(found)),
        images.get("gains", ""),
        images.get("widths", ""),
        _list(report.threshold_lines(found)),
        "<h2>Layers</h2>",
        _table(report.layers_table(measured)),
        images.get("conflicts", ""),
        images.get("spectra", ""),
        "<h2>Stability</h2>",
        f"<pre>{friendliness}</pre>",
        '<p class="quiet">What each number is, and how far to trust it: '
        "docs/diagnose.md of jaxmerge.</p>",
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8" />\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1" />\n'
        f"<title>{heading}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )

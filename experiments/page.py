"""One page of all questions: what is asked, how, what the figures show, what was found.

The text is that of each question's README, so that there is one place to change it.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "experiments.md"
FIGURES = ("Figures", "Figure", "Result")
FOUND = ("What was found", "Findings")
COMPARED = "Compared with the paper"
PROTOCOLS = ("Protocol", "What is measured", "What is scored")
# An image and the paragraph in italics below it.
_FIGURE = re.compile(r"^!\[[^\]]*\]\([^)]+\)\n\n\*.+?\*(?=\n\n|\s*\Z)", re.M | re.S)

_HEAD = """# Experiments

What the papers claim, tested at sizes that train on two cores; each question is a
folder of `experiments/` with one command, its protocol and its results. This page is
made of their READMEs, and the figures of their committed results, by

    python -m experiments

All results are of the `cpu` presets, but where the text says otherwise. The `gpu`
presets (larger models, up to fifty experts, more seeds) were not run: there was no such
machine.
"""


@dataclasses.dataclass(frozen=True)
class Question:
    """A folder of `experiments/`.

    Attributes:
      folder: its name.
      draw: makes its figures from committed results, in the folder of all figures; None
        where there are none.
      module: what runs it, where it is not the folder itself.
    """

    folder: str
    draw: Callable[[Path], object] | None = None
    module: str | None = None

    @property
    def readme(self) -> Path:
        """Where its text is."""
        return ROOT / "experiments" / self.folder / "README.md"

    @property
    def results(self) -> Path:
        """Where its committed results are."""
        return ROOT / "experiments" / self.folder / "results"

    @property
    def was_run(self) -> bool:
        """Whether there are results, and not only predictions of them."""
        names = [path.name for path in self.results.glob("*")]
        return any(not name.startswith("predictions") for name in names)


def sections(text: str) -> dict[str, str]:
    """The parts of a README by their headings; what precedes the first is `""`.

    >>> sections("# Why?\\n\\nSo.\\n\\n## Findings\\nNone.\\n")
    {'': '# Why?\\n\\nSo.', 'Findings': 'None.'}
    """
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    found = {"": parts[0].strip()}
    found |= {
        name.strip(): body.strip()
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }
    return found


def figures(text: str) -> list[str]:
    """The figures of a README, each with its caption.

    >>> figures("So.\\n\\n![a](a.png)\\n\\n*Dots: *T*.*\\n\\nThen.")
    ['![a](a.png)\\n\\n*Dots: *T*.*']
    """
    return _FIGURE.findall(text)


def _question(head: str) -> tuple[str, str]:
    """A README's title, and its opening without commands and headings."""
    title = re.match(r"# (.+)", head)
    assert title is not None, "a README begins with its question"
    paragraphs = re.split(r"\n\n+", head[title.end() :].strip("\n"))
    prose = [
        p
        for p in paragraphs
        if not p.startswith(("    ", "```", "|", "#")) and p.strip()
    ]
    return title[1], "\n\n".join(prose[:2])


def _moved(text: str, folder: Path) -> str:
    """Links of a README, as seen from the page."""

    def link(match: re.Match) -> str:
        target = match[2]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, *anchor = target.split("#")
        there = os.path.relpath((folder / path).resolve(), PAGE.parent)
        return f"{match[1]}({'#'.join([Path(there).as_posix(), *anchor])})"

    return re.sub(r"(\[[^\]]*\])\(([^)]+)\)", link, text)


def _entry(question: Question) -> str:
    folder = question.readme.parent
    text = question.readme.read_text()
    parts = sections(text)
    title, opening = _question(parts[""])
    lines = [f"## {title}", _moved(opening, folder)]
    protocol = next((name for name in PROTOCOLS if name in parts), "")
    where = f"../experiments/{question.folder}/README.md"
    anchor = "#" + protocol.lower().replace(" ", "-") if protocol else ""
    lines.append(
        f"[The folder's own page]({where}{anchor}) · "
        f"`python -m experiments.{question.module or question.folder}`"
    )

    def shown(names: Sequence[str]) -> list[str]:
        return [f"### {name}\n\n{parts[name]}" for name in names if name in parts]

    before, after = shown((*PROTOCOLS, *FIGURES)), shown((*FOUND, COMPARED))
    # What illustrates a part that is not shown here stands before the findings.
    whole = "\n\n".join([*before, *after])
    loose = [figure for figure in figures(text) if figure not in whole]
    lines.extend(_moved(part, folder) for part in [*before, *loose, *after])
    if not question.was_run:
        lines.append("Not run yet: the code and its smoke preset are there.")
    return "\n\n".join(lines)


def _contents(questions: Sequence[Question]) -> str:
    """A line for each question: what was found, in short."""
    lines = ["| question | in short |", "|---|---|"]
    for question in questions:
        title, opening = _question(sections(question.readme.read_text())[""])
        anchor = re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        short = re.search(r"^\*\*In short\.\*\* (.+?)(?:\n\n|\Z)", opening, re.M | re.S)
        assert short is not None, f"{question.readme} has no paragraph **In short.**"
        lines.append(f"| [{title}](#{anchor}) | {' '.join(short[1].split())} |")
    return "\n".join(lines)


def make_page(questions: Sequence[Question]) -> str:
    """The page's text."""
    entries = [_entry(question) for question in questions]
    # Headings of a README's parts stand one level lower here.
    whole = [_HEAD.strip(), _contents(questions), *entries]
    return "\n\n".join(whole) + "\n"

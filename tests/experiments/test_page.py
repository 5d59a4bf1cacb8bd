"""The page of all questions is made of their READMEs."""

import pytest

from experiments.__main__ import QUESTIONS
from experiments.page import PAGE, ROOT, Question, figures, make_page


def test_the_page_is_of_the_readmes():
    there = [question for question in QUESTIONS if question.readme.exists()]
    assert PAGE.read_text() == make_page(there), "run python -m experiments --text"


def test_links_of_a_readme_lead_to_the_same_file_from_the_page():
    """The README says `../../docs/figures/more_experts.png`."""
    text = make_page([Question("more_experts")])
    assert "[the figure](figures/more_experts.png)" in text
    assert "](../experiments/more_experts/README.md#what-is-measured)" in text


def test_every_figure_has_a_caption_where_it_stands():
    texts = [*ROOT.glob("experiments/*/README.md"), ROOT / "README.md"]
    there = set()
    for path in texts:
        text = path.read_text()
        shown = figures(text)
        assert text.count("![") == len(shown), f"{path}: a figure without a caption"
        for figure in shown:
            name = figure.split("](")[1].split(")")[0]
            there.add((path.parent / name).resolve())
    assert {
        path.resolve() for path in (PAGE.parent / "figures").rglob("*.png")
    } == there


def test_an_opening_that_begins_with_a_title_in_italics_is_kept():
    assert "*Model Merging Scaling Laws in Large" in make_page([Question("scaling")])


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.folder)
def test_figures_on_the_page_are_there(question):
    if question.readme.exists():
        for line in make_page([question]).splitlines():
            if line.startswith("!["):
                assert (PAGE.parent / line.split("](")[1].rstrip(")")).exists()


DRAWN = [question for question in QUESTIONS if figures(question.readme.read_text())]


@pytest.mark.parametrize("question", DRAWN, ids=lambda question: question.folder)
def test_every_figure_has_what_draws_it_from_committed_results(question):
    assert question.was_run
    assert question.draw is not None


@pytest.mark.parametrize("folder", ["more_experts", "thresholds"])
def test_a_figure_is_drawn_where_it_is_asked_for(folder, tmp_path):
    question = next(question for question in QUESTIONS if question.folder == folder)
    question.draw(tmp_path)
    (drawn,) = tmp_path.rglob("*.png")
    assert (PAGE.parent / "figures" / drawn.relative_to(tmp_path)).exists()


def test_the_contents_lead_to_every_question():
    lines = PAGE.read_text().splitlines()
    for question in QUESTIONS:
        title = question.readme.read_text().splitlines()[0].removeprefix("# ")
        assert f"## {title}" in lines
        assert any(line.startswith(f"| [{title}](#") for line in lines)

"""The command, and what it writes."""

import json
import re
import sys
import xml.dom.minidom

import jax
import pytest

from jaxmerge import checkpoint
from jaxmerge.cli.main import main
from jaxmerge.diagnose import diagnose, record
from jaxmerge.diagnose.figures import FIGURES
from jaxmerge.diagnose.html import as_html
from jaxmerge.diagnose.record import sentence
from jaxmerge.diagnose.report import as_data
from tests.diagnose.models import base, normal

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    # A name that is no HTML, and would be a formula in a figure.
    names = ("base", "a", "<b>&$x_1$", "c")
    paths = [str(folder / f"{name}.safetensors") for name in names]
    for path, model in zip(paths, [base(), *normal(3)], strict=True):
        checkpoint.save(path, model)
    return paths


def test_the_command_prints_and_writes_everything(saved, tmp_path, capsys, monkeypatch):
    few = {name: FIGURES[name] for name in ("norms", "conflicts")}  # drawn twice
    monkeypatch.setattr(sys.modules["jaxmerge.diagnose.html"], "FIGURES", few)
    data, page, figures = (tmp_path / name for name in ("d.json", "d.html", "figures"))
    options = [
        *("--json", str(data), "--html", str(page), "--figures", str(figures)),
        *("--samples", "64", "--tolerance", "0.3"),
    ]
    assert main(["diagnose", *saved, *options, "--quiet"]) == 0
    text = capsys.readouterr().out
    assert "3 experts, 247 parameters" in text
    assert "advice: ties" in text
    assert re.search(
        r"method: .*\[sign conflict 0\.\d+ \(.* to .*\), neutral 0\]", text
    )
    assert "not measured" in text  # depth compounding
    assert "T* by marginal_gain" in text
    assert sentence(record()) in text
    assert "nan" not in text
    found = json.loads(data.read_text())
    assert found["choice"] == {"method": "ties", "scale": None}
    assert found["bytes_read"] == 4 * 247 * 4
    assert found["record"] == record()
    drawn = {path.stem: path.read_bytes() for path in figures.iterdir()}
    assert set(drawn) == set(FIGURES)
    assert all(content.startswith(b"\x89PNG") for content in drawn.values())
    html = page.read_text()
    assert "<b>&" not in html
    assert "&lt;b&gt;&amp;$x_1$" in html
    assert sentence(record()) in html.replace("&#x27;", "'")
    assert html.count('src="data:image/png;base64,') == html.count("<img") == 2
    without = re.sub(r'src="data:[^"]*"', "", html)
    assert not re.search(r"https?:|src=|href=|@import|url\(", without)
    document = xml.dom.minidom.parseString(html.removeprefix("<!DOCTYPE html>\n"))
    assert len(document.getElementsByTagName("table")) == 5


def test_json_alone_goes_to_a_pipe(saved, capsys):
    assert main(["diagnose", *saved[:2], "--json", "-", "--samples", "16"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["experts"]) == 1
    assert found["choice"]["scale"] == 1.0


def test_what_is_wrong_is_refused_in_a_sentence(saved, capsys):
    assert main(["diagnose", *saved, "--samples", "1"]) == 2
    assert "take at least 2" in capsys.readouterr().err
    assert main(["diagnose", *saved, "--figures", saved[0]]) == 2
    assert "give a folder" in capsys.readouterr().err
    assert main(["diagnose", saved[0], "no/such/model", "-q"]) == 1
    assert "no/such/model" in capsys.readouterr().err


def test_degenerate_diagnoses_are_written_without_nan():
    for experts in (normal(1), [base()] * 3):
        found = diagnose(
            *(base(), experts), key=jax.random.key(0), num_samples=16, resamples=20
        )
        json.dumps(as_data(found), allow_nan=False)
    page = as_html(found)  # of the last
    assert ">nan" not in page
    assert page.count("<img") == len(FIGURES)

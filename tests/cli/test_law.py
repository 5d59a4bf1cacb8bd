"""`jaxmerge law fit` and `law plan`: from a CSV to lines, JSON and a figure."""

import json

import numpy as np
import pytest

from jaxmerge import laws
from jaxmerge.cli.main import main
from tests.laws import paper


@pytest.fixture
def measured(tmp_path):
    points = paper.sixteen()
    lines = [f"{k:g},{loss}" for k, loss in zip(points.k, points.mean, strict=True)]
    path = tmp_path / "table20.csv"
    path.write_text("\n".join(["k,loss", *lines]))
    return path


@pytest.fixture
def joint(tmp_path):
    law = laws.JointLaw(0.3, 0.2, 0.45, 0.07, 0.1, 0.4)
    rng = np.random.default_rng(0)
    rows = [
        {"size": n, "method": m, "domain": d, "k": k, "loss": float(law(n, k)) * f}
        for n in (0.5, 1.5, 3.0, 7.0)
        for m in ("average", "ties")
        for d in ("code", "math")
        for k in range(1, 7)
        for f in (1 + 1e-3 * rng.standard_normal(),)
    ]
    path = tmp_path / "joint.csv"
    laws.write_table(laws.LossTable.from_rows(rows), path)
    return path


def test_fit_of_the_measured_curve(measured, tmp_path, capsys):
    figure = tmp_path / "fit.png"
    command = ["law", "fit", str(measured), "--weights", "none", "--draws", "20"]
    assert main([*command, "--figure", str(figure)]) == 0
    out = capsys.readouterr().out
    assert "L(k) = floor + A / (k + b)" in out
    assert "b      5.262" in out
    assert "-A log k +0.0, A / (k + b) +3." in out
    assert "warning: offset_large" in out
    assert "warning: floor_not_identified" in out
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_plan_of_the_measured_curve(measured, capsys):
    command = ["law", "plan", str(measured), "--draws", "20", "--pool", "16"]
    assert main([*command, "--slack", "0.01", "--target", "0.5"]) == 0
    out = capsys.readouterr().out
    row = lambda text: next(line for line in out.splitlines() if text in line)
    assert row("90% of the gain up to k = 9").split()[11] == "8"
    assert row("for a loss of 0.5").split()[6] == "none"
    assert "warning: beyond_pool" in out


def test_plan_with_sizes_as_json(joint, capsys):
    command = ["law", "plan", str(joint), "--method", "ties", "--json", "--draws", "20"]
    assert main([*command, "--budget", "14", "--size", "20"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert abs(data["parameters"]["size_exponent"]["value"] - 0.45) < 0.02
    low, high = data["parameters"]["floor"]["interval"]
    assert low < 0.3 < high
    assert data["plan"]["choice"]["size"] == 7.0
    assert data["plan"]["choice"]["k"] == 2
    assert "extrapolating_size" in {c["name"] for c in data["cautions"]}


def test_one_domain_of_several(joint, capsys):
    assert main(["law", "fit", str(joint)]) == 1
    assert "several methods (average, ties); name one" in capsys.readouterr().err
    command = ["law", "fit", str(joint), "--method", "average", "--draws", "0"]
    assert main([*command, "--domain", "law"]) == 1
    assert "no domain 'law'; it has code, math" in capsys.readouterr().err
    assert main([*command, "--domain", "code"]) == 0
    assert "over 24 points" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("k,loss\n1,-0.5\n", "row 1 is -0.5"),
        ("k,score\n1,0.5\n", "the columns are k, score; expected loss"),
        ("k,loss\n3,0.5\n", "k = 3 only; a curve takes two or more k"),
        ("N,k,loss\n1,1,0.5\n1,2,0.4\n2,1,0.3\n2,2,0.2\n", "2 sizes and 2 k"),
    ],
)
def test_wrong_tables_are_one_line(tmp_path, capsys, text, message):
    path = tmp_path / "wrong.csv"
    path.write_text(text)
    assert main(["law", "fit", str(path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("jaxmerge: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_file_and_a_wrong_option(tmp_path, capsys):
    assert main(["law", "fit", str(tmp_path / "no.csv")]) == 1
    assert "no.csv" in capsys.readouterr().err
    assert main(["law", "plan", "x.csv", "--slack", "-1"]) == 2
    assert "-1 is no positive number" in capsys.readouterr().err

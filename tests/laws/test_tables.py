"""Tables of losses: reading, writing, means, and what is wrong with them by row."""

import numpy as np
import pytest

from jaxmerge import laws

ROWS = [
    {"size": 1.0, "method": "average", "domain": d, "subset": s, "loss": x, "tokens": n}
    for s, losses in {"0": (1.0, 3.0), "1": (2.0, 4.0), "0-1": (0.5, 2.5)}.items()
    for d, x, n in zip(("code", "math"), losses, (100, 300), strict=True)
]


@pytest.fixture
def table():
    return laws.LossTable.from_rows(ROWS)


def test_means_over_subsets(table):
    points = table.points(domain="code")
    assert points.k.tolist() == [1, 2]
    assert points.mean.tolist() == [1.5, 0.5]
    assert points.count.tolist() == [2, 1]
    assert points.variance[0] == 0.5
    assert np.isnan(points.variance[1])
    assert table.pool == 2


def test_means_over_domains(table):
    assert table.pooled().points().mean.tolist() == [2.5, 1.5]
    assert table.pooled("tokens").points().mean.tolist() == [3.0, 2.0]
    lacking = laws.LossTable.from_rows(ROWS[:-1])
    with pytest.raises(ValueError, match="the merge 0-1 by 'average' .* lacks 'math'"):
        lacking.pooled()


def test_one_of_several_has_to_be_named(table):
    with pytest.raises(ValueError, match=r"several domains \(code, math\); name one"):
        table.points()
    with pytest.raises(ValueError, match="no domain 'law'; it has code, math"):
        table.points(domain="law")


def test_files_keep_every_bit(table, tmp_path):
    exact = laws.LossTable.from_rows(
        [{**row, "loss": row["loss"] / 3, "size": np.nan} for row in ROWS]
    )
    laws.write_table(exact, tmp_path / "t.csv")
    again = laws.read_table(tmp_path / "t.csv")
    assert list(map(str, again.rows())) == list(map(str, exact.rows()))


def test_columns_by_other_names(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("\ufeffN, Task,k,CE\n0.5,code,1,0.9\n0.5,code,2,0.8\n")
    points = laws.read_table(path).points()
    assert points.size.tolist() == [0.5, 0.5]
    assert points.mean.tolist() == [0.9, 0.8]


def test_what_the_authors_evaluation_writes(tmp_path):
    for subset, loss in {"0": 1.0, "3-5": 0.5}.items():
        (tmp_path / f"ties_{subset}.csv").write_text(
            f"problem,CE Loss,class\nalgebra,{loss},math\nAvg.,{loss},\nOverall,9,\n"
        )
    table = laws.read_table(tmp_path)
    assert table.domains == ["algebra"]
    assert sorted(zip(table.k.tolist(), table.loss.tolist(), strict=True)) == [
        (1, 1.0),
        (2, 0.5),
    ]
    (tmp_path / "summary.csv").write_text("problem,CE Loss\nalgebra,1\n")
    with pytest.raises(ValueError, match=r"summary.csv: its name has no subset"):
        laws.read_table(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "the columns are a, b; expected loss, and k or subset"),
        ("", "the columns are none"),
        ("k,loss\n1,-0.5\n", "row 1 is -0.5; expected finite numbers of at least 0"),
        ("k,loss\n1,nan\n", "row 1 is nan"),
        ("k,loss\n1,0.5\n1.5,0.5\n", "row 2: k is '1.5'; expected a whole number"),
        ("k,loss\n0,0.5\n", "row 1: k is '0'"),
        ("k,loss\n1,\n", "row 1 has no loss"),
        ("k,loss\n1,x\n", "row 1: loss is 'x'; expected a number"),
        ("k,subset,loss\n3,0-1,0.5\n", "row 1: k is 3, but its subset is '0-1'"),
        ("k,loss,ce\n1,1,1\n", "two columns mean 'loss'"),
    ],
)
def test_wrong_tables_say_what_and_where(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        laws.read_table(path)
    assert str(error.value).startswith(str(path))


def test_one_expert_that_stands_out():
    rng = np.random.default_rng(0)

    def made(outlier):
        rows = []
        for bits in range(1, 64):
            members = [t for t in range(6) if bits >> t & 1]
            loss = 1 + 0.3 / len(members) + 0.002 * rng.standard_normal()
            loss += outlier * (5 in members)
            rows.append({"subset": laws.subset_name(members), "loss": loss})
        return laws.LossTable.from_rows(rows)

    assert not list(laws.table_cautions(made(0.0)))
    (caution,) = laws.table_cautions(made(0.4))
    assert caution.name == "unequal_experts"
    assert caution.text.startswith("expert 5 raises the loss")


def test_questions_outside_of_what_was_measured():
    points = laws.curve_points(np.arange(1, 10), 1.0, size=[[0.5], [7.0], [32.0]])
    ask = lambda **kw: [c.name for c in laws.query_cautions(points, **kw)]
    assert ask(sizes=[1.0, 60.0], k=[4], pool=9) == []
    assert ask(sizes=[72.0]) == ["extrapolating_size"]
    assert ask(k=[12], pool=9) == ["beyond_pool"]
    assert ask(k=[40]) == ["extrapolating_k"]

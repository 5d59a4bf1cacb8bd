"""Merging real models: tiny random checkpoints, full and LoRA, on text folders."""

import dataclasses
import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmerge
from experiments.llm import huggingface
from experiments.llm.__main__ import main
from experiments.llm.config import TINY, Config
from experiments.llm.lora import add_factors, init_factors, save_adapter
from experiments.llm.model import Architecture
from experiments.llm.real import METHODS, RealConfig, load, place, plan
from experiments.llm.tokenizers import load_tokenizer
from experiments.llm.train import sequence_losses
from jaxmerge import checkpoint

pytestmark = pytest.mark.usefixtures("quick_compilation")
SHAPE = Config(size=TINY).shape
ZEROS = jax.tree.map(
    lambda x: np.zeros(x.shape, np.float32), Architecture(SHAPE).abstract
)
METHOD_NAMES = ("average",)


def perturbed(params, seed):
    rng = np.random.default_rng(seed)
    noise = lambda x: x + rng.normal(0, 0.05, x.shape).astype(np.float32)
    return jax.tree.map(noise, params)


# Of rank 2.
FACTORS = perturbed(
    jax.tree.map(
        lambda x: np.zeros(x.shape, np.float32),
        jax.eval_shape(lambda key: init_factors(ZEROS, 2, key), jax.random.key(0)),
    ),
    2,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base, a full expert, an adapter, and texts of two domains."""
    root = tmp_path_factory.mktemp("real")
    base = perturbed(ZEROS, 0)
    huggingface.save(root / "base", base, config=SHAPE)
    huggingface.save(root / "cats", perturbed(base, 1), config=SHAPE)
    for i, name in enumerate(("cats", "dogs"), 1):
        (root / "texts" / name).mkdir(parents=True)
        text = "".join(f"{name} {j * i}\n" for j in range(60))
        (root / "texts" / name / "one.txt").write_text(text)
    save_adapter(root / "birds", FACTORS, alpha=400.0, overwrite=False)
    return root


def arguments(models, out):
    experts = [str(models / name) for name in ("cats", "birds")]
    return [
        *("--base", str(models / "base"), "--experts", *experts),
        *("--texts", str(models / "texts"), "--methods", *METHOD_NAMES),
        *("--length", "24", "--sequences", "5", "--out", str(out)),
    ]


@pytest.fixture(scope="module")
def finished(models, tmp_path_factory, quick_compilation):
    out = tmp_path_factory.mktemp("out")
    assert main(arguments(models, out)) == 0
    return out


@pytest.fixture(scope="module")
def rows(finished):
    return json.loads((finished / "results.json").read_text())["rows"]


@jax.jit
def mean_loss(params, rows):
    logits = Architecture(SHAPE).logits(params, rows[:, :-1])
    return jnp.mean(sequence_losses(logits, rows[:, 1:]))


def loss_of(params, models, name):
    """By hand: the mean loss of a text cut into five sequences of 24 bytes."""
    text = (models / "texts" / name / "one.txt").read_bytes()
    tokens = np.array([256, *text])
    starts = np.linspace(0, len(tokens) - 25, 5).astype(int)
    rows = jnp.asarray(tokens[starts[:, None] + np.arange(25)], jnp.int32)
    logits = Architecture(SHAPE).logits(jax.tree.map(jnp.asarray, params), rows[:, :-1])
    return float(jnp.mean(sequence_losses(logits, rows[:, 1:])))


def test_it_measures_the_base_each_expert_and_every_merge(rows, finished):
    assert len(rows) == 1 + 2 + 2 * len(METHOD_NAMES)
    for row in rows:
        assert set(row["losses"]) == {"cats", "dogs"}
        assert row["k"] == len(row["experts"])
        assert row["tokens"] == "bytes"
        assert all(np.isfinite(loss) for loss in row["losses"].values())
    assert not (finished / "work").exists()
    assert rows[-1]["experts"] == ["cats", "birds"]


def test_losses_are_those_of_the_merged_models(rows, models):
    base, cats = (huggingface.load(models / name).params for name in ("base", "cats"))
    of = {(row["method"], row["k"]): row["losses"] for row in rows}
    near = lambda value: pytest.approx(value, rel=1e-5)
    assert of["base", 0]["cats"] == near(loss_of(base, models, "cats"))
    assert of["base", 0]["dogs"] == near(loss_of(base, models, "dogs"))
    assert of["average", 1] == near(
        {name: loss_of(cats, models, name) for name in ("cats", "dogs")}
    )
    experts = [row for row in rows if row["method"] == "expert"]
    alone = {tuple(row["experts"]): row["losses"] for row in experts}
    assert alone["cats",] == near(of["average", 1])
    # An adapter is an expert too: the base plus what its factors stand for.
    birds = jax.device_get(jax.jit(add_factors, static_argnums=2)(base, FACTORS, 200.0))
    assert alone["birds",] == near(
        {name: loss_of(birds, models, name) for name in ("cats", "dogs")}
    )
    assert alone["birds",]["cats"] != near(of["base", 0]["cats"])
    average = jax.tree.map(lambda x, y: (x + y) / 2, cats, birds)
    assert of["average", 2]["dogs"] == near(loss_of(average, models, "dogs"))


def test_a_rerun_reads_what_is_finished(finished, models, rows, capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("nothing was to be merged")

    before = (finished / "merges.jsonl").read_bytes()
    monkeypatch.setattr(checkpoint, "merge", refuse)
    assert main(arguments(models, finished)) == 0
    assert (finished / "merges.jsonl").read_bytes() == before
    shown = capsys.readouterr().out
    assert "every byte is a token" in shown
    assert "cats" in shown
    assert f"{np.mean(list(rows[-1]['losses'].values())):.4f}" in shown
    assert str(models) not in (finished / "results.json").read_text()


def test_random_methods_are_drawn_from_the_seed(models, tmp_path):
    config = RealConfig(
        base=models / "base", experts=(models / "cats",), texts=models / "texts"
    )
    embedding = lambda params: params["model"]["embed_tokens"]["embedding"]
    drawn = [
        embedding(
            load(dataclasses.replace(config, seed=seed), "dare", (0,), tmp_path / "w")
        )
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()


def test_parameters_are_cut_over_all_devices(models):
    params = huggingface.load(models / "base").params
    placed = place(params)
    kernel = placed["model"]["layers"][0]["mlp"]["up_proj"]["kernel"]
    assert len(kernel.sharding.device_set) == 8
    assert not kernel.sharding.is_fully_replicated
    jax.tree.map(np.testing.assert_array_equal, placed, params)


def test_plans_are_nested_and_methods_known(models):
    config = RealConfig(
        base=models / "base",
        experts=tuple(models / name for name in ("cats", "dogs", "birds")),
        texts=models / "texts",
        methods=("average", "model_stock"),
        orders=3,
    )
    planned = list(plan(config))
    assert planned[:4] == [("base", ()), *(("expert", (i,)) for i in range(3))]
    assert len(set(planned)) == len(planned)
    assert min(len(s) for m, s in planned if m == "model_stock") == 2
    assert ("average", (0, 1)) in planned
    unknown = dataclasses.replace(config, methods=("magic",))
    with pytest.raises(ValueError, match="'magic' is no method here"):
        list(plan(unknown))
    assert all(isinstance(make(), jaxmerge.Merger) for make in METHODS.values())


def test_what_does_not_fit_is_a_sentence(models, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--base", str(models / "base")])
    assert "are given together" in capsys.readouterr().err
    too_long = [*arguments(models, tmp_path), "--length", "5000"]
    assert main(too_long) == 1
    assert "fewer than the 5001 of one sequence" in capsys.readouterr().err


def test_the_models_own_tokenizer_is_used_where_it_is(tmp_path, monkeypatch):
    assert load_tokenizer(tmp_path, 300).name == "bytes"
    with pytest.raises(ValueError, match="40 tokens are too few"):
        load_tokenizer(tmp_path, 40)
    (tmp_path / "tokenizer.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match="pip install tokenizers"):
        load_tokenizer(tmp_path, 300)
    # Stands for the package, which is not a dependency.
    words = lambda texts: [
        types.SimpleNamespace(ids=[len(w) for w in t.split()]) for t in texts
    ]
    stub = types.SimpleNamespace(
        Tokenizer=types.SimpleNamespace(
            from_file=lambda path: types.SimpleNamespace(encode_batch=words)
        )
    )
    monkeypatch.setitem(sys.modules, "tokenizers", stub)
    tokenizer = load_tokenizer(tmp_path, 10)
    assert tokenizer.name == "tokenizer.json"
    assert tokenizer.encode([b"ab c", b"def"]).tolist() == [2, 1, 3]
    with pytest.raises(ValueError, match="a token 12, and the model knows 10"):
        tokenizer.encode([b"incomparable"])

"""`jaxmerge inspect`: what checkpoints are, and whether they fit."""

import json
import shutil

import numpy as np
import pytest

import jaxmerge
from jaxmerge import checkpoint
from jaxmerge.cli.main import main
from tests.oracles.fixtures import FIXTURES

BASE = FIXTURES / "mergekit" / "base"


def described(capsys, *arguments):
    assert main(["inspect", "--json", *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_folder(capsys, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(BASE, folder)
    (folder / "tokenizer.json").write_text("{}")
    found = described(capsys, folder)["checkpoints"][0]
    assert found["kind"] == "huggingface"
    assert found["architecture"] == ["LlamaForCausalLM"]
    assert (found["tensors"], found["parameters"]) == (39, 7056)
    assert found["dtypes"] == {"float32": 4 * 7056}
    assert list(found["files"]) == ["model.safetensors"]
    assert found["tokenizer"]
    assert found["merged_from"] is None


def test_a_sharded_folder_with_tied_embeddings(capsys):
    found = described(capsys, FIXTURES / "transformers" / "base")["checkpoints"][0]
    assert len(found["files"]) > 1
    assert list(found["dtypes"]) == ["bfloat16"]
    assert found["tied"] == {"lm_head.weight": "model.embed_tokens.weight"}
    assert main(["inspect", str(FIXTURES / "transformers" / "base")]) == 0
    text = capsys.readouterr().out
    assert "lm_head.weight = model.embed_tokens.weight" in text


@pytest.fixture
def save(tmp_path):
    def write(name, **tensors):
        path = tmp_path / f"{name}.safetensors"
        checkpoint.save(path, {k: np.ones(v, np.float32) for k, v in tensors.items()})
        return str(path)

    return write


def test_whether_they_fit(capsys, save):
    first = save("first", v=2, w=(3, 4), x=5)
    same = save("same", v=2, w=(3, 4), x=5)
    other = save("other", v=2, w=(4, 3), y=5)
    assert main(["inspect", first, same, other]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{same} can be merged with {first}" in lines
    at = lines.index(f"{other} cannot be merged with {first}")
    assert lines[at + 1 :] == [
        "  it has no x",
        "  it has y, not there",
        "  w is (4, 3), and (3, 4) there",
    ]
    found = described(capsys, first, same, other)["differences"]
    assert found[same] == []
    assert len(found[other]) == 3


def test_long_lists_are_cut(capsys, save):
    first = save("first", **{f"w{i}": 1 for i in range(9)}, v=2)
    other = save("other", v=2)
    found = described(capsys, first, other)["differences"][other]
    assert found == ["it has no w0, w1, w2, w3, w4 and 4 more"]


def test_every_tensor_if_told(capsys, save):
    assert main(["inspect", "-v", save("first", w=(3, 4))]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["w", "3×4", "float32"]


def test_a_result_of_ours_says_so(capsys, tmp_path, save):
    out = tmp_path / "out.safetensors"
    checkpoint.merge(jaxmerge.average(), experts=[save("a", w=3)], out=out)
    assert main(["inspect", str(out)]) == 0
    text = capsys.readouterr().out
    assert "merged by" in text
    assert "WeightedSum" in text
    assert described(capsys, out)["checkpoints"][0]["merged_from"]["base"] is None


def test_nothing_there(capsys):
    assert main(["inspect", "no/where/at/all"]) == 1
    assert "jaxmerge: error: no/where/at/all does not exist" in capsys.readouterr().err

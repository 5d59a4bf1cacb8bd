"""A sharded bfloat16 Llama with tied embeddings, as transformers saves it, merged.

The judge is the merge worked out by hand in float64, which keeps the lowest index of
equal sizes as jaxmerge does; and mergekit's own output, where sizes do not tie.
"""

import json

import ml_dtypes
import numpy as np
import pytest

import jaxmerge
from jaxmerge import checkpoint
from tests.oracles.fixtures import read_safetensors, recorded, transformers_case

pytestmark = pytest.mark.usefixtures("quick_compilation")

CASE = transformers_case()
BFLOAT16 = ml_dtypes.bfloat16


@pytest.fixture(scope="module")
def merger():
    """The recipe of `ties.yml`, by the library's own names."""
    about = recorded("transformers")["parameters"]
    weights, densities = zip(*about["experts (weight, density)"].values(), strict=True)
    return jaxmerge.ties(
        density=list(densities),
        weights=list(weights),
        scale=about["lambda"],
        normalize=about["normalize"],
        compat="mergekit",
    )


def merge(merger, out, **options):
    experts = [CASE.root / name for name in "abc"]
    return checkpoint.merge(
        merger, base=CASE.root / "base", experts=experts, out=out, **options
    )


@pytest.fixture(scope="module")
def merged(merger, tmp_path_factory):
    """The folder written, in shards of 4 kB as the inputs are."""
    out = tmp_path_factory.mktemp("transformers") / "merged"
    merge(merger, out, shard_bytes=4000)
    return out


def tensors(folder) -> dict[str, np.ndarray]:
    """All shards, by the reader of the tests and not by the library's."""
    found: dict[str, np.ndarray] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        content = read_safetensors(shard)
        assert not found.keys() & content.keys(), "a tensor is in two shards"
        found |= content
    return found


def test_equals_the_merge_by_hand(merged):
    """The hand merge rounded to bfloat16, also where sizes tie.

    But for four of 4944 entries that lie half way between two bfloat16 numbers up to
    the rounding of float32; mergekit rounds those as jaxmerge does.
    """
    result, halfway = tensors(merged), 0
    assert result.keys() == CASE.merged.keys()
    for name, by_hand in CASE.merged.items():
        assert result[name].dtype == BFLOAT16
        x, y = np.float64(result[name]), np.float64(by_hand.astype(BFLOAT16))
        middle = (x + y)[x != y] / 2
        np.testing.assert_allclose(by_hand[x != y], middle, rtol=0, atol=3e-8)
        halfway += middle.size
    assert halfway == 4


def test_equals_the_merge_by_hand_in_float32(merger, tmp_path):
    """What bfloat16 hides: the error of the arithmetic itself, in eps of float32."""
    merge(merger, tmp_path / "merged", dtype=np.float32)
    base = tensors(CASE.root / "base")
    for name, result in tensors(tmp_path / "merged").items():
        by_hand = np.float64(CASE.merged[name])
        size = np.abs(np.float64(base[name])) + np.abs(by_hand)
        error = np.abs(result - by_hand) / (np.finfo(np.float32).eps * size)
        assert error.max() < 2, f"{name}: {error.max()}"


def test_equals_mergekit_where_sizes_do_not_tie(merged):
    """Elsewhere mergekit keeps another of the equals: 29 entries, as recorded."""
    result, differ = tensors(merged), 0
    for name, theirs in CASE.mergekit.items():
        other = result[name] != theirs
        assert not np.any(other & ~CASE.tied[name]), name
        differ += np.count_nonzero(other)
    assert differ == 29


def test_embeddings_stay_tied(merged):
    config = json.loads((merged / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    assert "lm_head.weight" not in tensors(merged)
    assert "model.embed_tokens.weight" in tensors(merged)


def test_config_and_tokenizer_are_the_bases(merged):
    """Every file of the base that holds no weights, byte for byte, and no other."""
    weights = ("model.safetensors.index.json", ".safetensors")
    beside = lambda folder: {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if not path.name.endswith(weights)
    }
    carried, own = beside(merged), beside(CASE.root / "base")
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= own.keys()
    assert own.items() <= carried.items()
    assert carried.keys() == own.keys()


def test_index_names_every_tensor_once(merged):
    index = json.loads((merged / "model.safetensors.index.json").read_text())
    shards = sorted(path.name for path in merged.glob("*.safetensors"))
    count = len(shards)
    assert count >= 3
    assert shards == [
        f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)
    ]
    held = {
        name: shard for shard in shards for name in read_safetensors(merged / shard)
    }
    assert index["weight_map"] == held
    sizes = sum(x.nbytes for x in tensors(merged).values())
    assert index["metadata"]["total_size"] == sizes
    for shard in shards:  # more than the bound only where one tensor is
        content = read_safetensors(merged / shard)
        assert sum(x.nbytes for x in content.values()) <= 4000 or len(content) == 1


def test_shards_do_not_change_the_merge(merger, merged, tmp_path):
    merge(merger, tmp_path / "whole")
    names = [path.name for path in (tmp_path / "whole").glob("*.safetensors*")]
    assert names == ["model.safetensors"]
    whole, sharded = tensors(tmp_path / "whole"), tensors(merged)
    assert whole.keys() == sharded.keys()
    for name, x in whole.items():
        assert x.tobytes() == sharded[name].tobytes(), name

"""Models in a made-up Hugging Face cache."""

import os

import pytest

from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.hub import cache_folder, resolve_model

FIRST, SECOND = "0123" + "a" * 36, "0124" + "b" * 36


@pytest.fixture
def cache(tmp_path):
    model = tmp_path / "models--org--name"
    for commit in (FIRST, SECOND):
        (model / "snapshots" / commit).mkdir(parents=True)
    (model / "refs" / "refs" / "pr").mkdir(parents=True)
    (model / "refs" / "main").write_text(SECOND)
    (model / "refs" / "v1.0").write_text(FIRST + "\n")
    (model / "refs" / "refs" / "pr" / "1").write_text(FIRST)
    (model / "refs" / "lost").write_text("f" * 40)
    (tmp_path / "models--gpt2" / "snapshots").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("reference", "commit"),
    [
        ("org/name", SECOND),
        ("org/name@main", SECOND),
        ("org/name@v1.0", FIRST),
        ("org/name@refs/pr/1", FIRST),
        (f"org/name@{FIRST}", FIRST),
        ("org/name@0123a", FIRST),
        ("org/name@0124", SECOND),
    ],
)
def test_references(cache, reference, commit):
    expected = cache / "models--org--name" / "snapshots" / commit
    assert resolve_model(reference, cache) == expected


def test_a_path_is_itself(cache, monkeypatch):
    assert resolve_model(str(cache)) == cache
    monkeypatch.chdir(cache.parent)
    assert resolve_model(cache.name).samefile(cache)


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("org/nme", "neither a path nor a model .*there are 'org/name'"),
        ("elsewhere/zzz", "neither a path nor a model .* Download"),
        (
            "org/name@v2.0",
            r"revision 'v2.0' .*it has lost, main, refs/pr/1, v1.0, 0123",
        ),
        ("org/name@012", "revision '012' of org/name"),
        ("org/name@lost", "revision 'lost' of org/name"),
        ("gpt2", "revision 'main' of gpt2 .* has none"),
        ("./missing", "does not exist, and is no name"),
        ("/no/such/place", "does not exist, and is no name"),
        ("a/b/c", "does not exist, and is no name"),
        ("../models", "does not exist, and is no name"),
        ("", "does not exist, and is no name"),
    ],
)
def test_what_is_not_there(cache, reference, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        resolve_model(reference, cache)


def test_an_ambiguous_commit(cache):
    (cache / "models--org--name" / "snapshots" / ("0123" + "c" * 36)).mkdir()
    with pytest.raises(CheckpointError, match="beginning of 2 commits"):
        resolve_model("org/name@0123", cache)


def test_a_revision_cannot_leave_the_cache(cache):
    (cache / "secret").write_text(FIRST)
    with pytest.raises(CheckpointError, match="no name of a model"):
        resolve_model("org/name@../../secret", cache)


def test_where_the_cache_is(monkeypatch):
    home = os.path.expanduser("~")
    for environment, folder in [
        ({}, f"{home}/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x", "HF_HOME": "/h"}, "/h/hub"),
        ({"HF_HOME": "/h", "HUGGINGFACE_HUB_CACHE": "/c"}, "/c"),
        ({"HUGGINGFACE_HUB_CACHE": "/c", "HF_HUB_CACHE": "~/d"}, f"{home}/d"),
    ]:
        assert cache_folder(environment).as_posix() == folder
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere/at/all")
    with pytest.raises(CheckpointError, match="/nowhere/at/all"):
        resolve_model("org/name")

"""The map between names and trees."""

import jax
import pytest
from hypothesis import given, settings, strategies as st

from jaxmerge._types import pytree, static
from jaxmerge.checkpoint.errors import CheckpointError
from jaxmerge.checkpoint.names import flatten_names, unflatten_names

DOTTED = st.text("ab.", max_size=6)
KEYS = st.text("ab0", max_size=3)
TREES = st.recursive(
    st.integers(),
    lambda children: st.dictionaries(KEYS, children, min_size=1, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(flat=st.dictionaries(DOTTED, st.integers(), max_size=12))
def test_names_to_tree_and_back_is_the_identity(flat):
    assert flatten_names(unflatten_names(flat)) == flat


@settings(max_examples=40, deadline=None)
@given(tree=st.dictionaries(KEYS, TREES, max_size=4))
def test_tree_of_plain_keys_to_names_and_back_is_the_identity(tree):
    assert unflatten_names(flatten_names(tree)) == tree


@pytest.mark.parametrize(
    ("names", "tree"),
    [
        (["a.b", "a.c"], {"a": {"b": 0, "c": 1}}),
        (["a", "a.b", "a.b.c"], {"a": 0, "a.b": 1, "a.b.c": 2}),
        (["a.b.c", "a.b"], {"a": {"b.c": 0, "b": 1}}),
        (["", "a..b", "a."], {"": 0, "a": {"": {"b": 1}, ".": 2}}),
        (["layers.10.w"], {"layers": {"10": {"w": 0}}}),
    ],
)
def test_trees(names, tree):
    flat = {name: i for i, name in enumerate(names)}
    if names[-1] == "a.":  # "a." is a leaf and the beginning of "a..b".
        tree = {"": 0, "a": {".b": 1, "": 2}}
    assert unflatten_names(flat) == tree


def test_other_containers_have_names():
    @pytree
    class Model:
        layers: list
        mode: str = static()

    tree = Model([{"w": 1}, (2, 3)], "x")
    assert flatten_names(tree) == {"layers.0.w": 1, "layers.1.0": 2, "layers.1.1": 3}


def test_nnx_variables_are_named_as_their_attribute():
    from flax import nnx

    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    flat = flatten_names(state)
    assert set(flat) == {"kernel", "bias"}
    assert all(isinstance(leaf, jax.Array) for leaf in flat.values())


def test_two_leaves_of_one_name():
    with pytest.raises(CheckpointError, match=r"two leaves are called 'a\.b'"):
        flatten_names({"a.b": 1, "a": {"b": 2}})

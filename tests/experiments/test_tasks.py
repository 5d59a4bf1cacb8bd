"""The protocol of the digit tasks: splits, label maps, samples, sets of experts."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.more_experts.config import PRESETS
from experiments.more_experts.subsets import nested_subsets
from experiments.more_experts.tasks import (
    SPLITS,
    TASKS,
    draw_samples,
    load_images,
)


def test_splits_are_disjoint_and_within_the_images():
    images, labels = load_images(0)
    ranges = [set(range(*bounds)) for bounds in SPLITS.values()]
    for a, b in itertools.combinations(ranges, 2):
        assert not a & b
    assert max(map(max, ranges)) < len(images) == len(labels) == 1797


def test_every_image_is_used_once_whatever_the_seed():
    total = [float(jnp.sum(load_images(seed)[0])) for seed in (0, 1)]
    assert total[0] == pytest.approx(total[1], rel=1e-6)
    assert not np.array_equal(load_images(0)[1], load_images(1)[1])


@pytest.mark.parametrize("preset", ["quick", "full"])
def test_every_task_has_at_least_2000_test_samples(preset):
    start, stop = SPLITS["test"]
    assert (stop - start) * PRESETS[preset].test_copies >= 2000


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_label_map_renames_its_cycles_and_nothing_else(task):
    labels = task.labels
    assert sorted(labels) == list(range(10))
    renamed = {
        d: c
        for cycle in task.cycles
        for d, c in zip(cycle, (*cycle[1:], cycle[0]), strict=True)
    }
    assert {d: int(l) for d, l in enumerate(labels) if d != l} == renamed


@pytest.fixture(scope="module")
def validation():
    return draw_samples(0, "validation", 1, num_tasks=len(TASKS))


def test_samples_are_pictures_with_their_tasks_labels(validation):
    assert validation.inputs.shape == (10, 256, 144)
    assert float(jnp.abs(validation.inputs).max()) <= 0.5
    digits = load_images(0)[1][slice(*SPLITS["validation"])]
    for task, labels in zip(TASKS, validation.labels, strict=True):
        np.testing.assert_array_equal(labels, task.labels[digits])


def test_samples_are_the_same_for_the_same_seed_only(validation):
    again = draw_samples(0, "validation", 1, num_tasks=2)
    np.testing.assert_array_equal(again.inputs, validation.inputs[:2])
    other = draw_samples(1, "validation", 1, num_tasks=1)
    assert not np.array_equal(other.inputs, validation.inputs[:1])


def test_at_strength_0_every_task_is_the_plain_digit():
    plain = draw_samples(
        0, "validation", 1, num_tasks=len(TASKS), strength=(0.0, 0.0), plain=True
    )
    digits = load_images(0)[1][slice(*SPLITS["validation"])]
    # The jitter differs by task, so compare what a centred picture of the digit keeps.
    ink = jnp.mean(plain.inputs, axis=(1, 2))
    np.testing.assert_allclose(ink, ink[0], atol=4e-3)
    assert (plain.labels == digits).all()


def test_a_transform_tells_its_task(validation):
    """Tasks may name one picture differently only if a picture tells its task."""
    train = draw_samples(0, "train", 1, num_tasks=len(TASKS))
    centres = jnp.mean(train.inputs, axis=1)
    nearest = jax.vmap(
        lambda x: jnp.argmin(jnp.sum((x[:, None] - centres) ** 2, -1), axis=1)
    )(validation.inputs)
    right = jnp.mean(nearest == jnp.arange(len(TASKS))[:, None], dtype=jnp.float32)
    assert right > 0.6  # by the nearest mean picture alone; chance is 0.1


def test_sets_of_experts_are_nested_and_the_same_every_time():
    sets = nested_subsets(3, num_tasks=6, sequences=2)
    assert sets == nested_subsets(3, num_tasks=6, sequences=2)
    assert sets != nested_subsets(4, num_tasks=6, sequences=2)
    assert sets[:6] == [(t,) for t in range(6)]
    assert sets[-1] == tuple(range(6))
    assert len(set(sets)) == len(sets)
    for k in range(3, 6):
        smaller = [set(s) for s in sets if len(s) == k - 1]
        for larger in (set(s) for s in sets if len(s) == k):
            assert any(s < larger for s in smaller)

"""The settings of a run: one frozen dataclass, and its presets."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that the results depend on.

    Attributes:
      seed: of the split of the images, the samples, the initial parameters and batches.
      num_tasks: how many of the ten tasks, from the first.
      width: units of each of the two hidden layers.
      activation_threshold: what a normalised unit must exceed to be active. At 1 about
        one unit in six is, and different tasks use different units; at 0 merging this
        small a network keeps little beyond two or three experts.
      train_copies: samples drawn from each training image, for each task.
      validation_copies: from each validation image.
      test_copies: from each test image; 4 make 2,048 test samples a task.
      base_copies: from each training image for each transform of the base's mixture.
      base_strength: the base sees transforms at strengths from 0 to this; tasks have 1.
      base_steps: Adam steps of the base.
      base_learning_rate: its peak, cosine decay to 0.
      expert_steps: steps of SGD with momentum 0.9 of each expert, from the base.
      expert_learning_rate: its peak, cosine decay to 0.
      multitask_steps: Adam steps of the model trained on all tasks at once.
      required_gain: points of accuracy that each expert must gain over the base.
      subsets: how many nested sequences of experts are merged for each k.
      recipes: the names of those that are compared; all of them if empty.
      scale_grid: what the published scale is multiplied by in the search.
    """

    seed: int = 0
    num_tasks: int = 10
    width: int = 384
    activation_threshold: float = 1.0
    train_copies: int = 8
    validation_copies: int = 1
    test_copies: int = 4
    base_copies: int = 4
    base_strength: float = 0.8
    base_steps: int = 2000
    base_learning_rate: float = 2e-3
    expert_steps: int = 300
    expert_learning_rate: float = 2e-2
    multitask_steps: int = 900
    required_gain: float = 15.0
    subsets: int = 3
    recipes: tuple[str, ...] = ()
    # Wide: published scales that shrink with k (RHT's as 1 / k) need much larger ones.
    scale_grid: tuple[float, ...] = (0.32, 0.56, 1.0, 1.78, 3.16, 5.62, 10.0, 17.8)


PRESETS = {
    "smoke": Config(
        num_tasks=3,
        width=64,
        train_copies=2,
        validation_copies=1,
        test_copies=1,
        base_copies=1,
        base_steps=300,
        expert_steps=150,
        multitask_steps=150,
        subsets=1,
        recipes=("average", "task_arithmetic", "emr"),
        scale_grid=(0.6, 1.0, 1.67),
    ),
    "quick": Config(),
    "full": Config(
        width=512,
        train_copies=16,
        validation_copies=4,
        test_copies=8,
        base_copies=8,
        base_steps=6000,
        expert_steps=600,
        multitask_steps=3000,
        subsets=10,
    ),
}

"""The pools of experts on which the advice is scored, and how."""

import dataclasses

from experiments.more_experts.config import Config


@dataclasses.dataclass(frozen=True)
class Pool:
    """Ten experts of one base, and the sets of them that are merged.

    Attributes:
      name: of the pool in results, and of its folder.
      models: how its models are trained, as in `experiments.more_experts`.
    """

    name: str
    models: Config


@dataclasses.dataclass(frozen=True)
class Scoring:
    """Everything that the record depends on.

    Attributes:
      pools: none of them has the seed 0, whose results were known when the rules of
        the advice were written.
      seed: of the bootstrap, and of the random directions of the diagnosis.
      resamples: of the bootstrap.
    """

    pools: tuple[Pool, ...]
    seed: int = 0
    resamples: int = 4000


# Two orders of the ten experts make 17 sets of two or more in each pool.
_SETS = 2
PRESETS = {
    "smoke": Scoring(
        pools=(
            Pool(
                "tiny",
                Config(
                    seed=9,
                    num_tasks=3,
                    width=64,
                    train_copies=2,
                    test_copies=1,
                    base_copies=1,
                    base_steps=300,
                    expert_steps=150,
                    multitask_steps=10,
                    subsets=2,
                ),
            ),
        ),
        resamples=200,
    ),
    "full": Scoring(
        pools=(
            Pool("standard-1", Config(seed=1, subsets=_SETS, multitask_steps=10)),
            Pool("standard-2", Config(seed=2, subsets=_SETS, multitask_steps=10)),
            # Less room, denser activity, and longer training: other mechanisms.
            Pool(
                "narrow",
                Config(seed=3, subsets=_SETS, multitask_steps=10, width=128),
            ),
            Pool(
                "relu",
                Config(
                    seed=4, subsets=_SETS, multitask_steps=10, activation_threshold=0.0
                ),
            ),
            Pool(
                "long",
                Config(seed=5, subsets=_SETS, multitask_steps=10, expert_steps=1200),
            ),
        ),
    ),
}

"""The settings of a pool: one frozen dataclass; sizes and presets."""

import dataclasses

from experiments.llm.domains import DOMAINS
from experiments.llm.model import ModelConfig
from experiments.llm.streams import VOCABULARY


def _shape(hidden: int, layers: int, heads: int, kv_heads: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        # Of a gated layer, so that it has as many parameters as one of 4 x hidden.
        intermediate_size=8 * hidden // 3 // 8 * 8,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=hidden // heads,
    )


# By the number of parameters; the first five are for two cores.
SIZES = {
    "0.1M": _shape(64, 2, 2, 1),
    "0.25M": _shape(96, 2, 4, 2),
    "0.6M": _shape(128, 3, 4, 2),
    "1.3M": _shape(176, 4, 4, 2),
    "3M": _shape(256, 4, 8, 4),
    "10M": _shape(384, 6, 6, 2),
    "30M": _shape(576, 8, 9, 3),
    "100M": _shape(1024, 8, 16, 4),
}
TINY = "tiny"
_SHAPES = {TINY: _shape(32, 1, 2, 1), **SIZES}


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that a pool depends on.

    Attributes:
      seed: of splits, exercises, initial parameters and batches.
      size: one of `SIZES`.
      domains: an expert each; names of `domains.DOMAINS`, or sub-folders of `texts`.
      texts: a folder of the user's own texts, or None.
      length: tokens that a model sees at once.
      base_steps: of AdamW on the mixture.
      base_batch: sequences a step.
      base_learning_rate: its peak, after a linear warm-up of a twentieth of the steps;
        cosine decay to a tenth.
      base_tokens: in each stream of the mixture.
      expert_steps: of AdamW on the domain, from the base.
      expert_batch: sequences a step; the multitask model has this many a domain.
      expert_learning_rate: its peak, as above.
      train_tokens: in each domain's training stream.
      rank: of LoRA on every kernel of the blocks; None trains all parameters.
      alpha: of LoRA; a pair's product is multiplied by `alpha / rank`.
      experts_at_once: how many are trained side by side; memory bounds it.
      num_validation: sequences a domain to validate on.
      num_test: sequences a domain to test on.
      required_gain: nats a token that each expert must gain over the base on its own
        domain's validation, two standard errors aside; one that does not is dropped.
    """

    seed: int = 0
    size: str = "0.1M"
    domains: tuple[str, ...] = DOMAINS[:8]
    texts: str | None = None
    length: int = 128
    base_steps: int = 600
    base_batch: int = 32
    base_learning_rate: float = 3e-3
    base_tokens: int = 2**18
    expert_steps: int = 150
    expert_batch: int = 8
    expert_learning_rate: float = 1e-3
    train_tokens: int = 2**18
    rank: int | None = None
    alpha: float = 16.0
    experts_at_once: int = 8
    num_validation: int = 32
    num_test: int = 64
    required_gain: float = 0.02

    @property
    def shape(self) -> ModelConfig:
        """Of the models."""
        return _SHAPES[self.size]

    @property
    def kind(self) -> str:
        """How experts are trained, as names of folders and figures show it."""
        return "full" if self.rank is None else f"lora{self.rank}"

    @property
    def label(self) -> str:
        """What a pool is called."""
        return f"Llama {self.size}, {self.kind}, {len(self.domains)} domains"

    @property
    def tokens(self) -> dict[str, int]:
        """How many tokens each model is trained on, and all experts together."""
        expert = self.expert_steps * self.expert_batch * self.length
        return {
            "base": self.base_steps * self.base_batch * self.length,
            "expert": expert,
            "experts": expert * len(self.domains),
        }


_SMOKE = Config(
    size=TINY,
    domains=("encodings", "arithmetic", "units"),
    length=32,
    base_steps=60,
    base_batch=16,
    base_tokens=2**13,
    expert_steps=60,
    expert_learning_rate=3e-3,
    train_tokens=2**13,
    num_validation=16,
    num_test=16,
)

# On two cores one expert after another is a fifth faster than eight side by side.
_CPU = Config(base_steps=320, expert_steps=64, experts_at_once=1)
_GPU = Config(
    size="10M",
    domains=DOMAINS,
    length=512,
    base_steps=20_000,
    base_batch=128,
    base_learning_rate=1e-3,
    base_tokens=2**22,
    expert_steps=1_000,
    expert_batch=32,
    expert_learning_rate=3e-4,
    train_tokens=2**22,
    # Two of 100M with their attention's weights take about 40 GB, by count.
    experts_at_once=2,
    num_validation=64,
    num_test=128,
)


def _lora(config: Config, rank: int) -> Config:
    """The same experts as adapters, at the larger learning rate that these want."""
    rate = 4 * config.expert_learning_rate
    return dataclasses.replace(config, rank=rank, expert_learning_rate=rate)


def _of_size(config: Config, size: str) -> Config:
    """At another size; learning rates fall as the root of the width."""
    slower = (config.shape.hidden_size / SIZES[size].hidden_size) ** 0.5
    return dataclasses.replace(
        config,
        size=size,
        base_learning_rate=round(config.base_learning_rate * slower, 6),
        expert_learning_rate=round(config.expert_learning_rate * slower, 6),
    )


def _of_sizes(config: Config, *sizes: str) -> tuple[Config, ...]:
    return tuple(_of_size(config, size) for size in sizes)


PRESETS: dict[str, tuple[Config, ...]] = {
    "smoke": (_SMOKE,),
    "cpu": (
        *_of_sizes(_CPU, "0.1M", "0.25M", "0.6M"),
        _lora(_of_size(_CPU, "0.6M"), 8),
        # All sixteen domains, where a merge costs least.
        dataclasses.replace(_CPU, domains=DOMAINS),
        *_of_sizes(_CPU, "1.3M", "3M"),
    ),
    "gpu": (
        *_of_sizes(_GPU, "1.3M", "3M", "10M", "30M", "100M"),
        _lora(_of_size(_GPU, "30M"), 16),
    ),
}

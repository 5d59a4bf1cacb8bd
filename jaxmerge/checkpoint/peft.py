"""LoRA adapters as PEFT writes them: pairs of factors, and which tensor each is for.

An adapter changes a weight `W` by `scale * B @ A`, with `A [rank, in]`, `B [out, rank]`
and `scale = alpha / rank`, or `alpha / sqrt(rank)` for rsLoRA; the product is
transposed where the layer keeps its weight as `[in, out]` (`fan_in_fan_out`), and for
embeddings.
"""

import dataclasses
import math
import re
from typing import Any

import numpy as np
from jaxtyping import Array

from jaxmerge._trees import LowRank
from jaxmerge.checkpoint._source import Source
from jaxmerge.checkpoint.errors import CheckpointError

_FACTOR = re.compile(
    r"^(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])"
    r"(?:\.(?!weight$|bias$)(?P<adapter>[^.]+))?(?:\.weight)?$"
)
_PREFIX = "base_model.model."
# GPT-2's layers keep weights as [in, out]. PEFT looks at the layer, and an adapter's
# config may say otherwise.
_CONV1D_FAMILIES = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
_CONV1D = ("c_attn", "c_proj", "c_fc", "q_attn")
# These initialisations change the base, so the factors do not belong to it as it is.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_REFUSED = {
    "use_dora": "DoRA's magnitudes are no low-rank delta",
    "use_qalora": "QALoRA's factors act on pooled inputs",
    "layer_replication": "it repeats the base's layers",
    "target_parameters": "it targets parameters instead of layers",
    "trainable_token_indices": "it changes single rows of an embedding",
    "lora_bias": "its factors have biases",
    "alora_invocation_tokens": "it acts only after certain tokens",
    "arrow_config": "it routes among adapters",
}


@dataclasses.dataclass(frozen=True)
class LoraPair:
    """The two factors of one adapted tensor, unread.

    Attributes:
      target: the base's tensor.
      a_name: the stored name of `A`.
      b_name: the stored name of `B`.
      scale: what the product is multiplied with.
      fan_in_fan_out: whether the base keeps the transpose of `B @ A`.
    """

    target: str
    a_name: str
    b_name: str
    scale: float
    fan_in_fan_out: bool = False

    def shape(self, source: Source) -> tuple[int, ...]:
        """The shape of the delta, which is the base tensor's."""
        shape = source.info(self.b_name).shape[0], source.info(self.a_name).shape[1]
        return shape[::-1] if self.fan_in_fan_out else shape

    def rank(self, source: Source) -> int:
        """Of the delta."""
        return source.info(self.a_name).shape[0]

    def read(self, source: Source) -> LowRank:
        """The factors, as a leaf that stands for the delta in the base's layout."""
        a, b = source.read(self.a_name), source.read(self.b_name)
        if self.fan_in_fan_out:
            a, b = b.T, a.T
        return LowRank(a=a, b=b, scale=self.scale)


@dataclasses.dataclass(frozen=True)
class Adapter:
    """What a PEFT folder holds.

    Attributes:
      pairs: the factors by the base's tensor.
      full: whole tensors (`modules_to_save`, trained biases) by the base's tensor, each
        with its stored name.
    """

    pairs: dict[str, LoraPair]
    full: dict[str, str]


def lora_delta(
    a: Array | np.ndarray,
    b: Array | np.ndarray,
    scale: float,
    fan_in_fan_out: bool = False,
) -> Array:
    """The delta that a pair of factors stands for, `scale * B @ A`, in float32.

    >>> import jax.numpy as jnp
    >>> lora_delta(jnp.ones((1, 3)), jnp.ones((2, 1)), 0.5).shape
    (2, 3)

    Args:
      a: `[rank, in]`.
      b: `[out, rank]`.
      scale: `alpha / rank`, or `alpha / sqrt(rank)` for rsLoRA.
      fan_in_fan_out: whether to give the transpose, `[in, out]`.
    """
    delta = LowRank(a=a, b=b, scale=scale).dense()
    return delta.T if fan_in_fan_out else delta


def _check_config(where: str, config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{where} is an adapter of type {config.get('peft_type')!r}; only LORA is "
            "supported"
        )
    for key, reason in _REFUSED.items():
        if config.get(key):
            raise CheckpointError(
                f"{where} has {key}, which is not supported: {reason}"
            )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise CheckpointError(
            f"{where} was initialised by {start!r}, which changes the base; save it as "
            "a plain LoRA adapter first (path_initial_model_for_weight_conversion)"
        )


def _number(where: str, config: dict[str, Any], key: str, module: str) -> int | float:
    """`r` or `lora_alpha` of a module: its pattern's entry, or the adapter's."""
    patterns = config.get("rank_pattern" if key == "r" else "alpha_pattern") or {}
    value = config.get(key)
    for pattern, entry in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            value = entry
            break
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(f"{where}: {key} is {value!r} for {module!r}, no number")
    return value


def _scale(where: str, config: dict[str, Any], module: str, rank: int) -> float:
    configured = _number(where, config, "r", module)
    if configured != rank or rank == 0:
        raise CheckpointError(
            f"{where}: the factors for {module!r} have rank {rank} and its config says "
            f"{configured}"
        )
    alpha = _number(where, config, "lora_alpha", module)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _whole_name(name: str) -> str:
    """The base's name of a tensor that the adapter stores whole."""
    name = re.sub(r"\.modules_to_save(\.default(?=\.))?", "", name)
    return name.replace(".base_layer.", ".")


def _pair(
    source: Source, module: str, names: dict[str, str], transposed: bool
) -> LoraPair:
    where, config = str(source.path), source.config or {}
    if set(names) != {"A", "B"}:
        raise CheckpointError(f"{where}: {module!r} has only factor {min(names)}")
    a, b = source.info(names["A"]), source.info(names["B"])
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        raise CheckpointError(
            f"{where}: the factors for {module!r} have shapes {a.shape} and {b.shape}; "
            "expected [rank, in] and [out, rank] (convolutions are not supported)"
        )
    scale = _scale(where, config, module, a.shape[0])
    target = f"{module}.weight"
    return LoraPair(target, a.name, b.name, scale, transposed)


def read_adapter(
    source: Source, *, base_config: dict[str, Any] | None = None
) -> Adapter:
    """Reads which tensors an adapter changes, and how; no weights are read.

    Args:
      source: a PEFT folder.
      base_config: the base's `config.json`, if known: layers of the GPT-2 family are
        transposed even where the adapter's config forgets to say so, as in PEFT.

    Raises:
      CheckpointError: if it is no LoRA adapter, or of a kind that is not supported
        (DoRA, …), or its tensors do not fit its config.
    """
    where, config = str(source.path), source.config or {}
    _check_config(where, config)
    factors: dict[str, dict[str, str]] = {}
    embeddings: set[str] = set()
    full: dict[str, str] = {}
    for name in source.infos:
        short = name.removeprefix(_PREFIX)
        match = _FACTOR.match(short)
        if match is None:
            if ".lora_" in short:
                raise CheckpointError(f"{where}: {name!r} is not a plain LoRA factor")
            full[_whole_name(short)] = name
            continue
        module = match["module"]
        if match["factor"] in factors.setdefault(module, {}):
            raise CheckpointError(f"{where} has several adapters for {module!r}")
        factors[module][match["factor"]] = name
        if match["embedding"]:
            embeddings.add(module)
    if not factors:
        raise CheckpointError(f"{where} has no LoRA factors in it")
    conv1d = (base_config or {}).get("model_type") in _CONV1D_FAMILIES
    pairs = {}
    for module, names in factors.items():
        transposed = module in embeddings or bool(config.get("fan_in_fan_out"))
        transposed |= conv1d and module.rsplit(".", 1)[-1] in _CONV1D
        pair = _pair(source, module, names, transposed)
        pairs[pair.target] = pair
    return Adapter(pairs, full)


def lora_pairs(
    source: Source, *, base_config: dict[str, Any] | None = None
) -> dict[str, LoraPair]:
    """The factors of an adapter that holds nothing else; see `read_adapter`.

    Raises:
      CheckpointError: also if the adapter stores whole tensors besides.
    """
    adapter = read_adapter(source, base_config=base_config)
    if adapter.full:
        raise CheckpointError(
            f"{source.path} stores {min(adapter.full)!r} whole (modules_to_save, or a "
            "trained bias), which is no low-rank delta; fold the adapter into its base "
            "first"
        )
    return adapter.pairs

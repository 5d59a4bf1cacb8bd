"""Tied weights: one tensor that a model uses under two names, and stores once.

With `tie_word_embeddings`, the output head of a transformer is its embedding. Most
checkpoints then store the embedding alone, a few store both. Here such a head is an
*alias* of the embedding: it can be read by its name, it is not a tensor of its own, and
a merged model stores it as rarely as its base did. A stored head that differs from the
embedding stays a tensor, whatever the config says.
"""

from collections.abc import Callable, Iterable
from typing import Any

# The end of the embedding's name -> the names that may be tied to it, in which `{}` is
# what came before that end. The first line that fits a checkpoint is taken.
_TIES = (
    ("language_model.model.embed_tokens.weight", ("{}language_model.lm_head.weight",)),
    ("model.language_model.embed_tokens.weight", ("{}lm_head.weight",)),
    ("model.decoder.embed_tokens.weight", ("{}lm_head.weight",)),
    ("model.embed_tokens.weight", ("{}lm_head.weight",)),
    (
        "model.shared.weight",
        (
            "{}lm_head.weight",
            "{}model.encoder.embed_tokens.weight",
            "{}model.decoder.embed_tokens.weight",
        ),
    ),
    (
        "shared.weight",
        (
            "{}lm_head.weight",
            "{}encoder.embed_tokens.weight",
            "{}decoder.embed_tokens.weight",
        ),
    ),
    ("transformer.wte.weight", ("{}lm_head.weight",)),
    ("transformer.word_embeddings.weight", ("{}lm_head.weight",)),
    ("gpt_neox.embed_in.weight", ("{}embed_out.weight",)),
    ("backbone.embeddings.weight", ("{}lm_head.weight",)),
    ("wte.weight", ("{}lm_head.weight",)),
)
_HEADS = ("CausalLM", "LMHeadModel", "ConditionalGeneration", "HeadModel")


def _candidates(names: Iterable[str]) -> dict[str, str]:
    """Names that would be tied if anything is, each with its embedding."""
    names = list(names)
    for end, tied in _TIES:
        for name in names:
            prefix = name.removesuffix(end)
            if prefix != name and (not prefix or prefix.endswith(".")):
                return {alias.format(prefix): name for alias in tied}
    return {}


def _tied(config: dict[str, Any]) -> bool:
    """Whether the config ties the head to the embedding.

    Where it does not say, the model family decides; a causal model that stores no head
    can only be tied.
    """
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and "tie_word_embeddings" in part:
            return bool(part["tie_word_embeddings"])
    return bool(config.get("architectures"))


def _has_head(config: dict[str, Any]) -> bool:
    architectures = config.get("architectures") or []
    return not architectures or any(str(a).endswith(_HEADS) for a in architectures)


def find_ties(
    names: Iterable[str],
    config: dict[str, Any] | None,
    equal: Callable[[str, str], bool],
) -> dict[str, str]:
    """The tied names of a checkpoint.

    >>> config = {"tie_word_embeddings": True, "architectures": ["LlamaForCausalLM"]}
    >>> find_ties(["model.embed_tokens.weight"], config, lambda a, b: False)
    {'lm_head.weight': 'model.embed_tokens.weight'}

    Args:
      names: the stored tensors.
      config: `config.json`, or None where there is none, and then no ties.
      equal: whether two stored tensors are the same bytes; asked only for a head that
        is stored although the config ties it.

    Returns:
      Alias to stored name. A name that is also in `names` is stored twice.
    """
    if config is None or not _tied(config) or not _has_head(config):
        return {}
    stored = set(names)
    stated = "tie_word_embeddings" in config or "text_config" in config
    return {
        alias: name
        for alias, name in _candidates(names).items()
        if alias not in stored or (stated and equal(alias, name))
    }

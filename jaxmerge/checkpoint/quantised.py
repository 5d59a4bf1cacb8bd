"""Recognising quantised checkpoints, whose tensors are codes and not weights."""

import re
from collections.abc import Iterable
from typing import Any

from jaxmerge.checkpoint.errors import CheckpointError

# What GPTQ and AWQ, compressed-tensors, block-scaled float8, bitsandbytes and MXFP4 put
# beside the codes.
_COMPANIONS = re.compile(
    r"(^|\.)(qweight|qzeros|weight_packed|weight_scale|weight_scale_inv|"
    r"weight_zero_point|SCB)$|"
    r"\.(absmax|quant_map|nested_absmax)$|\.quant_state\."
)


def refuse_quantised(
    where: str, names: Iterable[str], config: dict[str, Any] | None
) -> None:
    """Refuses a checkpoint that is quantised.

    >>> refuse_quantised("model", ["layers.0.weight"], None)

    Raises:
      CheckpointError: if its config says so, or its tensors' names do.
    """
    advice = "codes are not weights: dequantise it first (to bfloat16, say)"
    for key in ("quantization_config", "compression_config", "quantization"):
        if config and config.get(key):
            raise CheckpointError(
                f"{where} is quantised ({key} in its config.json); {advice}"
            )
    names = set(names)
    for name in sorted(names):
        blocks = name.endswith("_blocks") and f"{name[:-7]}_scales" in names
        if blocks or _COMPANIONS.search(name):
            raise CheckpointError(f"{where} is quantised (tensor {name!r}); {advice}")

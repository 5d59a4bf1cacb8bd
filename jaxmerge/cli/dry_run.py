"""What a merge would do, said before a weight is read."""

import collections
from typing import Any

import numpy as np

from jaxmerge.checkpoint import Plan, Source
from jaxmerge.checkpoint.recipe import Recipe, Resolved
from jaxmerge.checkpoint.recipe_settings import Schedule
from jaxmerge.cli.text import human_bytes, plural, table

_SHOWN_FIRST, _SHOWN_LAST = 24, 4


def dtypes_of(source: Source) -> dict[str, int]:
    """Bytes of each dtype in a checkpoint, most first."""
    sizes: collections.Counter[str] = collections.Counter()
    for info in source.infos.values():
        sizes[str(info.dtype)] += info.nbytes
    return dict(sizes.most_common())


def _describe_model(role: str, reference: str, source: Source) -> dict[str, Any]:
    return {
        "role": role,
        "model": reference,
        "path": str(source.path),
        "kind": source.kind,
        "tensors": len(source.infos),
        "dtypes": dtypes_of(source),
    }


def describe_plan(
    recipe: Recipe, resolved: Resolved, plan: Plan, notes: list[str]
) -> dict[str, Any]:
    """A plan as plain JSON data.

    Args:
      recipe: the recipe.
      resolved: its merge.
      plan: of that merge.
      notes: what there is to say.
    """
    models = []
    if plan.base is not None:
        models.append(_describe_model("base", str(recipe.base), plan.base))
    for t, (model, source) in enumerate(zip(recipe.experts, plan.experts, strict=True)):
        models.append(_describe_model(f"expert {t}", str(model.reference), source))
    tensors = []
    for output in plan.outputs:
        name = output.template.name
        assert name is not None
        stored = plan.template.infos[name].dtype
        merged = output.program is not None
        tensors.append(
            {
                "name": output.info.name,
                "shape": list(output.info.shape),
                "from": str(stored),
                "to": str(output.info.dtype),
                "merged": merged,
                "parameters": resolved.at(output.info.name) if merged else {},
            }
        )
    return {
        "method": recipe.merge_method,
        "parameters": {
            label: "by tensor" if isinstance(value, Schedule) else value
            for label, value in resolved.values.items()
        },
        "models": models,
        "tensors": tensors,
        "passes": plan.reads_of_experts,
        "memory": plan.memory,
        "bytes_read": plan.bytes_read,
        "bytes_written": plan.bytes_written,
        "notes": notes,
    }


def _number(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(_number, value)) + ")"
    return value if isinstance(value, str) else f"{np.round(value, 6):g}"


def _tensor_row(tensor: dict[str, Any], varying: list[str]) -> list[str]:
    dtype = tensor["from"]
    if tensor["to"] != dtype:
        dtype += " → " + tensor["to"]
    values = [f"{k}={_number(tensor['parameters'].get(k, ''))}" for k in varying]
    how = "  ".join(values) if tensor["merged"] else "copied"
    return [tensor["name"], "×".join(map(str, tensor["shape"])) or "scalar", dtype, how]


def plan_text(description: dict[str, Any], *, verbose: bool = False) -> list[str]:
    """The lines that a dry run prints.

    Args:
      description: from `describe_plan`.
      verbose: whether to show every tensor of a long list.
    """
    parameters = description["parameters"]
    varying = [k for k, value in parameters.items() if value == "by tensor"]
    lines = [f"method: {description['method']}"]
    lines += [f"  {k} = {_number(value)}" for k, value in parameters.items()]
    lines.append("models:")
    lines += table(
        [
            [
                model["role"],
                model["model"],
                model["kind"],
                plural(model["tensors"], "tensor"),
                ", ".join(f"{human_bytes(n)} {d}" for d, n in model["dtypes"].items()),
                model["path"],
            ]
            for model in description["models"]
        ]
    )
    tensors = description["tensors"]
    copied = [tensor for tensor in tensors if not tensor["merged"]]
    lines.append(f"tensors: {len(tensors) - len(copied)} merged, {len(copied)} copied")
    rows = [_tensor_row(tensor, varying) for tensor in tensors]
    hidden = len(rows) - _SHOWN_FIRST - _SHOWN_LAST
    if hidden > 1 and not verbose:
        shown = table(rows[:_SHOWN_FIRST] + rows[-_SHOWN_LAST:])
        shown.insert(_SHOWN_FIRST, f"  … {hidden} more (--verbose shows them)")
    else:
        shown = table(rows) if rows else []
    passes = description["passes"]
    lines += [
        *shown,
        f"memory: about {human_bytes(description['memory'])} for tensors in flight",
        f"reads: {human_bytes(description['bytes_read'])}"
        + (f" (the experts {passes} times)" if passes > 1 else ""),
        f"writes: {human_bytes(description['bytes_written'])}",
    ]
    return lines + [f"note: {note}" for note in description["notes"]]

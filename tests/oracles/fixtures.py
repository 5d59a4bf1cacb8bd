"""Loads the recorded results of other merging libraries as NumPy arrays.

Each folder under `tests/fixtures` was written by one `record_*.py` of this folder, in
the oracle's own environment; its `recorded.json` says the oracle, its version, the
function called and what was seen. Nothing here needs an oracle or PyTorch.
"""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

FIXTURES = Path(__file__).parents[1] / "fixtures"
Tensors = dict[str, np.ndarray]

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read_safetensors(path: Path) -> Tensors:
    """Every tensor of a safetensors file, in the file's dtypes (bfloat16 included)."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        start, end = (8 + size + at for at in entry["data_offsets"])
        flat = np.frombuffer(data[start:end], _DTYPES[entry["dtype"]])
        tensors[name] = flat.reshape(entry["shape"])
    return tensors


def recorded(folder: str) -> dict[str, Any]:
    """A folder's `recorded.json`: oracle, versions, the parameters of each case."""
    return json.loads((FIXTURES / folder / "recorded.json").read_text())


@dataclass(frozen=True)
class MergekitCase:
    """One mergekit recipe and what mergekit wrote for it.

    Attributes:
      name: the case; `pytest` ids read well with it.
      recipe: path of the YAML. Its models are named `base`, `a`, `b`, `c`: run it with
        the current directory at `root`, or resolve the names there.
      root: the folder holding the four checkpoints.
      expected: tensors by name as mergekit wrote them; a subset of the output (layer 0
        and the tensors outside the layers) unless the recipe depends on the layer.
      masks: for the random methods the Bernoulli masks drawn, by `(expert, tensor)`,
        True where kept; no entry where the density is 1. Empty for other methods.
      about: this case's entry of `recorded.json`.
    """

    name: str
    recipe: Path
    root: Path
    about: dict[str, Any] = field(repr=False)

    @cached_property
    def expected(self) -> Tensors:
        return read_safetensors(self.root / "expected" / f"{self.name}.safetensors")

    @cached_property
    def masks(self) -> dict[tuple[str, str], np.ndarray]:
        path = self.root / "expected" / f"{self.name}.masks.safetensors"
        if not path.exists():
            return {}
        masks = {}
        for key, packed in read_safetensors(path).items():
            expert, tensor = key.split("/")
            shape = self.expected[tensor].shape
            bits = np.unpackbits(packed, count=int(np.prod(shape)))
            masks[expert, tensor] = bits.astype(bool).reshape(shape)
        return masks


def mergekit_models() -> dict[str, Tensors]:
    """The four float32 Llama checkpoints: `base` and its experts `a`, `b`, `c`."""
    root = FIXTURES / "mergekit"
    return {
        m: read_safetensors(root / m / "model.safetensors") for m in ("base", *"abc")
    }


def mergekit_cases(prefix: str = "") -> list[MergekitCase]:
    """The recorded mergekit recipes whose names start with `prefix`, by name."""
    root = FIXTURES / "mergekit"
    return [
        MergekitCase(name, root / "cases" / f"{name}.yml", root, about)
        for name, about in sorted(recorded("mergekit")["cases"].items())
        if name.startswith(prefix)
    ]


@dataclass(frozen=True)
class LoraCase:
    """One merge of LoRA-like tensors, without a base.

    Attributes:
      method: in folder `rht` (the authors' code) `rht`, `ties` or `magnitude_ties`; in
        folder `peft` the name of PEFT's function.
      params: `weights` (as a user gives them; in `rht` the oracle was called with
        weights / sum(weights), in float32), `density`, `sign` (rht) or
        `majority_sign_method` (peft), `tensor`, `num_experts`, `dtype`,
        `output_dtype`, and `tied`: True where sizes tie at the threshold of a
        bfloat16 tensor, so that another choice of the kept elements is as right.
      inputs: the experts' tensors in the dtype that the oracle was given.
      expected: what the oracle returned.
      masks: the Bernoulli draws of the random methods, one per expert, True if kept.
    """

    key: str
    method: str
    params: dict[str, Any]
    inputs: list[np.ndarray] = field(repr=False)
    expected: np.ndarray = field(repr=False)
    masks: list[np.ndarray] = field(repr=False)

    @property
    def name(self) -> str:
        return f"{self.method}-{self.key}"


def lora_cases(folder: str, method: str = "") -> list[LoraCase]:
    """The recorded merges of folder `rht` or `peft`, all or those of one method."""
    tensors = read_safetensors(FIXTURES / folder / "tensors.safetensors")
    cases = []
    for key, about in recorded(folder)["cases"].items():
        if method not in ("", about["method"]):
            continue
        dtype = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}[about["dtype"]]
        experts = range(about["num_experts"])
        inputs = [
            tensors[f"input/{t}/{about['tensor']}"].astype(dtype) for t in experts
        ]
        draws = [
            tensors[f"{key}/mask/{t}"] for t in experts if f"{key}/mask/{t}" in tensors
        ]
        shape, size = inputs[0].shape, inputs[0].size
        masks = [
            np.unpackbits(d, count=size).astype(bool).reshape(shape) for d in draws
        ]
        cases.append(LoraCase(key, about["method"], about, inputs, tensors[key], masks))
    return cases


@dataclass(frozen=True)
class ResearchCase:
    """One merge by FusionBench or by a method's authors.

    Attributes:
      name: the case, such as `iso_c` or `ties_0.2`.
      about: its entry of `recorded.json`: oracle, function, `frame` (what `expected`
        is: the merged delta unless it says otherwise), parameters and notes.
      base: the base's tensors by name.
      experts: the three experts' tensors (weights, not deltas).
      side: the side statistics that the method needs, one dict per expert, keyed by
        tensor name: `fisher` (elementwise) or `gram` (X^T X of the inputs), or empty.
      expected: what the oracle returned; for most methods one array per tensor name.
        With masks or several models the names have prefixes, told by `frame`.
    """

    name: str
    about: dict[str, Any] = field(repr=False)
    base: Tensors = field(repr=False)
    experts: list[Tensors] = field(repr=False)
    side: list[Tensors] = field(repr=False)
    expected: Tensors = field(repr=False)

    @property
    def deltas(self) -> list[Tensors]:
        """The experts' task vectors as the oracles were given them, in float32."""
        return [{k: e[k] - self.base[k] for k in self.base} for e in self.experts]


def under(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors whose names start with `prefix/`, without it."""
    start = prefix + "/"
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


def research_cases(prefix: str = "", folder: str = "research") -> list[ResearchCase]:
    """The recorded merges of a folder whose names start with `prefix`.

    The inputs of all such folders are those of `research`.
    """
    tensors = read_safetensors(FIXTURES / "research" / "tensors.safetensors")
    merged = read_safetensors(FIXTURES / folder / "tensors.safetensors")
    about = recorded(folder)
    each = lambda kind: [
        under(tensors, f"{kind}/{t}") for t in range(about["num_experts"])
    ]
    base, experts = under(tensors, "base"), each("expert")
    return [
        ResearchCase(
            name,
            case,
            base,
            experts,
            each(case["side"]) if "side" in case else [],
            under(merged, name),
        )
        for name, case in about["cases"].items()
        if name.startswith(prefix)
    ]


def adapter_cases(prefix: str = "") -> list[ResearchCase]:
    """The recorded merges of two LoRA adapters, folder `subspaces`.

    The base is zero; an expert's one tensor `w` is its product b a, and its factors are
    in `side`.
    """
    tensors = read_safetensors(FIXTURES / "subspaces" / "tensors.safetensors")
    lora = under(tensors, "lora")
    factors = [under(lora, str(t)) for t in range(2)]
    products = [{"w": f["b"] @ f["a"]} for f in factors]
    base = {"w": np.zeros_like(products[0]["w"])}
    return [
        ResearchCase(name, case, base, products, factors, under(lora, name))
        for name, case in recorded("subspaces")["adapters"].items()
        if name.startswith(prefix)
    ]


@dataclass(frozen=True)
class TransformersCase:
    """Folders as transformers saves them, a recipe, and its merge by hand.

    Attributes:
      root: holds `base`, `a`, `b`, `c` (bfloat16, sharded, tied embeddings; the base
        with tokenizer and chat template) and `ties.yml`, whose models are those names.
      merged: TIES in float64 from its definition, rounded once to float32, not yet to
        bfloat16. Equal sizes at the threshold are kept from the lowest index.
      mergekit: what mergekit itself wrote for `ties.yml`, bfloat16.
      tied: True where some expert's delta has the size at which its tensor is cut and
        a tie straddles the cut; there mergekit keeps another of the equals.
      input_ids: tokens of two sequences.
      logits: of the merged weights after rounding to bfloat16, by transformers in
        float32 arithmetic.
    """

    root: Path
    merged: Tensors = field(repr=False)
    mergekit: Tensors = field(repr=False)
    tied: Tensors = field(repr=False)
    input_ids: np.ndarray = field(repr=False)
    logits: np.ndarray = field(repr=False)


def transformers_case() -> TransformersCase:
    """The recorded transformers folder."""
    root = FIXTURES / "transformers"
    tensors = read_safetensors(root / "expected.safetensors")
    return TransformersCase(
        root,
        under(tensors, "merged"),
        under(tensors, "mergekit"),
        {k: v.astype(bool) for k, v in under(tensors, "tied").items()},
        tensors["input_ids"],
        tensors["logits"],
    )

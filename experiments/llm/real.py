"""Real models: merges of k = 1 … T local checkpoints, and their loss by domain."""

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

import jaxmerge
from experiments.common.results import Results, fingerprint
from experiments.llm import huggingface
from experiments.llm.model import Architecture, ModelConfig, Params
from experiments.llm.texts import load_folder
from experiments.llm.tokenizers import Tokenizer, load_tokenizer
from experiments.llm.train import sequence_losses
from jaxmerge import checkpoint

_NAMES = ("average", "task_arithmetic", "magnitude_prune", "ties", "dare", "della")
_NAMES += ("breadcrumbs", "magmax", "sce", "rht", "model_stock", "consensus")
_NAMES += ("isotropic", "iso_cts", "tsv_m", "svc", "dc_merge", "knots", "wudi")
_NAMES += ("swudi", "ace", "actmat", "default")
METHODS: dict[str, Callable[[], jaxmerge.Merger]] = {
    name: getattr(jaxmerge, name) for name in _NAMES
}
DEFAULT = ("average", "task_arithmetic", "ties", "rht", "isotropic", "tsv_m", "default")
# Methods that are defined for two experts or more.
_FEWEST = {"model_stock": 2, "consensus": 2}


@dataclasses.dataclass(frozen=True)
class RealConfig:
    """What is merged, and what it is measured on.

    Attributes:
      base: a Hugging Face folder, Llama or Qwen2.
      experts: folders of full models or of LoRA adapters.
      texts: a folder with a sub-folder of `*.txt` for each domain.
      methods: of `METHODS`, at their published defaults.
      length: tokens of a sequence.
      sequences: most sequences a domain.
      batch: sequences evaluated at once.
      orders: how many orders of the experts; the first is as given.
      seed: of the other orders and of random methods.
      dtype: of the arithmetic: `"float32"` or `"bfloat16"`.
    """

    base: Path
    experts: tuple[Path, ...]
    texts: Path
    methods: tuple[str, ...] = DEFAULT
    length: int = 512
    sequences: int = 32
    batch: int = 4
    orders: int = 1
    seed: int = 0
    dtype: str = "float32"


def place(params: Params) -> Params:
    """Parameters on all devices: leaves cut along the longest axis that allows it."""
    devices = jax.devices()
    mesh = Mesh(np.array(devices), ("device",))

    def put(leaf: np.ndarray) -> Array:
        spec: list[str | None] = [None] * leaf.ndim
        for axis in sorted(range(leaf.ndim), key=lambda i: -leaf.shape[i]):
            if leaf.shape[axis] % len(devices) == 0:
                spec[axis] = "device"
                break
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*spec)))

    return jax.tree.map(put, params)


def read_sequences(config: RealConfig, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """`[sequence, length + 1]` of each domain, spread evenly over its text.

    Raises:
      ValueError: if a domain's text has not one sequence.
    """
    found = {}
    for name, documents in load_folder(config.texts).items():
        tokens = tokenizer.encode(documents)
        num = min(config.sequences, (len(tokens) - 1) // config.length)
        if num < 1:
            raise ValueError(
                f"the text of domain {name!r} has {len(tokens)} tokens, fewer than the "
                f"{config.length + 1} of one sequence; give more text, or a smaller "
                "--length"
            )
        last = len(tokens) - config.length - 1
        starts = np.linspace(0, last, num).astype(int)
        found[name] = tokens[starts[:, None] + np.arange(config.length + 1)]
    return found


class Evaluator:
    """The mean cross-entropy by domain of any parameters of one shape."""

    def __init__(
        self, shape: ModelConfig, config: RealConfig, texts: dict[str, np.ndarray]
    ):
        architecture = Architecture(shape, dtype=jnp.dtype(config.dtype))

        @jax.jit
        def losses(params: Params, tokens: Array) -> Array:
            logits = architecture.logits(params, tokens[:, :-1])
            return sequence_losses(logits.astype(jnp.float32), tokens[:, 1:])

        self._losses, self._texts, self._batch = losses, texts, config.batch

    def __call__(self, params: Params) -> dict[str, float]:
        placed = place(params)
        found = {}
        for name, sequences in self._texts.items():
            parts = []
            for at in range(0, len(sequences), self._batch):
                rows = sequences[at : at + self._batch]
                # The last batch is filled up, so that one shape is compiled.
                filled = np.resize(rows, (self._batch, rows.shape[1]))
                losses = self._losses(placed, jnp.asarray(filled, jnp.int32))
                parts.append(np.asarray(losses)[: len(rows)])
            found[name] = float(np.concatenate(parts).mean())
        return found


def _identity(path: Path) -> dict[str, Any]:
    """What a checkpoint is, wherever it lies: hashes of all its bytes."""
    with checkpoint.open_source(path) as source:
        return source.identity(checksums=True)


def _digest(texts: dict[str, np.ndarray]) -> str:
    hashes = [
        hashlib.sha256(name.encode() + np.asarray(x, np.int32).tobytes()).hexdigest()
        for name, x in sorted(texts.items())
    ]
    return fingerprint(hashes)


def plan(config: RealConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What is measured: the base, each expert, and each method's merges for each k.

    Raises:
      ValueError: if a method is unknown.
    """
    unknown = [name for name in config.methods if name not in METHODS]
    if unknown:
        raise ValueError(
            f"{unknown[0]!r} is no method here; expected some of {', '.join(METHODS)}"
        )
    count = len(config.experts)
    yield "base", ()
    for i in range(count):
        yield "expert", (i,)
    rng = np.random.default_rng(config.seed)
    orders = [np.arange(count)]
    orders += [rng.permutation(count) for _ in range(config.orders - 1)]
    for k in range(1, count + 1):
        sets = dict.fromkeys(tuple(map(int, order[:k])) for order in orders)
        for method in config.methods:
            if k >= _FEWEST.get(method, 1):
                yield from ((method, members) for members in sets)


def load(config: RealConfig, method: str, members: Sequence[int], work: Path) -> Params:
    """The parameters of the base, of an expert, or of a merge made for the moment."""
    experts = [config.experts[i] for i in members]
    if method == "base":
        return huggingface.load(config.base).params
    if method == "expert":
        with checkpoint.open_source(experts[0]) as source:
            if source.kind != "peft":
                return huggingface.load(experts[0]).params
    if method == "expert":
        merger = jaxmerge.task_arithmetic(scale=1.0)
    else:
        merger = METHODS[method]()
    checkpoint.merge(
        merger,
        base=config.base,
        experts=experts,
        out=work,
        key=jax.random.key(config.seed),
        overwrite=True,
    )
    try:
        return huggingface.load(work).params
    finally:
        shutil.rmtree(work)


def run(
    config: RealConfig, out: Path, stage: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Merges and measures; a rerun reads the rows that are finished.

    Args:
      config: the settings.
      out: a folder for `merges.jsonl`, and for one merge at a time.
      stage: called with a few words as each row begins.

    Returns:
      The rows: method, experts, k, and the mean cross-entropy of each domain.

    Raises:
      ValueError: if anything does not fit; the sentence says what.
    """
    out.mkdir(parents=True, exist_ok=True)
    with checkpoint.open_source(config.base) as source:
        shape = huggingface.read_config(str(config.base), source.config or {})
    tokenizer = load_tokenizer(config.base, shape.vocab_size)
    texts = read_sequences(config, tokenizer)
    evaluate = Evaluator(shape, config, texts)
    common = {
        "base": fingerprint(_identity(config.base)),
        "texts": _digest(texts),
        "tokens": tokenizer.name,
        "length": config.length,
        "seed": config.seed,
        "dtype": config.dtype,
    }
    hashes = [fingerprint(_identity(path)) for path in config.experts]
    results = Results(out / "merges.jsonl")
    rows = []
    for method, members in plan(config):
        names = [config.experts[i].name for i in members]

        def compute(method=method, members=members, names=names) -> dict[str, Any]:
            stage(" ".join([method, *names]))
            losses = evaluate(load(config, method, members, out / "work"))
            return {"experts": names, "k": len(names), "losses": losses}

        settings = {**common, "method": method, "of": [hashes[i] for i in members]}
        rows.append(results.get_or_compute(settings, compute))
    return rows

"""Comparisons with FusionBench and with methods' authors, as recorded on small models.

A `Run` gives what to compare of one recorded case: `research` has three experts of six
tensors, `adapters` two LoRA adapters of one matrix.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

import jaxmerge
from jaxmerge import merge_leaves
from tests.oracles import fixtures
from tests.oracles.compare import (
    AUTHORS,
    Comparison,
    Pair,
    arrays,
    merge,
    merge_given_draws,
    short,
)
from tests.oracles.fixtures import ResearchCase

MATRICES = ("square.weight", "tall.weight", "wide.weight")
FOLDERS = ("research", "spectral", "subspaces", "ace", "agreement", "essential")
FOLDERS += ("compressed",)
RESEARCH = [c for folder in FOLDERS for c in fixtures.research_cases(folder=folder)]
ADAPTERS = fixtures.adapter_cases()

Make = Callable[[ResearchCase], jaxmerge.Merger]
Run = Callable[[ResearchCase], Iterable[Pair]]


def research(
    method: str, prefix: str, run: Run, note: str = "", kind: str = AUTHORS
) -> Comparison:
    """Recorded merges of three experts.

    Args:
      method: its name in the registry.
      prefix: a case's name, or what stands before an underscore in several.
      run: gives what to compare of a case.
      note: what to tell beside the cases' names.
      kind: the class of the oracle.
    """
    return recordings(RESEARCH, method, prefix, run, note, kind)


def adapters(method: str, prefix: str, run: Run) -> Comparison:
    """The same of two LoRA adapters."""
    return recordings(ADAPTERS, method, prefix, run, "adapters")


def recordings(
    cases: Sequence[ResearchCase],
    method: str,
    prefix: str,
    run: Run,
    note: str,
    kind: str = AUTHORS,
) -> Comparison:
    cases = [c for c in cases if f"{c.name}_".startswith(f"{prefix}_")]
    assert cases, f"nothing is recorded under {prefix!r}"
    oracles = {case.about["oracle"] for case in cases}
    assert len(oracles) == 1, f"{prefix!r} is recorded of several: {oracles}"
    names = ", ".join(case.name for case in cases) + (f" ({note})" if note else "")
    pairs = lambda: (pair for case in cases for pair in run(case))
    return Comparison(method, kind, short(oracles.pop()), names, pairs)


def of_deltas(make: Make) -> Run:
    """A run that is given deltas, and gives a delta."""

    def run(case: ResearchCase) -> Iterator[Pair]:
        yield Pair(merge(make(case), case), case.expected)

    return run


def of_weights(merger: jaxmerge.Merger, based: bool = True) -> Run:
    """A run in the frame of the weights themselves."""

    def run(case: ResearchCase) -> Iterator[Pair]:
        experts = case.experts[: case.about.get("num_experts")]
        merged = merge_leaves(merger, case.base if based else None, experts)
        yield Pair(arrays(merged), case.expected, case.base)

    return run


def with_statistics(make: Make) -> Run:
    """A run in the frame of the weights, given what was recorded of the experts."""

    def run(case: ResearchCase) -> Iterator[Pair]:
        merged = merge_leaves(make(case), case.base, case.experts, statistics=case.side)
        yield Pair(arrays(merged), case.expected, case.base)

    return run


def by_tensor(make: Callable[[ResearchCase, str], jaxmerge.Merger]) -> Run:
    """A run whose recipe depends on the matrix.

    Not on `thin.weight`, which has fewer directions than there are tasks: oracles lose
    it, and ours do not.
    """

    def run(case: ResearchCase) -> Iterator[Pair]:
        for name in MATRICES:
            deltas = [delta[name] for delta in case.deltas]
            merged = merge_leaves(make(case, name), None, deltas)
            yield Pair({name: np.asarray(merged)}, {name: case.expected[name]})

    return run


def of_factors(make: Make) -> Run:
    """A run on adapters as pairs of factors."""

    def run(case: ResearchCase) -> Iterator[Pair]:
        experts = [{"w": jaxmerge.LowRank(f["a"], f["b"])} for f in case.side]
        yield Pair(arrays(merge_leaves(make(case), None, experts)), case.expected)

    return run


def dare_of_the_authors(case: ResearchCase) -> Iterator[Pair]:
    """The drop and rescaling of each expert by itself: its authors sum elsewhere."""
    dare = jaxmerge.dare(density=1 - case.about["mask_rate"])
    for t, delta in enumerate(case.deltas):
        expected = fixtures.under(case.expected, f"{t}")
        for name, mask in fixtures.under(case.expected, f"mask/{t}").items():
            draws = [mask.astype(bool)]
            merged = merge_given_draws(dare, None, [delta[name]], draws)
            yield Pair({name: np.asarray(merged)}, {name: expected[name]})


def emr_of_the_authors(case: ResearchCase) -> Iterator[Pair]:
    """Task models: the unified vector where each task's mask is, rescaled.

    Case `emr_tree` has rescalers of its own, and the masks and vector of `emr`.
    """
    compat = "paper" if case.name == "emr_tree" else "reference"
    zeros = {k: np.zeros_like(x) for k, x in case.base.items()}
    models: Any = merge_leaves(jaxmerge.emr(compat=compat), zeros, case.deltas)
    recorded = next(c.expected for c in RESEARCH if c.name == "emr")
    unified = fixtures.under(recorded, "unified")
    for t, rescaler in enumerate(np.asarray(case.expected["rescalers"])):
        masks = fixtures.under(recorded, f"mask/{t}")
        expected = {k: rescaler * masks[k] * x for k, x in unified.items()}
        yield Pair(arrays(models.params(t)), expected)


def pcb_of_the_authors(case: ResearchCase) -> Iterator[Pair]:
    """Of the whole model as one vector."""
    vectors = [ravel_pytree(delta)[0] for delta in case.deltas]
    restore = ravel_pytree(case.deltas[0])[1]
    merger = jaxmerge.pcb(ratio=case.about["ratio"], scale=1.0)
    yield Pair(arrays(restore(merge_leaves(merger, None, vectors))), case.expected)


def lines_of_the_authors(case: ResearchCase) -> Iterator[Pair]:
    """Of the sum of tensors that are in blocks by their names."""
    alpha, beta, blocks = (case.about[k] for k in ("alpha", "beta", "blocks"))
    within = lambda k: f"blocks.{blocks[k]}.{k}" if k in blocks else k
    merger = jaxmerge.lines(
        jaxmerge.task_arithmetic(scale=1.0),
        num_layers=len(blocks),
        alpha=alpha,
        beta=beta,
    )
    deltas = [{within(k): x for k, x in tree.items()} for tree in case.deltas]
    merged = arrays(merge_leaves(merger, None, deltas))
    yield Pair({k: merged[within(k)] for k in case.expected}, case.expected)


def esm_of_the_authors(case: ResearchCase) -> Iterator[Pair]:
    """They lose the matrix that has fewer outputs than there are tasks."""
    merged = merge_leaves(jaxmerge.esm(), None, case.deltas, statistics=case.side)
    merged["thin.weight"] = np.zeros_like(merged["thin.weight"])
    if case.about["balanced"]:
        zeros = {k: np.zeros_like(x) for k, x in merged.items()}
        merged = jaxmerge.balance_layers(zeros, merged, [r"\.weight$"])
    kept = [k for k in case.expected if k != "thin.weight"]
    merged = arrays(merged)
    yield Pair({k: merged[k] for k in kept}, {k: case.expected[k] for k in kept})


def tall_masks_of_the_authors(case: ResearchCase) -> Iterator[Pair]:
    """Task models: the sum where each task's mask is."""
    zeros = {k: np.zeros_like(x) for k, x in case.base.items()}
    merger = jaxmerge.tall_masks(threshold=case.about["tall_mask_lambda"])
    models: Any = merge_leaves(merger, zeros, case.deltas)
    for t in range(len(case.deltas)):
        masks = fixtures.under(case.expected, f"mask/{t}")
        total = {k: sum(np.float64(d[k]) for d in case.deltas) for k in masks}
        expected = {k: masks[k] * total[k] for k in masks}
        yield Pair(arrays(models.params(t)), expected)


def tsv_c_of_the_authors(case: ResearchCase) -> Iterator[Pair]:
    """Task by task. They lose the matrix of fewer directions than there are tasks."""
    merger = jaxmerge.tsv_c(share=1 / len(case.deltas))
    for t, delta in enumerate(case.deltas):
        merged = arrays(merge_leaves(merger, None, [delta]))
        merged["thin.weight"] = np.zeros_like(merged["thin.weight"])
        yield Pair(merged, fixtures.under(case.expected, str(t)))


def actmat_of_a_port(case: ResearchCase) -> Iterator[Pair]:
    """In float64 as recorded. Other leaves than matrices get the weighted mean."""
    merger = jaxmerge.actmat(weights=np.asarray(case.about["weights"]))
    with jax.enable_x64(True):
        deltas = [{k: np.float64(x) for k, x in d.items()} for d in case.deltas]
        yield Pair(arrays(merge_leaves(merger, None, deltas)), case.expected)


def ace_of_the_authors(case: ResearchCase) -> Iterator[Pair]:
    """In float64 as recorded; not where the authors' own result is NaN."""
    scaled = zip(case.about["scales"], case.deltas, strict=True)
    deltas = [{k: s * np.float64(x) for k, x in tree.items()} for s, tree in scaled]
    merger = jaxmerge.ace(variant="released", eps=case.about["eps"])
    with jax.enable_x64(True):
        merged = arrays(merge_leaves(merger, None, deltas))
    finite = [k for k in merged if k not in case.about["not_finite"]]
    yield Pair({k: merged[k] for k in finite}, {k: case.expected[k] for k in finite})


def dc_density(case: ResearchCase, name: str) -> float:
    """Theirs counts a share of r^2 entries, ours of the (T k)^2 that there are."""
    rank, num = min(case.base[name].shape), len(case.experts)
    kept = max(1, int(case.about["density"] * rank**2))
    return (kept + 0.5) / (num * (rank // num)) ** 2


def whole_size(case: ResearchCase) -> int:
    return sum(x.size for x in case.base.values())


def core_size(case: ResearchCase) -> int:
    """How many entries a matrix has in the space of all factors."""
    return sum(factors["a"].shape[0] for factors in case.side) ** 2


def coordinates(case: ResearchCase) -> int:
    """How many entries two adapters have in KnOTS' basis, of fewer rows than theirs."""
    ranks = sum(factors["a"].shape[0] for factors in case.side)
    return ranks * case.base["w"].shape[1]

"""Every method, one line each; `test_conformance.py` runs its checks over this table.

A method enters with its recipe, its NumPy reference and what it promises:

agreement  how closely executors agree: "exact" (bit for bit when jitted), "close" (per
           element within rounding of the sums), "spectral" (1e-5 of the delta's norm)
sweep      the coefficient that is swept by vmap and must not recompile
smooth     whether the merged model is differentiable in its experts almost everywhere
random     whether it needs a key
selects    whether it ranks entries: compiling that is slow, so tests give it less to do
experts    how many experts the tests give it
heavy      whether its programs take long to compile: the checks that make most of them
           are then among the slow tests
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxmerge
from jaxmerge._side import kinds_needed
from jaxmerge.combine.decompositions import whole
from tests.reference import (
    agreement,
    entries,
    methods as reference,
    regression,
    spheres,
)


@dataclasses.dataclass(frozen=True)
class Method:
    name: str
    make: Callable[..., jaxmerge.Merger]
    reference: Callable[..., Any]
    agreement: str = "exact"
    sweep: tuple[str, tuple[float, float]] | None = ("scale", (0.5, 1.5))
    smooth: bool = True
    random: bool = False
    selects: bool = False
    experts: int = 3
    heavy: bool = False
    whole_model: bool = False  # the reference takes dicts of tensors

    def __str__(self) -> str:
        return self.name


def _dare(consensus: str) -> Callable[..., Any]:
    def merged(base, experts, uniforms):
        return reference.dare(base, experts, uniforms, density=0.4, consensus=consensus)

    return merged


def _rht_reference(base, experts):
    return reference.rht(base, experts, weights=[1.0, 3.0])


def _rht(**kwargs):
    return jaxmerge.rht(weights=np.array([1.0, 3.0], np.float32), **kwargs)


def statistics_of(merger, base, experts):
    """Statistics for mergers that need them, as functions of the deltas; else None."""
    kinds = kinds_needed(merger)
    if not kinds:
        return None
    if isinstance(experts, jaxmerge.Stacked):
        tree, num = experts.tree, experts.num_experts
        experts = [jax.tree.map(lambda x, t=t: x[t], tree) for t in range(num)]
    base = jaxmerge.named_leaves(base)
    found = []
    for expert in map(jaxmerge.named_leaves, experts):
        deltas = {
            name: jnp.asarray(expert[name]) - jnp.asarray(x)
            for name, x in base.items()
            if jnp.issubdtype(x.dtype, jnp.floating)
        }
        of = {name: _statistic(kinds[0], delta) for name, delta in deltas.items()}
        found.append({name: x for name, x in of.items() if x is not None})
    return found


def _statistic(kind: str, delta):
    if kind == "fisher":
        return 0.01 + jnp.abs(delta)  # no product, which would be fused with the sum
    if kind == "gram" and delta.ndim == 2:
        delta = whole(delta)  # of a mesh, products of parts have no one layout
        # Far from a multiple of the identity, and another for each expert.
        row = delta.T @ jnp.sin(40 * delta)
        return row @ row.T + jnp.diag(0.5 + 0 * delta[0])
    return 0.5 + delta * delta if kind == "gram" and delta.ndim == 1 else None


def _with_statistics(kind: str, reference_of, **options):
    def merged(base, experts):
        deltas = [np.float64(x) - np.float64(base) for x in experts]
        sides = [_statistic(kind, jnp.asarray(d)) for d in deltas]
        sides = [None if x is None else np.float64(x) for x in sides]
        return reference_of(base, experts, sides, **options)

    return merged


J, R = jaxmerge, reference
METHODS = [
    Method("average", J.average, R.average, sweep=("weights", (0.5, 1.5))),
    Method("task_arithmetic", J.task_arithmetic, R.task_arithmetic),
    Method(
        "ties",
        J.ties,
        R.ties,
        sweep=("density", (0.3, 0.6)),
        selects=True,
        experts=2,
    ),
    Method(
        "ties_tree",
        lambda **k: J.ties(scope="tree", **k),
        R.ties_tree,
        whole_model=True,
    ),
    Method(
        "dare_linear",
        lambda **k: J.dare(**{"density": 0.4, **k}),
        _dare("linear"),
        random=True,
    ),
    Method(
        "dare_ties",
        lambda **k: J.dare(**{"density": 0.4, "consensus": "ties", **k}),
        _dare("ties"),
        random=True,
        heavy=True,
    ),
    Method(
        "magnitude_prune",
        J.magnitude_prune,
        R.magnitude_prune,
        sweep=("density", (0.3, 0.6)),
        selects=True,
        experts=2,
    ),
    Method(
        "breadcrumbs",
        lambda **k: J.breadcrumbs(**{"density": 0.4, "gamma": 0.1, **k}),
        lambda b, e: entries.breadcrumbs(b, e, density=0.4, gamma=0.1),
        sweep=("density", (0.3, 0.6)),
        selects=True,
        experts=2,
        heavy=True,
    ),
    Method(
        "della",
        J.della,
        entries.della,
        random=True,
        selects=True,
        experts=2,
        heavy=True,
    ),
    Method(
        "slerp", J.slerp, R.slerp, agreement="close", sweep=("t", (0.2, 0.7)), experts=2
    ),
    Method(
        "nuslerp",
        J.nuslerp,
        spheres.nuslerp,
        agreement="close",
        sweep=("weights", (0.5, 1.5)),
        experts=2,
        heavy=True,
    ),
    Method(
        "multislerp",
        J.multislerp,
        spheres.multislerp,
        agreement="close",
        sweep=("weights", (0.5, 1.5)),
        heavy=True,
    ),
    Method(
        "karcher",
        J.karcher,
        spheres.karcher,
        agreement="close",
        sweep=("weights", (0.5, 1.5)),
        heavy=True,
    ),
    Method(
        "nearswap",
        lambda t=0.05: J.nearswap(t=t),
        lambda b, e: entries.nearswap(b, e, t=0.05),
        sweep=("t", (0.02, 0.1)),
        experts=1,
        heavy=True,  # no, but a clip has little to get wrong
    ),
    Method("model_stock", J.model_stock, R.model_stock, agreement="close", sweep=None),
    Method("consensus", J.consensus, R.consensus, sweep=("threshold", (0.2, 0.6))),
    Method("emr", J.emr, R.emr, agreement="close", sweep=None, whole_model=True),
    Method("isotropic", J.isotropic, R.isotropic, agreement="spectral"),
    Method(
        "iso_cts", J.iso_cts, R.iso_cts, agreement="spectral", experts=2, heavy=True
    ),
    Method(
        "ace",
        lambda **k: J.ace(tau=0.0, **k),  # the gate is on
        lambda base, experts: R.ace(base, experts, tau=0.0),
        agreement="spectral",
        heavy=True,
    ),
    Method("tsv_m", J.tsv_m, R.tsv_m, agreement="spectral"),
    Method(
        "tsv_c",
        J.tsv_c,
        R.tsv_c,
        agreement="spectral",
        sweep=("share", (0.3, 0.7)),
        heavy=True,  # no, but its decomposition is that of others
    ),
    Method(
        "dc_merge",
        lambda **k: J.dc_merge(density=0.3, **k),  # more than one entry of a few
        lambda b, e: R.dc_merge(b, e, density=0.3),
        agreement="spectral",
        selects=True,
        heavy=True,
        experts=2,
    ),
    Method(
        "knots",
        lambda scale=1.0: J.knots(J.ties(density=0.5, scale=scale)),
        lambda b, e: R.knots(b, e, density=0.5),
        agreement="spectral",
        selects=True,
        heavy=True,
        experts=2,
    ),
    Method(
        "arcee_fusion",
        J.arcee_fusion,
        entries.arcee_fusion,
        agreement="close",
        selects=True,
        experts=1,
        heavy=True,
    ),
    Method("magmax", J.magmax, R.magmax),
    Method(
        "lines",
        lambda **k: J.lines(
            J.task_arithmetic(scale=0.5),
            num_layers=4,
            **{"alpha": 0.4, "beta": 0.6, **k},
        ),
        agreement.lines,
        sweep=("alpha", (0.2, 0.6)),
        heavy=True,  # no, but it is a scale
    ),
    Method(
        "pcb",
        lambda **k: J.pcb(**{"ratio": 0.4, **k}),
        lambda b, e: agreement.pcb(b, e, ratio=0.4),
        agreement="close",
        sweep=("ratio", (0.2, 0.6)),
        experts=2,
        heavy=True,
    ),
    Method(
        "tall_masks",
        lambda **k: J.tall_masks(**{"scale": 0.5, **k}),
        lambda b, e: agreement.tall_masks(b, e, scale=0.5),
        agreement="close",
        whole_model=True,
        heavy=True,
    ),
    Method(
        "metagpt",
        J.metagpt,
        agreement.metagpt,
        agreement="close",
        whole_model=True,
        heavy=True,
    ),
    Method(
        "metagpt_leaf",
        lambda **k: J.metagpt(scope="leaf", **k),
        agreement.metagpt_leaf,
        agreement="close",
        heavy=True,  # no, but two sums have little to get wrong
    ),
    Method(
        "ram",
        lambda **k: J.ram(threshold=0.1, **k),
        lambda b, e: entries.ram(b, e, threshold=0.1),
        heavy=True,  # no, but RAM+ runs its code too
    ),
    Method(
        "ram_plus",
        lambda r=0.5: J.ram(plus=True, threshold=0.1, r=r, alpha=0.9),
        lambda b, e: entries.ram(b, e, threshold=0.1, plus=True, r=0.5, alpha=0.9),
        sweep=("r", (0.1, 0.9)),
        heavy=True,
    ),
    Method(
        "sce",
        lambda **k: J.sce(**{"select_topk": 0.6, **k}),
        lambda b, e: entries.sce(b, e, select_topk=0.6),
        agreement="close",
        sweep=("select_topk", (0.3, 0.9)),
        selects=True,
        experts=2,
        heavy=True,
    ),
    Method(
        "svc",
        lambda scale=0.3: J.svc(J.task_arithmetic(scale=scale)),
        R.svc,
        agreement="spectral",
        heavy=True,
        experts=2,
    ),
    Method(
        "subspace_boosting",
        J.subspace_boosting,
        R.subspace_boosting,
        agreement="spectral",
        heavy=True,
        sweep=("share", (0.0, 0.5)),
        experts=2,
    ),
    Method(
        "wudi",
        lambda **k: J.wudi(**{"learning_rate": 1e-3, "steps": 30, **k}),
        lambda b, e: R.wudi(b, e, learning_rate=1e-3, steps=30),
        agreement="spectral",
        heavy=True,
        sweep=("learning_rate", (5e-4, 2e-3)),
        experts=2,
    ),
    Method(
        "swudi",
        lambda **k: J.swudi(**{"time": 3.0, **k}),
        lambda b, e: R.swudi(b, e, time=3.0),
        agreement="spectral",
        heavy=True,
        sweep=("time", (1.0, 5.0)),
        experts=2,
    ),
    Method(
        "fisher", J.fisher, _with_statistics("fisher", regression.fisher), experts=2
    ),
    Method(
        "regmean",
        J.regmean,
        _with_statistics("gram", regression.regmean),
        agreement="spectral",
        heavy=True,
        sweep=("off_diagonal", (0.2, 0.9)),
        experts=2,
    ),
    Method(
        "lot",
        J.lot,
        _with_statistics("gram", regression.lot),
        agreement="spectral",
        heavy=True,
        experts=2,
    ),
    Method(
        "cat",
        lambda **k: J.cat(**{"directions": 1, "trade_off": 0.5, **k}),
        _with_statistics("gram", regression.cat),
        agreement="spectral",
        sweep=("trade_off", (0.2, 0.8)),
        heavy=True,
        experts=2,
    ),
    Method(
        "esm",
        J.esm,
        _with_statistics("gram", regression.esm),
        agreement="spectral",
        heavy=True,
        experts=2,
    ),
    Method(
        "actmat",
        J.actmat,
        regression.actmat,
        agreement="spectral",
        heavy=True,
        experts=2,
    ),
    Method(
        "default",
        J.default,
        regression.default,
        agreement="spectral",
        heavy=True,
        experts=2,
    ),
    Method(
        "rht",
        _rht,
        _rht_reference,
        sweep=("density", (0.3, 0.9)),
        selects=True,
        experts=2,
    ),
]

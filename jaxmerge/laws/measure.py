"""Merge and measure: the losses of many sets of experts, by one compiled program.

What merges is any function of a mask over experts, so nothing here knows a method:

    merge = lambda members: merger(base, experts, members=members)
    table = measure(merge, all_subsets(9), {"algebra": loss, ...}, path="losses.csv")

Both functions compile (there is no jit to add), run on the default device, and come
back with a `LossTable`, whose `pooled` has macro and token-weighted averages.
"""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxmerge.laws._collect import Progress, collect
from jaxmerge.laws._numbers import Real
from jaxmerge.laws._saved import Saved
from jaxmerge.laws.designs import Design, Orders, check_orders, prefixes
from jaxmerge.laws.tables import LossTable, subset_name

Losses = Mapping[str, Callable[[PyTree], Any]] | Callable[[PyTree], Any]


@runtime_checkable
class Incremental(Protocol):
    """A merge one expert at a time, as `LinearMerge` is.

    `start` gives a state without experts, `add` one with expert t (a traced position),
    `finish` the merged parameters. States have one structure, whatever is in them.
    """

    def start(self) -> Any: ...
    def add(self, state: Any, t: Any) -> Any: ...
    def finish(self, state: Any) -> PyTree: ...


def measure(
    merge: Callable[[Any], PyTree],
    design: Design,
    losses: Losses,
    *,
    domains: Sequence[str] | None = None,
    method: str = "",
    size: Real = np.nan,
    tokens: Mapping[str, Real] | None = None,
    batch_size: int = 64,
    save_every: int = 1024,
    path: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> LossTable:
    r"""The loss of every set of a design, on every domain.

    One program is compiled. It holds `batch_size` merged models and what their losses
    take at a time, beside what `merge` closes over; what does not depend on the mask
    (trims, random masks) is computed once a call of `save_every` sets.

    Args:
      merge: from a traced mask `(task,)` to parameters, such as
        `lambda members: merger(base, experts, members=members)` or a `LinearMerge`.
      design: the sets.
      losses: domain to a function of the parameters that JAX can trace, with one
        non-negative number as its result; or one function that gives `(domain,)`.
      domains: the names, if `losses` is one function.
      method: what the table calls the method.
      size: N, in billions of parameters or any one unit.
      tokens: of each domain, for averages weighted by them; 1 if None.
      batch_size: how many sets are merged at a time, at least 1.
      save_every: how many sets one call of the program takes.
      path: a CSV file to which sets are added as they are measured. If it is there, the
        sets in it are not measured again, but for a few that have to come out the same.
      progress: called with how many sets are done, and of how many.

    Returns:
      A row for each set and domain, in the order of the design.

    Raises:
      ValueError: if a loss is negative or not finite (by its set), the file at `path`
        is of another measurement, or an argument does not fit.

    >>> from jaxmerge.laws.designs import all_subsets
    >>> from jaxmerge.laws.linear import linear_merge
    >>> experts = [{"w": jnp.array([0.0])}, {"w": jnp.array([2.0])}]
    >>> merge = linear_merge({"w": jnp.zeros(1)}, experts)
    >>> square = {"square": lambda params: jnp.sum(params["w"] ** 2)}
    >>> table = measure(merge, all_subsets(2), square)
    >>> table.subset.tolist(), table.loss.tolist()
    (['0', '1', '0-1'], [0.0, 4.0, 1.0])

    References:
      Model Merging Scaling Laws in Large Language Models, 2025, section 3.
    """
    names = _checked_names(design)
    known, evaluate = _evaluator(losses, domains)

    def chunk(masks: Array) -> Array:
        each = lambda mask: evaluate(merge(mask))[None]
        return jax.lax.map(each, masks, batch_size=batch_size)

    saved = _saved(path, size, method, known, tokens)
    found = collect(
        chunk, design.masks, [[name] for name in names], saved, save_every, progress
    )
    return _table(names, found, saved)


def measure_prefixes(
    merge: Incremental,
    orders: Orders,
    losses: Losses,
    *,
    domains: Sequence[str] | None = None,
    method: str = "",
    size: Real = np.nan,
    tokens: Mapping[str, Real] | None = None,
    batch_size: int = 4,
    save_every: int = 64,
    path: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> LossTable:
    r"""The loss of the first 1, 2, ..., T experts of every order.

    A prefix is the one before with one more expert: it costs `merge.add` and
    `merge.finish`, for a linear merge one addition and one product. One program is
    compiled; it holds `batch_size` states and models at a time.

    Args:
      merge: an `Incremental` merge, such as `linear_merge(base, experts)`.
      orders: positions `(order, task)`, as `permutations` gives them.
      losses: as for `measure`; so are `domains`, `method`, `size` and `tokens`.
      domains: the names, if `losses` is one function.
      method: what the table calls the method.
      size: N, in billions of parameters or any one unit.
      tokens: of each domain; 1 if None.
      batch_size: how many orders are followed at a time, at least 1.
      save_every: how many orders one call of the program takes.
      path: a CSV file, as for `measure`.
      progress: called with how many sets are done, and of how many.

    Returns:
      A row for each domain and set of `prefixes(orders)`, in their order. A set that
      several orders come through is in it once, as the first of them adds it up.

    Raises:
      ValueError: as for `measure`, or if a row of `orders` is no permutation.

    >>> from jaxmerge.laws.linear import linear_merge
    >>> experts = [{"w": jnp.array([0.0])}, {"w": jnp.array([2.0])}]
    >>> merge = linear_merge({"w": jnp.zeros(1)}, experts)
    >>> square = {"square": lambda params: jnp.sum(params["w"] ** 2)}
    >>> measure_prefixes(merge, np.array([[1, 0]]), square).subset.tolist()
    ['1', '0-1']

    References:
      Model Merging Scaling Laws in Large Language Models, 2025, Appendix M.
    """
    rows = check_orders(orders)
    known, evaluate = _evaluator(losses, domains)

    def chunk(orders: Array) -> Array:
        def step(state: Any, t: Array) -> tuple[Any, Array]:
            state = merge.add(state, t)
            return state, evaluate(merge.finish(state))

        along = lambda order: jax.lax.scan(step, merge.start(), order)[1]
        return jax.lax.map(along, orders, batch_size=batch_size)

    steps = range(1, rows.shape[1] + 1)
    names = [[subset_name(sorted(o[:k])) for k in steps] for o in rows.tolist()]
    saved = _saved(path, size, method, known, tokens)
    found = collect(chunk, rows.astype(np.int32), names, saved, save_every, progress)
    return _table(prefixes(rows).names, found, saved)


# --- what is asked for ---------------------------------------------------------------


def _checked_names(design: Design) -> list[str]:
    masks = design.masks
    if masks.dtype != bool or masks.ndim != 2 or not len(masks):
        raise ValueError(
            f"the design's masks are {masks.dtype} of shape {masks.shape}; expected "
            "boolean (subset, task), with at least one subset"
        )
    names = design.names
    if "" in names:
        raise ValueError(f"set {names.index('')} of the design is empty")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the design has the set {twice} twice; expected each once")
    return names


def _evaluator(
    losses: Losses, domains: Sequence[str] | None
) -> tuple[list[str], Callable[[PyTree], Array]]:
    """The domains, and a function of parameters that gives `(domain,)`."""
    if isinstance(losses, Mapping):
        known = list(losses)
        if not known or domains is not None:
            raise ValueError(
                "losses by name have to be at least one, and name the domains "
                "themselves; leave domains out"
            )
        functions = dict(losses)
        every = lambda params: [function(params) for function in functions.values()]
    else:
        known = list(domains or ())
        function = losses
        every = lambda params: list(jnp.atleast_1d(function(params)))
        if not known:
            raise ValueError("losses is one function; name its results by domains")

    def evaluate(params: PyTree) -> Array:
        values = [jnp.asarray(value) for value in every(params)]
        shapes = [value.shape for value in values]
        if shapes != [()] * len(known):
            raise ValueError(
                f"the losses have shapes {shapes}; expected one number for each of the "
                f"domains {', '.join(known)}"
            )
        wide = any(value.dtype == jnp.float64 for value in values)
        dtype = jnp.float64 if wide else jnp.float32
        return jnp.stack([value.astype(dtype) for value in values])

    return known, evaluate


def _saved(
    path: Any,
    size: Real,
    method: str,
    domains: list[str],
    tokens: Mapping[str, Real] | None,
) -> Saved:
    """The settings of a measurement, and its file."""
    given = dict.fromkeys(domains, 1.0) if tokens is None else tokens
    for domain in domains:
        if not given.get(domain, 0) > 0:
            raise ValueError(
                f"tokens has {given.get(domain)} for {domain!r}; expected a number "
                "above 0 for every domain"
            )
    counts = [float(given[domain]) for domain in domains]
    file = None if path is None else Path(path)
    return Saved(file, float(size), method, domains, counts)


def _table(names: list[str], found: dict[str, np.ndarray], saved: Saved) -> LossTable:
    num, rows = len(saved.domains), len(names) * len(saved.domains)
    losses = np.concatenate([found[name] for name in names])
    return LossTable(
        size=np.full(rows, saved.size),
        method=np.full(rows, saved.method),
        domain=np.tile(np.asarray(saved.domains, str), len(names)),
        k=np.repeat([name.count("-") + 1 for name in names], num),
        subset=np.repeat(np.asarray(names, str), num),
        loss=losses,
        tokens=np.tile(np.asarray(saved.tokens, np.float64), len(names)),
    )

"""What the order of experts changes, and which expert helps which domain.

Both are read off the losses along orders: of the first 1, 2, ..., T experts of each
(`measure_prefixes`). Merges with equal weights do not know an order: what differs is
which set the first k experts are, and the noise of random masks.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxmerge.laws._numbers import Real
from jaxmerge.laws.designs import Orders, check_orders
from jaxmerge.laws.tables import LossTable, subset_name


def trajectories(
    table: LossTable,
    orders: Orders,
    *,
    method: str | None = None,
    size: Real | None = None,
) -> np.ndarray:
    """The losses along every order.

    Args:
      table: with the prefixes of the orders on every domain, of any other sets too.
      orders: positions `(order, task)`.
      method: which; may be left out where there is one.
      size: which; may be left out where there is one.

    Returns:
      Losses `(order, k, domain)`: k experts at index k - 1, domains in the order of
      `table.domains`.

    Raises:
      ValueError: if a prefix is not in the table (by its name), is in it twice, or
        there are several methods or sizes and none was named.
    """
    rows = check_orders(orders)
    chosen = _of_one(_of_one(table, "method", method), "size", size)
    losses: dict[tuple[str, str], float] = {}
    for row in chosen.rows():
        at = row["subset"], row["domain"]
        if losses.setdefault(at, row["loss"]) != row["loss"]:
            raise ValueError(
                f"the table has two losses of the set {at[0]} on {at[1]!r}; expected "
                "one"
            )
    result = np.empty((*rows.shape, len(table.domains)))
    for number, order in enumerate(rows.tolist()):
        for k in range(1, len(order) + 1):
            name = subset_name(sorted(order[:k]))
            for e, domain in enumerate(table.domains):
                if (name, domain) not in losses:
                    raise ValueError(
                        f"the table has no loss of the set {name} on {domain!r}, the "
                        f"first {k} of order {number}; measure the prefixes of these "
                        "orders"
                    )
                result[number, k - 1, e] = losses[name, domain]
    return result


def _of_one(table: LossTable, name: str, wanted: str | Real | None) -> LossTable:
    column = getattr(table, name)
    known = list(dict.fromkeys(str(value) for value in column.tolist()))
    if wanted is None:
        if len(known) > 1:
            raise ValueError(
                f"the table has several {name}s ({', '.join(known)}); name one"
            )
        return table
    keep = column == wanted
    if not np.any(keep):
        raise ValueError(
            f"the table has no {name} {wanted!r}; it has {', '.join(known)}"
        )
    return table.where(keep)


@dataclasses.dataclass(frozen=True)
class OrderSpread:
    """How losses differ between orders, at every number of experts.

    Attributes:
      k: 1, ..., T, `(k,)`.
      mean: over the orders, `(k,)`.
      std: with divisor orders - 1, `(k,)`.
      range: largest less smallest, `(k,)`.
      num_sets: how many different sets the orders' first k experts are, `(k,)`. Where
        it is 1, as at k = T, there is nothing to differ.
    """

    k: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    range: np.ndarray
    num_sets: np.ndarray

    @property
    def cv(self) -> np.ndarray:
        """The coefficient of variation, std / mean, `(k,)`; 0 where the std is 0."""
        safe = np.where(self.mean > 0, self.mean, 1.0)
        return np.where(self.std > 0, self.std / safe, 0.0)


def order_sensitivity(
    table: LossTable,
    orders: Orders,
    *,
    method: str | None = None,
    size: Real | None = None,
) -> OrderSpread:
    """Standard deviation, range and coefficient of variation over orders.

    Args:
      table: the losses of the orders' prefixes, of one domain or several; the mean over
        domains is taken, each counting alike (pool the table first for another).
      orders: positions `(order, task)`, at least two.
      method: which; may be left out where there is one.
      size: which; may be left out where there is one.

    Raises:
      ValueError: if there is one order, or a prefix is not in the table.

    >>> rows = [{"subset": s, "loss": x} for s, x in (("0", 1), ("1", 3), ("0-1", 1))]
    >>> spread = order_sensitivity(LossTable.from_rows(rows), [[0, 1], [1, 0]])
    >>> spread.range.tolist(), spread.mean.tolist()
    ([2.0, 0.0], [2.0, 1.0])

    References:
      Model Merging Scaling Laws in Large Language Models, 2025, section 4.3.
    """
    rows = check_orders(orders)
    if len(rows) < 2:
        raise ValueError("there is one order; a spread over orders needs at least two")
    losses = trajectories(table, rows, method=method, size=size).mean(axis=2)
    k = np.arange(1, rows.shape[1] + 1)
    sets = [len({tuple(sorted(o[:n])) for o in rows.tolist()}) for n in k.tolist()]
    return OrderSpread(
        k,
        losses.mean(axis=0),
        losses.std(axis=0, ddof=1),
        losses.max(axis=0) - losses.min(axis=0),
        np.asarray(sets),
    )


@dataclasses.dataclass(frozen=True)
class Synergy:
    """By how much a donor, when it is added, lowers the loss of a domain.

    Attributes:
      domains: the names, in the order of the second axis.
      mean: S, `(donor, domain)`; above 0 helps. NaN where nothing was observed.
      stderr: of the mean, `(donor, domain)`; NaN for fewer than two steps. Steps of
        orders that share sets are not independent, which it takes them to be.
      count: in how many steps the donor was added to others, `(donor,)`.
    """

    domains: list[str]
    mean: np.ndarray
    stderr: np.ndarray
    count: np.ndarray

    def block(self, donors: list[int], domains: list[str]) -> float:
        """The mean over pairs of some donors and some domains.

        >>> mean = np.array([[1.0, 3.0], [5.0, 7.0]])
        >>> synergy = Synergy(["a", "b"], mean, 0 * mean, np.array([2, 2]))
        >>> synergy.block([1], ["a", "b"])
        6.0
        """
        columns = [self.domains.index(domain) for domain in domains]
        return float(self.mean[np.ix_(donors, columns)].mean())


def synergy(
    table: LossTable,
    orders: Orders,
    *,
    method: str | None = None,
    size: Real | None = None,
) -> Synergy:
    r"""Which donors help which domains, from the steps of many orders.

        S_{d -> e} = mean over orders of  L_e(before d is added) - L_e(after)

    The first expert of an order is added to nothing, and is no step.

    Args:
      table: the losses of the orders' prefixes on every domain.
      orders: positions `(order, task)`; of at least two experts.
      method: which; may be left out where there is one.
      size: which; may be left out where there is one.

    Raises:
      ValueError: if a prefix is not in the table, or there is one expert.

    >>> rows = [{"subset": s, "loss": x} for s, x in (("0", 1), ("1", 3), ("0-1", 1))]
    >>> table = LossTable.from_rows(rows)
    >>> synergy(table, [[0, 1], [1, 0]]).mean.tolist()
    [[2.0], [0.0]]

    References:
      Model Merging Scaling Laws in Large Language Models, 2025, Appendix M.1.
    """
    rows = check_orders(orders)
    num_experts = rows.shape[1]
    if num_experts < 2:
        raise ValueError("there is one expert; synergy is between at least two")
    losses = trajectories(table, rows, method=method, size=size)
    gains = (losses[:, :-1] - losses[:, 1:]).reshape(-1, losses.shape[2])
    donors = rows[:, 1:].reshape(-1)

    def of_each(least: int, statistic: Callable[[np.ndarray], np.ndarray]):
        unknown = np.full(losses.shape[2], np.nan)
        steps = [gains[donors == donor] for donor in range(num_experts)]
        return np.stack([statistic(x) if len(x) >= least else unknown for x in steps])

    return Synergy(
        table.domains,
        of_each(1, lambda x: x.mean(axis=0)),
        of_each(2, lambda x: x.std(axis=0, ddof=1) / np.sqrt(len(x))),
        np.bincount(donors, minlength=num_experts),
    )

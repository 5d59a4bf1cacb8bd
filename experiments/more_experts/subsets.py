"""Which experts are merged for each k: the same sets for every recipe."""

import jax


def nested_subsets(seed: int, num_tasks: int, sequences: int) -> list[tuple[int, ...]]:
    """Every single expert, then prefixes of a few random orders, then all experts.

    Prefixes of one order are nested, so along it each k adds one expert to the last.
    Each set is sorted: all recipes fold the experts in the same order.

    >>> [len(s) for s in nested_subsets(0, num_tasks=4, sequences=2)]
    [1, 1, 1, 1, 2, 2, 3, 3, 4]

    Args:
      seed: of the orders.
      num_tasks: T.
      sequences: how many orders.

    Returns:
      The sets, by size, each once.
    """
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 2), sequences)
    orders = [jax.random.permutation(key, num_tasks).tolist() for key in keys]
    singles = [(t,) for t in range(num_tasks)]
    prefixes = [
        tuple(sorted(order[:k])) for k in range(2, num_tasks + 1) for order in orders
    ]
    return list(dict.fromkeys(singles + prefixes))

"""Small models with a known geometry."""

import jax.numpy as jnp
import numpy as np

SHAPES = {"layers.0.w": (12, 10), "layers.1.w": (12, 10), "norm": (7,)}


def tree(arrays: dict[str, np.ndarray]) -> dict:
    """Nested, as JAX models are."""
    wide = {name: jnp.asarray(x, jnp.float32) for name, x in arrays.items()}
    return {
        "layers": [{"w": wide["layers.0.w"]}, {"w": wide["layers.1.w"]}],
        "norm": wide["norm"],
    }


def base() -> dict:
    """Nothing but zeros."""
    return tree({name: np.zeros(shape) for name, shape in SHAPES.items()})


def normal(num: int, seed: int = 0, shared: float = 0.0) -> list[dict]:
    """Experts of independent normal entries, and a part that all share."""
    rng = np.random.default_rng(seed)
    draw = lambda: {n: rng.standard_normal(s) for n, s in SHAPES.items()}
    common, own = draw(), [draw() for _ in range(num)]
    a, b = shared**0.5, (1 - shared) ** 0.5
    return [tree({n: a * common[n] + b * x[n] for n in SHAPES}) for x in own]


def rows_apart(num: int) -> list[dict]:
    """Experts that read from different inputs, change different entries, and are
    orthogonal: expert t has numbers in column t of each matrix only."""
    experts = []
    for t in range(num):
        arrays = {name: np.zeros(shape) for name, shape in SHAPES.items()}
        for name in ("layers.0.w", "layers.1.w"):
            arrays[name][:, t] = 1 + np.arange(12) / 12
        experts.append(tree(arrays))
    return experts

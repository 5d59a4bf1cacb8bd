"""Toy families of experts: a base, M experts trained from it, and the pooled loss.

A family is drawn from its seed alone: the kind of model, its sizes, how many experts,
how different their tasks are, and for how long they were trained.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

KINDS = ("softmax", "tanh", "gelu", "deep", "regression", "factors")
_SQUARED = ("regression", "factors")


@dataclasses.dataclass(frozen=True)
class Family:
    """What a family is made of.

    Attributes:
      seed: of everything.
      kind: of the model: softmax regression, classifiers with one hidden layer (tanh or
        GELU) or two, a network for regression, or a product of two factors.
      inputs: their dimension.
      outputs: classes, or targets.
      width: of hidden layers, or the rank of the factors.
      experts: M.
      shift: how far a task's inputs and teacher are from the common ones.
      samples: per task, for training and again for the pooled loss.
      pretraining: steps of the base on a mixture of half of the tasks.
      steps: of an expert.
      rate: the learning rate of an expert.
    """

    seed: int
    kind: str
    inputs: int
    outputs: int
    width: int
    experts: int
    shift: float
    samples: int
    pretraining: int
    steps: int
    rate: float


def draw_family(seed: int) -> Family:
    """The family of a seed; kinds take turns."""
    rng = np.random.default_rng([20261125, seed])
    pick = lambda *values: values[rng.integers(len(values))]
    kind = KINDS[seed % len(KINDS)]
    # Squared losses are steep: at larger rates descent on them diverges.
    slowest, fastest = (0.004, 0.03) if kind in _SQUARED else (0.02, 0.3)
    return Family(
        seed=seed,
        kind=kind,
        inputs=pick(5, 10, 20),
        outputs=pick(3, 5, 10),
        width=pick(8, 16, 32),
        experts=pick(5, 6, 7, 8, 9),
        shift=float(rng.uniform(0.3, 1.5)),
        samples=pick(64, 128, 256),
        pretraining=pick(0, 100, 400),
        steps=pick(20, 60, 200),
        rate=float(np.exp(rng.uniform(np.log(slowest), np.log(fastest)))),
    )


def _initial(family: Family, key: Array) -> dict[str, Array]:
    layers = {
        "softmax": [(family.inputs, family.outputs)],
        "factors": [(family.inputs, family.width), (family.width, family.outputs)],
        "deep": [
            (family.inputs, family.width),
            (family.width, family.width),
            (family.width, family.outputs),
        ],
    }.get(family.kind)
    if layers is None:
        layers = [(family.inputs, family.width), (family.width, family.outputs)]
    keys = jax.random.split(key, len(layers))
    params = {}
    for i, (k, shape) in enumerate(zip(keys, layers, strict=True)):
        params[f"w{i}"] = jax.random.normal(k, shape) / np.sqrt(shape[0])
        params[f"b{i}"] = jnp.zeros(shape[1])
    return params


def _outputs(family: Family, params: dict[str, Array], x: Array) -> Array:
    activation = {"gelu": jax.nn.gelu, "factors": lambda x: x}.get(
        family.kind, jnp.tanh
    )
    last = len(params) // 2 - 1
    for i in range(last + 1):
        x = x @ params[f"w{i}"] + params[f"b{i}"]
        x = activation(x) if i < last else x
    return x


def _loss(family: Family, params: Any, x: Array, y: Array) -> Array:
    out = _outputs(family, params, x)
    if family.kind in _SQUARED:
        return jnp.mean((out - y) ** 2)
    logs = jax.nn.log_softmax(out)
    return -jnp.mean(jnp.sum(logs * y, axis=-1))


def _tasks(family: Family, key: Array) -> tuple[Array, Array]:
    """Inputs and targets, `(2, task, sample, ...)`: to train on, and to measure on."""
    kx, kc, kt, ks = jax.random.split(key, 4)
    shape = (2, family.experts, family.samples, family.inputs)
    centres = family.shift * jax.random.normal(kc, (family.experts, 1, family.inputs))
    x = jax.random.normal(kx, shape) + centres
    teacher = jax.random.normal(kt, (family.inputs, family.outputs))
    own = jax.random.normal(ks, (family.experts, *teacher.shape))
    teachers = (teacher + family.shift * own) / np.sqrt(family.inputs)
    scores = jnp.einsum("atsi,tio->atso", jnp.tanh(x), teachers)
    if family.kind in _SQUARED:
        return x, scores
    return x, jax.nn.one_hot(jnp.argmax(scores, axis=-1), family.outputs)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A family's models, and the loss on all its tasks.

    Attributes:
      base: parameters.
      experts: parameters, with a leading task axis.
      pooled: from parameters to the mean loss over all tasks, on samples that were not
        trained on.
    """

    base: Any
    experts: Any
    pooled: Callable[[Any], Array]


def train(family: Family) -> Trained:
    """Trains the base and all experts at once by gradient descent."""
    key_data, key_init = jax.random.split(jax.random.key(family.seed))
    x, y = _tasks(family, key_data)
    loss = functools.partial(_loss, family)

    def descend(params: Any, x: Array, y: Array, steps: int, rate: float) -> Any:
        def step(params: Any, _: Any) -> tuple[Any, None]:
            gradient = jax.grad(loss)(params, x, y)
            return jax.tree.map(lambda p, g: p - rate * g, params, gradient), None

        return jax.lax.scan(step, params, None, length=steps)[0]

    @jax.jit
    def models(x: Array, y: Array) -> tuple[Any, Any]:
        half = family.experts // 2
        mixed = [a[0, :half].reshape(-1, a.shape[-1]) for a in (x, y)]
        base = descend(
            _initial(family, key_init),
            *mixed,
            steps=family.pretraining,
            rate=family.rate,
        )
        fine_tune = functools.partial(descend, steps=family.steps, rate=family.rate)
        return base, jax.vmap(fine_tune, in_axes=(None, 0, 0))(base, x[0], y[0])

    base, experts = models(x, y)

    def pooled(params: Any) -> Array:
        return jnp.mean(jax.vmap(lambda a, b: loss(params, a, b))(x[1], y[1]))

    return Trained(base, experts, pooled)

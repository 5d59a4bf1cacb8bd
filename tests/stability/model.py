"""M1: quadratic losses whose risk is known exactly, trained by minibatch SGD in NumPy.

    l_i(x; z) = (x - z)^T H_i (x - z) / 2,    z ~ N(c_i, 1),    0.7 <= H_i <= 1

so L = 1, and F and its minimum are known. All seeds are one batch of arrays.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxmerge import stability
from jaxmerge.stability import ExpertSpec, ProblemStats

DIMENSION = 8
# Outside of `jit`, each operation would be a program of its own.
PROGRAM = jax.jit(stability.excess_risk_bound, static_argnames=("convex",))


def bound(spec, stats, *, coefficients=None, target_weights=None, **options):
    """The compiled bound, for float32 arrays only: one program a number of experts."""
    rows = [*vars(spec).values(), stats.noise, stats.gradient_norms]
    given = [*rows, coefficients, target_weights]
    num = max(np.size(x) for x in given if x is not None)
    row = lambda x: np.broadcast_to(np.asarray(x, np.float32), (num,))
    weights = np.full(num, 1 / num) if target_weights is None else target_weights
    alphas = weights if coefficients is None else coefficients
    known = {
        name: row(x) if name in ("noise", "gradient_norms") else np.float32(x)
        for name, x in vars(stats).items()
    }
    spec = ExpertSpec(*(row(x) for x in vars(spec).values()))
    arrays = {"coefficients": row(alphas), "target_weights": row(weights)}
    return PROGRAM(spec, ProblemStats(**known), **arrays, **options)


@dataclasses.dataclass(frozen=True)
class Model:
    centres: np.ndarray  # (task, dim)
    hessians: np.ndarray  # (task, dim, dim)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every expert does; numbers, or one for each."""

    rate: Any = 0.02
    batch: int = 8
    steps: Any = 128
    samples: int = 64

    def spec(self, steps=None):
        steps = self.steps if steps is None else steps
        return ExpertSpec(self.rate, self.batch, steps, self.samples)


def make(num_experts=4, spread=0.3, seed=1, diagonal=False):
    """With seed 1 and the defaults, the draw that gives the dossier's numbers."""
    rng = np.random.default_rng(seed)
    centres = 1 + spread * rng.standard_normal((num_experts, DIMENSION))
    hessians = []
    for _ in range(num_experts):
        basis = np.linalg.qr(rng.standard_normal((DIMENSION, DIMENSION)))[0]
        values = rng.permutation(np.linspace(0.7, 1, DIMENSION))
        basis = np.eye(DIMENSION) if diagonal else basis
        hessians.append(basis @ np.diag(values) @ basis.T)
    return Model(centres, np.array(hessians))


def value(x, at, hessians, weights):
    """sum p_i (x - at_i)^T H_i (x - at_i) / 2."""
    apart = x[..., None, :] - at
    each = np.einsum("...ia,iab,...ib->...i", apart, hessians, apart, optimize=True) / 2
    return each @ weights


def minimum(at, hessians, weights):
    """The minimiser of `value`."""
    pull = np.einsum("i,iab,...ib->...a", weights, hessians, at)
    mean = np.einsum("i,iab->ab", weights, hessians)
    return np.linalg.solve(mean, pull[..., None])[..., 0]


def spread(gradients, weights):
    mean = np.einsum("i,...ia->...a", weights, gradients)
    return np.sum((gradients - mean[..., None, :]) ** 2, -1) @ weights


def draw(model, settings, seeds, rng):
    """Data sets, `(seed, task, sample, dim)`."""
    shape = (seeds, len(model.centres), settings.samples, DIMENSION)
    return model.centres[:, None] + rng.standard_normal(shape)


def train(model, samples, settings, length, rng):
    """Yields the experts after each step, `(seed, task, dim)`."""
    x = np.zeros(samples.shape[:2] + samples.shape[3:])
    rate = np.broadcast_to(settings.rate, x.shape[1])[:, None]
    steps = np.broadcast_to(settings.steps, x.shape[1])[:, None]
    for k in range(length):
        marks = rng.random(samples.shape[:3], dtype=np.float32)
        batch = np.argpartition(marks, settings.batch - 1, axis=-1)
        batch = batch[..., : settings.batch, None]
        target = np.take_along_axis(samples, batch, axis=2).mean(2)
        slope = np.einsum("iab,sib->sia", model.hessians, x - target)
        x = x - np.where(k < steps, rate * slope, 0)
        yield x


@dataclasses.dataclass(frozen=True)
class Run:
    """Means over seeds: what the bound is told, and curves over steps, `(step,)`.

    Attributes:
      stats: with the heterogeneity at the merge after the last step.
      excess: E F(x_m) - min F.
      optimisation: E f(x_m) - min f.
      generalisation: E F(x_m) - f(x_m).
      merged: zeta^2 at x_m.
      gradient_square: G^2 at x_m.
    """

    stats: ProblemStats
    excess: np.ndarray
    optimisation: np.ndarray
    generalisation: np.ndarray
    merged: np.ndarray
    gradient_square: np.ndarray


def run(model, settings, *, length, seeds=600, weights=None, alphas=None, seed=0):
    """Trains and merges on fresh data in every seed, and measures after each step."""
    rng = np.random.default_rng(seed)
    num = len(model.centres)
    weights = np.full(num, 1 / num) if weights is None else np.asarray(weights)
    alphas = weights if alphas is None else np.asarray(alphas)
    hessians = model.hessians
    samples = draw(model, settings, seeds, rng)
    means = samples.mean(2)
    apart = samples - means[:, :, None]
    slopes = np.einsum("iab,sijb->sija", hessians, apart)
    noise = np.mean(np.sum(slopes**2, -1), axis=(0, 2))  # of each sample's gradient
    best = value(minimum(means, hessians, weights), means, hessians, weights)
    true = value(
        minimum(model.centres, hessians, weights), model.centres, hessians, weights
    )
    gradients = lambda x: np.einsum("iab,sib->sia", hessians, x[:, None] - means)
    # F - f at a fixed point has mean 0: taking it off takes its noise off. The point is
    # where training on the risk itself would be.
    one_sample = dataclasses.replace(settings, batch=1, samples=1)
    rows = []
    exact = train(model, model.centres[None, :, None], one_sample, length, rng)
    for x, path in zip(
        train(model, samples, settings, length, rng), exact, strict=True
    ):
        merged = np.einsum("i,sia->sa", alphas, x)
        risk = value(merged, model.centres, hessians, weights)
        loss = value(merged, means, hessians, weights)
        at = gradients(merged)
        squares = np.sum(at**2, -1) @ weights + noise @ weights
        point = np.einsum("i,sia->sa", alphas, path)
        odd = value(point, model.centres, hessians, weights)
        odd = odd - value(point, means, hessians, weights)
        gaps = risk - true, loss - best, risk - loss - odd
        rows.append([np.mean(c) for c in (*gaps, spread(at, weights), squares)])
    excess, optimisation, generalisation, merged, squares = np.array(rows).T
    zero = np.zeros((seeds, DIMENSION))
    start = gradients(zero)
    stats = ProblemStats(
        smoothness=1.0,
        noise=noise,
        gradient_norms=np.mean(np.sum(start**2, -1), axis=0),
        gradient=np.mean(np.sum(np.einsum("i,sia->sa", weights, start) ** 2, -1)),
        heterogeneity=np.mean(spread(start, weights)),
        merged_heterogeneity=merged[-1],
        gap=np.mean(value(zero, means, hessians, weights) - best),
    )
    return Run(stats, excess, optimisation, generalisation, merged, squares)


def coupled(hessian, rate, batch, samples, length, *, runs=4000, seed=0):
    """delta_k^2 after each step: coupled training with one sample replaced.

    The difference of both runs needs only how often the sample is in a batch.
    """
    rng = np.random.default_rng(seed)
    swap = np.sqrt(2) * rng.standard_normal((runs, DIMENSION))
    gap, squares = np.zeros((runs, DIMENSION)), []
    for _ in range(length):
        hit = rng.random((runs, 1)) < batch / samples
        gap = gap - rate * (gap - hit * swap / batch) @ hessian
        squares.append(np.mean(np.sum(gap**2, -1)))
    return np.array(squares)

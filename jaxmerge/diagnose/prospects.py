"""What one more expert is expected to add, and what it costs those that are there."""

import dataclasses

import numpy as np

from jaxmerge import geometry
from jaxmerge.geometry import Estimate

_AHEAD = 3


@dataclasses.dataclass(frozen=True)
class Prospects:
    """Experts that are there, and the next ones if they were like these.

    Attributes:
      gains: W(k + 1) - W(k) for k = 1 to T - 1, over subsets, as shares of the first.
      gain_errors: their standard errors.
      next_gains: the same for the next three experts; empty for one expert.
      next_errors: their standard errors.
      kept: of an expert's own component, what the mean of k experts keeps, averaged
        over subsets, for k = 1 to T + 3, or 1.
    """

    gains: np.ndarray
    gain_errors: np.ndarray
    next_gains: np.ndarray
    next_errors: np.ndarray
    kept: np.ndarray


def prospects(gram: np.ndarray, width: Estimate, gains: Estimate) -> Prospects:
    r"""Gains of the experts that are there, and a forecast for the next.

        W(T + j + 1) - W(T + j) = W(T) / m(T) (m(T + j + 1) - m(T + j))

    with m(k) the mean of the largest of k normal numbers: the law of experts of equal
    norms and equal cosines, scaled to the last width that was measured. It is exact for
    such experts and a guess for others. What the mean of k keeps is

        kept(k) = (1 + (k - 1) a) / k,   a = mean over s != t of <t_s, t_t> / |t_t|^2

    Args:
      gram: of the deltas, `(T, T)`.
      width: W(1) to W(T).
      gains: its differences.

    Returns:
      Empty gains for one expert, and zeros if the first gain is zero.

    Example:
      >>> import jax.numpy as jnp
      >>> m = [geometry.max_of_normals(k) for k in range(1, 5)]
      >>> found = prospects(np.eye(3), Estimate.exact(jnp.array(m[:3])),
      ...                   Estimate.exact(jnp.diff(jnp.array(m[:3]))))
      >>> np.isclose(found.next_gains[0], (m[3] - m[2]) / (m[1] - m[0])).item()
      True
      >>> found.kept[:2].tolist()
      [1.0, 0.5]
    """
    num = len(gram)
    mean, error = (np.asarray(x, np.float64) for x in (gains.mean, gains.stderr))
    first = float(mean[0]) if num > 1 else 0.0
    unit = first if first > 0 else np.inf
    ahead = _AHEAD if num > 1 else 0  # one expert does not tell what others are like
    order = np.array(
        [geometry.max_of_normals(k) for k in range(num, num + ahead + 1)], np.float64
    )
    steps = np.diff(order) / (order[0] if num > 1 else 1.0)
    last, last_error = float(width.mean[-1]), float(width.stderr[-1])
    own = np.diagonal(gram)
    some = own > 0
    inner = (gram.sum(axis=1) - own) / max(num - 1, 1)
    alike = float((inner[some] / own[some]).mean()) if some.any() else 0.0
    k = np.arange(1, num + ahead + 1)
    return Prospects(
        gains=mean / unit,
        gain_errors=error / unit,
        next_gains=steps * last / unit,
        next_errors=steps * last_error / unit,
        kept=(1 + (k - 1) * alike) / k if some.any() else np.zeros(len(k)),
    )

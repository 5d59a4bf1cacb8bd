r"""Curves of merging in closed form, where every loss is quadratic along the experts.

A linear merge is theta_0 + sum_i a_i v_i, and task t's loss of it

    L_t(a) = l_t + s_t . a + a^T C_t a / 2,
    s_t[i] = <grad L_t(theta_0), v_i>,    C_t[i, j] = v_i^T H_t v_j.

So all that averages and task arithmetic can do is in l, s and C: nothing here knows
how many parameters there are. Means and variances are over all subsets of one size,
drawn without replacement, and exact. Everything is float64 NumPy.
"""

import dataclasses
import functools

import numpy as np


def _inclusion(k: int, pool: int, members: int) -> float:
    """The share of all k-subsets that some given members are all in."""
    share = 1.0
    for i in range(members):
        share *= max(k - i, 0) / (pool - i) if pool > i else 0.0
    return share


def _off_diagonal(x: np.ndarray) -> np.ndarray:
    return x - np.diag(np.diagonal(x))


@dataclasses.dataclass(frozen=True)
class Exact:
    """The losses of all tasks as functions of a linear merge's coefficients.

    Merges of a subset K are theta_0 + (scale / k) sum of v over K: scale 1 is the
    average, scale lambda k is task arithmetic at lambda.

    Attributes:
      levels: l, the loss of the base, `[task]`.
      slopes: s, `[task, expert]`.
      curvatures: C, `[task, expert, expert]`, symmetric.
    """

    levels: np.ndarray
    slopes: np.ndarray
    curvatures: np.ndarray

    @property
    def size(self) -> int:
        """The number of experts, T; as many as tasks."""
        return len(self.levels)

    def losses(self, coefficients: np.ndarray) -> np.ndarray:
        """The loss of one merge on every task.

        Args:
          coefficients: a, `[expert]`.
        """
        bent = self.curvatures @ coefficients
        return self.levels + self.slopes @ coefficients + bent @ coefficients / 2

    def coefficients(self, members: list[int], scale: float = 1.0) -> np.ndarray:
        """Those of the merge of a subset."""
        a = np.zeros(self.size)
        a[list(members)] = scale / len(members)
        return a

    @functools.cached_property
    def _pooled(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Level, slope and curvature of the mean over all tasks."""
        parts = (self.levels, self.slopes, self.curvatures)
        level, slope, curvature = (x.mean(axis=0) for x in parts)
        return float(level), slope, curvature

    @functools.cached_property
    def _by_task(self) -> dict[str, np.ndarray]:
        """Sums over experts of slopes and curvatures, with and without the task's."""
        own = np.arange(self.size)
        square = np.diagonal(self.curvatures, axis1=1, axis2=2)
        cross = self.curvatures[own, own]
        return {
            "slope": self.slopes.sum(axis=1),
            "own_slope": self.slopes[own, own],
            "square": square.sum(axis=1),
            "own_square": square[own, own],
            "all": self.curvatures.sum(axis=(1, 2)),
            "own_cross": cross.sum(axis=1) - cross[own, own],
        }

    # --- the pooled loss: the mean over all tasks, in the merge or not ----------------

    def mean(self, k: int, scale: float = 1.0) -> float:
        """The mean over all k-subsets of the pooled loss."""
        level, slope, curvature = self._pooled
        one, two = (_inclusion(k, self.size, n) for n in (1, 2))
        squares = np.trace(curvature)
        each = scale / k
        first = each * one * slope.sum()
        second = each**2 / 2 * (one * squares + two * (curvature.sum() - squares))
        return float(level + first + second)

    def variance(self, k: int, scale: float = 1.0) -> float:
        """The variance over all k-subsets of the pooled loss (divisor: their number).

        A subset's loss is sum A_i + sum B_ij over its members; its second moment is a
        sum over how many of four indices coincide.
        """
        _, slope, curvature = self._pooled
        # Around the merge of all, so that nothing large cancels.
        centre = scale * np.full(self.size, 1 / self.size)
        slope = slope + curvature @ centre
        slope = slope - slope.mean()
        rows = curvature - curvature.mean(axis=0)
        curvature = rows - rows.mean(axis=1, keepdims=True)
        each = scale / k
        a = each * slope + each**2 / 2 * np.diagonal(curvature)
        b = each**2 / 2 * _off_diagonal(curvature)
        one, two, three, four = (_inclusion(k, self.size, n) for n in (1, 2, 3, 4))
        rows, total, squares = b.sum(axis=1), b.sum(), (b**2).sum()
        shared = (rows**2).sum() - squares
        mean = one * a.sum() + two * total
        second = (
            one * (a**2).sum()
            + two * (a.sum() ** 2 - (a**2).sum())
            + 4 * two * (a @ rows)
            + 2 * three * (a.sum() * total - 2 * a @ rows)
            + 2 * two * squares
            + 4 * three * shared
            + four * (total**2 - 2 * squares - 4 * shared)
        )
        return float(max(second - mean**2, 0.0))

    def tail(self, scale: float = 1.0) -> float:
        """A of mean(k) = mean(T) + A (1/k - 1/T), which holds exactly."""
        if self.size == 1:
            return 0.0
        return (self.mean(1, scale) - self.mean(self.size, scale)) / (1 - 1 / self.size)

    def best_scale(self, k: int) -> float:
        """The one scale that makes mean(k, scale) smallest."""
        level = self._pooled[0]
        up, down = (self.mean(k, sign) - level for sign in (1.0, -1.0))
        return float((down - up) / (2 * (up + down)))

    # --- each task -------------------------------------------------------------------

    def members_mean(self, k: int, scale: float = 1.0) -> np.ndarray:
        """The mean loss on each task over the k-subsets with its expert, `[task]`."""
        found, pool, each = self._by_task, self.size - 1, scale / k
        one, two = (_inclusion(k - 1, pool, n) for n in (1, 2))
        others = found["square"] - found["own_square"]
        pairs = found["all"] - found["square"] - 2 * found["own_cross"]
        first = found["own_slope"] + one * (found["slope"] - found["own_slope"])
        second = found["own_square"] + one * (others + 2 * found["own_cross"])
        return self.levels + each * first + each**2 / 2 * (second + two * pairs)

    def others_mean(self, k: int, scale: float = 1.0) -> np.ndarray:
        """The mean loss on each task over the k-subsets without its expert; k < T."""
        found, pool, each = self._by_task, self.size - 1, scale / k
        one, two = (_inclusion(k, pool, n) for n in (1, 2))
        others = found["square"] - found["own_square"]
        pairs = found["all"] - found["square"] - 2 * found["own_cross"]
        first = one * (found["slope"] - found["own_slope"])
        return self.levels + each * first + each**2 / 2 * (one * others + two * pairs)

    def retention(self, k: int, scale: float = 1.0) -> np.ndarray:
        """The share of each expert's gain over the base that merges with it keep.

        (l_t - members_mean_t) / (l_t - loss of expert t), `[task]`; 1 at k = 1.
        """
        gain = self.levels - self.members_mean(1)
        return (self.levels - self.members_mean(k, scale)) / gain

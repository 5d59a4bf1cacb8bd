"""ACE: experts weighted by input covariances that are read off their deltas."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jaxtyping import Array

from jaxmerge._arithmetic import accumulate, quotient
from jaxmerge._types import Coef, Leaf, coefficient, pytree, static
from jaxmerge.combine.decompositions import matmul, thin_svd, whole

# Of energies and traces, as in the authors' code: an expert without a delta is defined.
_GUARD = 1e-12
# The least ridge, in roundings of the summed covariance's trace. Gram matrices carry
# their rounding into directions that no delta has, and the inverse ridge enlarges it.
FLOOR = 16.0


def energy(matrix: Array) -> Array:
    """The squared Frobenius norm of each matrix."""
    return jnp.sum(matrix * matrix, axis=(-2, -1))


def without_mean_row(matrix: Array) -> Array:
    """The matrix with the mean of its rows taken from each."""
    return matrix - jnp.mean(matrix, axis=-2, keepdims=True)


def input_covariance(delta: Array, *, center: bool = True) -> Array:
    r"""ACE's estimate of a task's input covariance, up to a factor: a Gram matrix.

        Sigma = (D - 1 mu^T)^T (D - 1 mu^T),    mu the mean row of D

    Rows of the delta are taken as samples. To first order a gradient is an output error
    times an input, so that rows scatter as inputs do, where errors are noise; after
    training on few steps with a strong signal they scatter as the square of the
    covariance, and converged weights say nothing of it.

    Args:
      delta: `[..., out, in]`, expert - base.
      center: whether the mean row is taken off.

    Returns:
      `[..., in, in]`, positive semidefinite, not normalised.

    >>> input_covariance(jnp.array([[1.0, 0.0], [-1.0, 2.0]])).tolist()
    [[2.0, -2.0], [-2.0, 2.0]]

    References:
      Xu et al., ACE-Merging, 2026, theorem 1.
    """
    rows = without_mean_row(delta) if center else delta
    return matmul(jnp.swapaxes(rows, -1, -2), rows)


def divide_by_spd(numerator: Array, gram: Array) -> Array:
    """`numerator @ inv(gram)`, by Cholesky and one step of refinement.

    Args:
      numerator: `[rows, in]`.
      gram: `[in, in]`, symmetric and positive definite. It is scaled to mean
        eigenvalue 1 first, so that its units do not matter to float32.
    """
    unit = jnp.trace(gram) / gram.shape[-1]
    gram, numerator = gram / unit, numerator / unit
    factor = jnp.linalg.cholesky(gram)
    solve = lambda rows: cho_solve((factor, True), rows.T).T
    first = solve(numerator)
    return first + solve(numerator - matmul(first, gram))


def _pooled(a: Any, b: Any) -> Any:
    """Number, mean and sum of squares about the mean, of two samples together."""
    (num_a, mean_a, scatter_a), (num_b, mean_b, scatter_b) = a, b
    num, gap = num_a + num_b, mean_b - mean_a
    share = num_b / num
    return num, mean_a + gap * share, scatter_a + scatter_b + gap * gap * num_a * share


@pytree
class AdaptiveCovariance:
    r"""ACE-Merging: RegMean's closed form with covariances estimated from the deltas.

    Of each expert's delta `D_t` the Gram matrix `S_t = input_covariance(D_t)`. Whether
    experts are heterogeneous is told by their log energies `l_t = log |D_t|^2`:

        gamma = Var_t(l) / Mean_t(l)^2,         on = gamma > tau

    Where on, `S_t` and the ridge `eps` are both divided by `tr S_t`. Then

        pre = sum_t D_t (S_t + eps_t I)  inv(M + 1 m^T),    M = sum_t (S_t + eps_t I)

    with m the column means of `sum_t S_t`, the collective prior. Where on, it is
    refined with the leading k = floor(k_frac r) singular vectors of

        U diag(s) V^T = pre + sum_t D_t (S_t - mean S)
        delta = pre + mean(s_1..k) U_k V_k^T

    All sums are kept for either state of the gate, so that one pass over the experts is
    enough, and the state has the size of six matrices whatever T is. The prior has
    rank one: only the positive definite M is factored (Sherman and Morrison). The
    summed ridge is at least 16 roundings of `tr sum_t S_t`, which in float32 keeps
    deltas of low rank right to about 1e-2 and is reached where `tr S_t > 5e5 eps`.
    Leaves that are no matrices get the mean of the deltas.

    Attributes:
      eps: the ridge, above 0, in units of a delta's squared norm.
      tau: the gate's threshold, at least 0.
      k_frac: the share of singular directions that are raised, in [0, 1].
      variant: `"paper"`, or `"released"`: the variance of log energies is unbiased, the
        prior is divided by the mean energy where on, and the residual has the mean of
        `S_t + eps_t I`.
      center: where mean rows are taken off: in the `"gram"` matrices only, in `"both"`
        these and the `D_t` of the first sum, or in `"none"`.
      csp: whether there is a collective prior.
      spectral: whether there is a refinement.
      gate: `"paper"`, or `"scale_free"`: on where `Var_t(l) > tau`.
      restore_mean: whether the mean of the mean rows is added at the end.

    References:
      Xu et al., ACE-Merging: Data-Free Model Merging with Adaptive Covariance
      Estimation, CVPR 2026, arXiv 2603.02945.
    """

    eps: Coef = coefficient(default=1e-5)
    tau: Coef = coefficient(default=0.3)
    k_frac: float = static(default=0.3)
    variant: str = static(default="paper")
    center: str = static(default="gram")
    csp: bool = static(default=True)
    spectral: bool = static(default=True)
    gate: str = static(default="paper")
    restore_mean: bool = static(default=False)
    frame: str = static(default="delta")
    uses_shape = True

    def lift(self, delta: Array, weight: Array, leaf: Leaf) -> Any:
        del weight
        if leaf.matrix is None:
            return delta
        d = whole(delta)
        gram = input_covariance(d, center=self.center != "none")
        moved, total = matmul(d, gram), energy(d)
        inverse = 1 / (jnp.trace(gram, axis1=-2, axis2=-1) + _GUARD)
        ones, by = jnp.ones_like(inverse), inverse[..., None, None]
        plain = {"delta": d, "moved": moved, "gram": gram, "ridge": ones}
        scaled = {
            "delta": by * d,
            "moved": by * moved,
            "gram": by * gram,
            "ridge": inverse,
        }
        log = jnp.log(total + _GUARD)
        return (plain, scaled, total), (ones, log, jnp.zeros_like(log))

    def join(self, a: Any, b: Any) -> Any:
        if not isinstance(a, tuple):
            return accumulate(a, b)
        return accumulate(a[0], b[0]), _pooled(a[1], b[1])

    def finish(self, state: Any, leaf: Leaf) -> Array:
        if leaf.matrix is None:
            num = jnp.asarray(leaf.num_experts).astype(state.dtype)
            return quotient(state, num)
        return self._merged(state)

    def heterogeneity(self, logs: Any) -> Array:
        """gamma, or the variance alone, from the pooled log energies; 0 of one."""
        num, mean, scatter = logs
        if self.variant == "released":
            num = jnp.maximum(num - 1, jnp.ones_like(num))
        variance = scatter / num
        if self.gate == "scale_free":
            return variance
        return variance / (mean * mean + _GUARD)

    def selected(self, state: Any) -> tuple[dict[str, Array], Array]:
        """The sums that the gate asks for, and whether it is on."""
        (plain, scaled, total), logs = state
        on = self.heterogeneity(logs) > one_number("tau of ace", self.tau, total)
        return {k: jnp.where(on, scaled[k], plain[k]) for k in plain}, on

    def closed_form(self, state: Any) -> tuple[Array, Array]:
        """The merge before its refinement, and the regularised sum of covariances."""
        (_, _, total), (num, _, _) = state
        sums, on = self.selected(state)
        gram, size = sums["gram"], sums["gram"].shape[-1]
        least = FLOOR * jnp.finfo(gram.dtype).eps * jnp.trace(gram) / sums["ridge"]
        eps = jnp.maximum(one_number("eps of ace", self.eps, gram), least)
        regular = gram + (eps * sums["ridge"]) * jnp.eye(size, dtype=gram.dtype)
        numerator = sums["moved"] + eps * sums["delta"]
        prior = jnp.mean(gram, axis=-2, keepdims=True)
        if self.variant == "released":
            prior = jnp.where(on, prior / (total / num + _GUARD), prior)
        rows = divide_by_spd(jnp.concatenate([numerator, prior]), regular)
        pre, along = rows[:-1], rows[-1:]
        if self.csp:
            reduced = jnp.sum(pre, axis=-1, keepdims=True) / (1 + jnp.sum(along))
            pre = pre - reduced * along
        # Centring acts from the left and so commutes with every sum above.
        return without_mean_row(pre) if self.center == "both" else pre, regular

    def before_refinement(self, state: Any, pre: Array, regular: Array) -> Array:
        """The matrix whose leading directions are raised."""
        (plain, scaled, _), (num, _, _) = state
        about = regular if self.variant == "released" else scaled["gram"]
        return pre + scaled["moved"] - matmul(plain["delta"], about / num)

    def _merged(self, state: Any) -> Array:
        pre, regular = self.closed_form(state)
        _, on = self.selected(state)
        merged = pre
        if self.spectral:
            matrix = self.before_refinement(state, pre, regular)
            refined = lambda pre, matrix: pre + raised(matrix, self.k_frac)[0]
            merged = jax.lax.cond(on, refined, lambda pre, _: pre, pre, matrix)
        if self.restore_mean:
            (plain, _, _), (num, _, _) = state
            mean_row = jnp.mean(plain["delta"], axis=-2, keepdims=True)
            merged = merged + mean_row / num
        return merged


def raised(matrix: Array, k_frac: float) -> tuple[Array, Array, int]:
    """The leading singular directions at their mean singular value, that, and k."""
    u, s, v = thin_svd(matrix)
    k = int(k_frac * s.shape[-1])
    if k == 0:
        return jnp.zeros_like(matrix), jnp.zeros_like(s[..., 0]), 0
    level = jnp.mean(s[..., :k], axis=-1)
    directions = matmul(u[..., :k], jnp.swapaxes(v[..., :k], -1, -2))
    return level[..., None, None] * directions, level, k


def one_number(what: str, value: Any, like: Array) -> Array:
    """A coefficient that acts on the sum over experts, in the dtype of an array."""
    array = jnp.asarray(value)
    if array.ndim:
        raise ValueError(
            f"{what} has shape {array.shape}; expected one number for the leaf, "
            "as it acts on the sum over experts"
        )
    return array.astype(like.dtype)

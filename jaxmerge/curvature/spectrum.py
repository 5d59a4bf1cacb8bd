"""Stochastic Lanczos quadrature: the spectral density of an operator, from products.

For a random v with independent entries of mean 0 and variance 1,
`E vᵀ f(A) v = tr f(A)`. Lanczos from v turns the left side into a quadrature with a few
nodes, the same for every f: so one run answers every question about `tr f(A)`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxmerge._checks import check_key
from jaxmerge._types import PRNGKey, pytree, static
from jaxmerge.curvature import _vectors
from jaxmerge.curvature.lanczos import Tridiagonal, lanczos
from jaxmerge.curvature.operators import Operator
from jaxmerge.geometry.estimate import Estimate


@pytree
class Spectrum:
    """A spectral density as one quadrature for each probe.

    Attributes:
      nodes: `(probe, step)`, ascending; in the units of the operator.
      weights: `(probe, step)`, not negative; each probe's sum to 1.
      tridiagonal: what Lanczos returned, with a leading axis `probe` and no basis.
      dimension: d.
    """

    nodes: Any
    weights: Any
    tridiagonal: Tridiagonal
    dimension: int = static()

    def expectation(self, f: Callable[[Array], Array]) -> Estimate:
        """`(1/d) tr f(A)`: the mean of a function over the eigenvalues.

        Args:
          f: elementwise, on an array of eigenvalues `(probe, step)`. Defined between
            the extreme ones, for nodes may lie anywhere there.

        Returns:
          The mean over probes. Its standard error is that of the probes; that of the
          quadrature is not in it (see `shortened`).

        Raises:
          ValueError: if there is only one probe.

        Example:
          >>> from jaxmerge.curvature.operators import Matrix
          >>> matrix = Matrix(jnp.diag(jnp.array([1.0, 3.0])))
          >>> spectrum = spectral_density(matrix, jax.random.key(0), 2, 2)
          >>> f"{spectrum.expectation(jnp.square).mean:.3f}"
          '5.000'
        """
        values = f(self.nodes)
        if values.shape != self.nodes.shape:
            raise ValueError(
                f"f returned shape {values.shape} for nodes of shape "
                f"{self.nodes.shape}; expected an elementwise function"
            )
        # A node without weight may be where f has a pole.
        terms = jnp.where(self.weights > 0, self.weights * values, 0)
        samples = jnp.sum(terms, axis=-1)
        return Estimate.from_samples(samples, method="Lanczos quadrature")

    def trace(self, f: Callable[[Array], Array]) -> Estimate:
        """`tr f(A)`: d times the expectation.

        Example:
          >>> from jaxmerge.curvature.operators import Matrix
          >>> matrix = Matrix(jnp.diag(jnp.array([1.0, 3.0])))
          >>> spectrum = spectral_density(matrix, jax.random.key(0), 2, 2)
          >>> f"{spectrum.trace(jnp.square).mean:.3f}"
          '10.000'
        """
        return self.expectation(f) * float(self.dimension)

    def density(self, grid: Float[Array, " point"], width: Any) -> Estimate:
        """The density of eigenvalues smoothed by a normal curve, for a plot.

        Args:
          grid: `(point,)`, where; in the units of the eigenvalues.
          width: the curve's standard deviation, above 0. What is narrower is not seen.

        Returns:
          An estimate of shape `(point,)`; over all eigenvalues it integrates to 1.

        Example:
          >>> from jaxmerge.curvature.operators import Matrix
          >>> spectrum = spectral_density(Matrix(jnp.eye(2)), jax.random.key(0), 2, 2)
          >>> [f"{x:.3f}" for x in spectrum.density(jnp.array([1.0, 9.0]), 0.5).mean]
          ['0.798', '0.000']
        """
        away = (grid[:, None, None] - self.nodes) / width
        curves = jnp.exp(-(away**2) / 2) / (width * (2 * jnp.pi) ** 0.5)
        samples = jnp.sum(self.weights * curves, axis=-1).T
        return Estimate.from_samples(samples, method="Lanczos quadrature")

    def shortened(self, num_steps: int) -> "Spectrum":
        """The spectrum that the same probes would give with fewer steps.

        The difference of an expectation between the two tells how much the number of
        steps matters: the part of the error that the standard error leaves out.

        Args:
          num_steps: at least 1; no more than there are.

        Example:
          >>> from jaxmerge.curvature.operators import Matrix
          >>> matrix = Matrix(jnp.diag(jnp.arange(9.0)))
          >>> spectrum = spectral_density(matrix, jax.random.key(0), 2, 9)
          >>> spectrum.shortened(4).nodes.shape
          (2, 4)
        """
        have = self.nodes.shape[-1]
        if not 1 <= num_steps <= have:
            raise ValueError(f"num_steps is {num_steps}; expected 1 to {have}")
        whole = self.tridiagonal
        cut = Tridiagonal(
            whole.diagonal[..., :num_steps],
            whole.off_diagonal[..., : num_steps - 1],
            jnp.minimum(whole.size, num_steps),
        )
        return _spectrum(cut, self.dimension)

    def representative_eigenvalues(self, num: int) -> Float[Array, " num"]:
        """Eigenvalues that stand for equal shares of the spectrum, the largest first.

        The quantiles of the density at (i + ½) / num. With `num` the dimension they are
        a guess at all eigenvalues: what an ellipsoid's axes need.

        Args:
          num: how many, at least 1.

        Example:
          >>> from jaxmerge.curvature.operators import Matrix
          >>> matrix = Matrix(jnp.diag(jnp.array([1.0, 1.0, 1.0, 8.0])))
          >>> spectrum = spectral_density(matrix, jax.random.key(0), 2, 4)
          >>> [f"{x:.2f}" for x in spectrum.representative_eigenvalues(4)]
          ['8.00', '1.00', '1.00', '1.00']
        """
        if num < 1:
            raise ValueError(f"num is {num}; expected at least 1")
        nodes, weights = self.nodes.reshape(-1), self.weights.reshape(-1)
        order = jnp.argsort(-nodes)
        # Summed from the top: the few largest have the smallest weights.
        mass = jnp.cumsum(weights[order])
        shares = (jnp.arange(num, dtype=mass.dtype) + 0.5) / num
        place = jnp.searchsorted(mass / mass[-1], shares)
        return nodes[order][jnp.minimum(place, nodes.size - 1)]


def _spectrum(tridiagonal: Tridiagonal, dimension: int) -> Spectrum:
    nodes, weights = jax.vmap(Tridiagonal.quadrature)(tridiagonal)
    return Spectrum(nodes, weights, tridiagonal, dimension)


def spectral_density(
    operator: Operator,
    key: PRNGKey,
    num_probes: int,
    num_steps: int,
    *,
    probes: str = "rademacher",
    reorthogonalise: bool = True,
    parallel_probes: int = 1,
) -> Spectrum:
    """The spectrum of a symmetric operator by stochastic Lanczos quadrature.

    Costs `num_probes * num_steps` products with the operator, and holds
    `parallel_probes * num_steps` vectors (`parallel_probes * 3` without
    reorthogonalisation).

    Args:
      operator: with `matvec`, `params` and `dimension`.
      key: a typed key. Probe i does not depend on how many there are.
      num_probes: independent start vectors; at least two give standard errors. In d
        dimensions an expectation's error is about `sqrt(2 / (d * num_probes))` times
        the function's root mean square, so a large model needs few.
      num_steps: m; the quadrature is exact for polynomials of degree below 2m. More
        than the dimension are cut to it.
      probes: `"rademacher"` (signs, the smaller variance) or `"normal"`.
      reorthogonalise: see `lanczos`.
      parallel_probes: how many run at a time.

    Returns:
      One quadrature for each probe. Where the operator returns NaN, so does this.

    Raises:
      TypeError: if the key is no typed key.
      ValueError: if a number is below 1, or `probes` is unknown.

    Example:
      >>> from jaxmerge.curvature.operators import Matrix
      >>> matrix = Matrix(jnp.diag(jnp.array([1.0, 2.0, 4.0])))
      >>> spectrum = spectral_density(matrix, jax.random.key(0), 2, 3)
      >>> [f"{node:.3f}" for node in spectrum.nodes[0]]
      ['1.000', '2.000', '4.000']

    References:
      Ubaru, Chen, Saad, Fast estimation of tr(f(A)) via stochastic Lanczos quadrature,
      2017, Algorithm 1. Ghorbani, Krishnan, Xiao, An investigation into neural net
      optimization via Hessian eigenvalue density, 2019.
    """
    check_key(key)
    _vectors.check_probes(probes)
    for name, value in (
        ("num_probes", num_probes),
        ("parallel_probes", parallel_probes),
    ):
        if value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")

    def run(index: Array) -> Tridiagonal:
        probe_key = jax.random.fold_in(key, index)
        start = _vectors.random_vector(probe_key, operator.params, probes)
        result = lanczos(operator, start, num_steps, reorthogonalise=reorthogonalise)
        # Padded to the diagonal's length: a batched `lax.map` divides by zero where a
        # result is empty, as with one step. To be undone when jax no longer does.
        beside = jnp.append(result.off_diagonal, jnp.zeros((), result.diagonal.dtype))
        return Tridiagonal(result.diagonal, beside, result.size)

    padded = lax.map(run, jnp.arange(num_probes), batch_size=parallel_probes)
    beside = padded.off_diagonal[:, :-1]
    tridiagonal = Tridiagonal(padded.diagonal, beside, padded.size)
    return _spectrum(tridiagonal, operator.dimension)

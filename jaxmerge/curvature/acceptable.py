"""How large an expert's acceptable set looks from afar: its curvature as a cone.

Near an expert its loss is a quadratic well. Parameters with a loss within epsilon of
the expert's are an ellipsoid with half-axes `r_i = sqrt(2 epsilon / λ_i)`, λ_i the
eigenvalues of the Hessian. From a point at distance R it fills a cone of directions,
whose statistical dimension δ is what the kinematic formula asks of every expert.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxmerge._checks import check_values
from jaxmerge._types import pytree
from jaxmerge.curvature import _vectors
from jaxmerge.curvature.operators import Operator
from jaxmerge.curvature.spectrum import Spectrum
from jaxmerge.geometry.estimate import Estimate

_NEGATIVE = {
    "flat": lambda values: jnp.maximum(values, 0),
    "absolute": jnp.abs,
}


@pytree
class AcceptableDimension:
    """The statistical dimension δ of the cone of an acceptable set, and its doubts.

    Attributes:
      dimension: δ, from 0 to d.
      codimension: d - δ, summed itself: no cancellation where δ is nearly d.
      doubtful: the part of δ from directions with R/3 < r_i < 3R. There a term is off
        by more than about a tenth; as a rule too small.
      falling: how many eigenvalues are below `-2 epsilon / R²`: directions in which the
        quadratic falls by more than epsilon within R, so that the expert is at no
        minimum and the answer hangs on what was said of negative ones.
      quadrature_error: how much δ changes without half of the Lanczos steps: a hint at
        an error that the standard errors leave out, no bound. Take more steps until it
        is small. Those needed grow as `sqrt(λ_max R² / (2 epsilon))` without negative
        eigenvalues; with them (a kink at 0) many times faster.
      height: the quadratic's mean rise over all directions at distance R, in units of
        epsilon. At 1 or below a random point at that distance is acceptable already,
        and the exact cone is the whole space.
    """

    dimension: Estimate
    codimension: Estimate
    doubtful: Estimate
    falling: Estimate
    quadrature_error: Any
    height: Estimate


def _check_negative(negative: str) -> None:
    if negative not in _NEGATIVE:
        raise ValueError(
            f"negative is {negative!r}; say what negative eigenvalues count as: "
            "'flat' (as 0, unbounded directions) or 'absolute' (their size)"
        )


def acceptable_dimension_approx(
    spectrum: Spectrum, *, epsilon: Any, distance: Any, negative: str
) -> AcceptableDimension:
    """δ of an expert's acceptable set seen from a distance, by Larsen's approximation.

    `δ ≈ Σ r_i² / (R² + r_i²) = Σ 1 / (1 + λ_i R² / (2 epsilon))`, a trace function of
    the Hessian. A flat direction (λ = 0, r infinite) counts 1, a stiff one nearly 0.

    The approximation needs r_i much smaller than R, or much larger, and δ much above 1.
    Seen from R = 3, a unit ball in 200 dimensions has δ = 22.9, and 20.0 by this
    formula; from R = 1.5, where every r_i is near R, 89.0 and 61.5: it says too little,
    so the codimension too much. Look at `doubtful`. It also takes the direction of the
    point for random: from a point that lies along flat directions the set looks larger;
    `quadratic_rise` tells. An ellipsoidal cone is exact, given all axes; see `radii`.

    Args:
      spectrum: of the Hessian or Gauss-Newton matrix of the mean loss at the expert.
      epsilon: the rise of that loss which is acceptable, above 0, in its units.
      distance: R, from the expert to the point it is seen from, in the norm of the
        parameters, above 0. Both may be traced: sweep them by `vmap`.
      negative: what negative eigenvalues count as: `"flat"`, as 0, for noise around a
        minimum and for directions in which the loss does not rise; or `"absolute"`, as
        far from a minimum as their size says. A Gauss-Newton matrix has none.

    Returns:
      Estimates whose standard errors are the probes'. `doubtful` and `falling` count
      eigenvalues on one side of a limit; the quadrature blurs them.

    Raises:
      ValueError: if epsilon or distance is not positive, `negative` is unknown, or the
        spectrum has one probe.

    Example:
      >>> import jax
      >>> from jaxmerge.curvature.operators import Matrix
      >>> from jaxmerge.curvature.spectrum import spectral_density
      >>> matrix = Matrix(jnp.diag(jnp.array([0.0, 2.0, 6.0])))
      >>> spectrum = spectral_density(matrix, jax.random.key(0), 2, 3)
      >>> cone = acceptable_dimension_approx(
      ...     spectrum, epsilon=1.0, distance=1.0, negative="flat"
      ... )
      >>> f"{cone.dimension.mean:.3f}"  # 1 + 1/2 + 1/4
      '1.750'

    References:
      Larsen, Fort, Becker, Ganguli, How many degrees of freedom do we need to train
      deep networks, 2022, §3. Amelunxen, Lotz, McCoy, Tropp, Living on the edge, 2014.
    """
    _check_negative(negative)
    check_values("epsilon", epsilon, lambda x: x > 0, "a number above 0")
    check_values("distance", distance, lambda x: x > 0, "a number above 0")
    dtype = spectrum.nodes.dtype
    epsilon = jnp.asarray(epsilon).astype(dtype)
    distance = jnp.asarray(distance).astype(dtype)
    counted = _NEGATIVE[negative]
    rise = distance**2 / (2 * epsilon)  # of a unit eigenvalue, in epsilons: R² / r²

    def share(values: Array) -> Array:
        return 1 / (1 + rise * counted(values))

    def near(values: Array) -> Array:
        ratio = rise * counted(values)
        return jnp.where((ratio > 1 / 9) & (ratio < 9), share(values), 0)

    def stiff(values: Array) -> Array:
        ratio = rise * counted(values)
        return ratio / (1 + ratio)

    dimension = spectrum.trace(share)
    coarse = spectrum.shortened((spectrum.nodes.shape[-1] + 1) // 2).trace(share)
    return AcceptableDimension(
        dimension=dimension,
        codimension=spectrum.trace(stiff),
        doubtful=spectrum.trace(near),
        falling=spectrum.trace(lambda x: (rise * x < -1).astype(dtype)),
        quadrature_error=jnp.abs(dimension.mean - coarse.mean),
        height=spectrum.expectation(lambda x: rise * counted(x)),
    )


def radii(
    eigenvalues: Float[Array, " axis"], *, epsilon: Any, negative: str
) -> Float[Array, " axis"]:
    """Half-axes of the acceptable ellipsoid, `sqrt(2 epsilon / λ)`, infinite if flat.

    Args:
      eigenvalues: `(axis,)`, all of a small Hessian, or `representative_eigenvalues`.
      epsilon: the rise of the loss that is acceptable, above 0.
      negative: `"flat"` or `"absolute"`, as in `acceptable_dimension_approx`.

    Raises:
      ValueError: if epsilon is not positive, or `negative` is unknown.

    Example:
      >>> radii(jnp.array([2.0, 0.0, -2.0]), epsilon=1.0, negative="flat").tolist()
      [1.0, inf, inf]
    """
    _check_negative(negative)
    check_values("epsilon", epsilon, lambda x: x > 0, "a number above 0")
    values = _NEGATIVE[negative](eigenvalues)
    return jnp.sqrt(2 * jnp.asarray(epsilon).astype(values.dtype) / values)


def quadratic_rise(operator: Operator, displacement: PyTree) -> Float[Array, ""]:
    """How much the quadratic well rises along one displacement, `½ xᵀ A x`.

    Compare it with epsilon: at most that, and the point `expert + displacement` is in
    the acceptable ellipsoid. One product, for the true displacement and not a random
    one of its length.

    Args:
      operator: the Hessian at the expert.
      displacement: a tree like its params: the merged model minus the expert, say.

    Raises:
      ValueError: if the displacement is not like params.

    Example:
      >>> from jaxmerge.curvature.operators import Matrix
      >>> quadratic_rise(Matrix(jnp.diag(jnp.array([2.0, 4.0]))), jnp.ones(2))
      Array(3., dtype=float32)
    """
    _vectors.check_vector(displacement, operator.params)
    return _vectors.inner(displacement, operator.matvec(displacement)) / 2

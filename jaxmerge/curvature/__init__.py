"""Curvature at scale: what an expert's Hessian says, from products with vectors alone.

Operators on parameter trees, Lanczos, spectral densities, traces, extreme eigenpairs,
and the step from a spectrum to the cone that the kinematic threshold asks for.
"""

from jaxmerge.curvature.acceptable import (
    AcceptableDimension as AcceptableDimension,
    acceptable_dimension_approx as acceptable_dimension_approx,
    quadratic_rise as quadratic_rise,
    radii as radii,
)
from jaxmerge.curvature.eigenpairs import (
    Eigenpairs as Eigenpairs,
    top_eigenpairs as top_eigenpairs,
)
from jaxmerge.curvature.lanczos import Tridiagonal as Tridiagonal, lanczos as lanczos
from jaxmerge.curvature.operators import (
    GaussNewton as GaussNewton,
    Hessian as Hessian,
    Matrix as Matrix,
    Operator as Operator,
    gauss_newton_vector_product as gauss_newton_vector_product,
    hessian_vector_product as hessian_vector_product,
)
from jaxmerge.curvature.spectrum import (
    Spectrum as Spectrum,
    spectral_density as spectral_density,
)
from jaxmerge.curvature.traces import trace as trace

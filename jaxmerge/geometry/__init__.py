"""Convex sets and cones, and how large they are.

Sets are given by their support function, cones by their projection. Estimators return
an `Estimate`: a mean with its standard error.
"""

from jaxmerge.geometry.closed_forms import (
    chi_mean as chi_mean,
    ellipsoid_width as ellipsoid_width,
    exact_width as exact_width,
    max_of_magnitudes as max_of_magnitudes,
    max_of_normals as max_of_normals,
)
from jaxmerge.geometry.combinators import (
    ConvexUnion as ConvexUnion,
    Difference as Difference,
    LinearImage as LinearImage,
    MinkowskiSum as MinkowskiSum,
    Product as Product,
    Scale as Scale,
    Translate as Translate,
)
from jaxmerge.geometry.cone import (
    Cone as Cone,
    Polar as Polar,
    ProductCone as ProductCone,
)
from jaxmerge.geometry.cones import (
    CircularCone as CircularCone,
    LinearSubspace as LinearSubspace,
    Orthant as Orthant,
    SecondOrderCone as SecondOrderCone,
)
from jaxmerge.geometry.convex import ConvexSet as ConvexSet
from jaxmerge.geometry.coverage import (
    Comparison as Comparison,
    Coverage as Coverage,
    CoverageSums as CoverageSums,
    compare as compare,
    coverage as coverage,
    largest_product as largest_product,
)
from jaxmerge.geometry.curves import (
    greedy_order as greedy_order,
    marginal_gains as marginal_gains,
    order_width as order_width,
    subset_weights as subset_weights,
    subset_width as subset_width,
)
from jaxmerge.geometry.descent import (
    L1DescentCone as L1DescentCone,
    LInfDescentCone as LInfDescentCone,
    NuclearDescentCone as NuclearDescentCone,
)
from jaxmerge.geometry.dimension import (
    ProjectionMoments as ProjectionMoments,
    exact_dimension as exact_dimension,
    projection_moments as projection_moments,
    statistical_dimension as statistical_dimension,
)
from jaxmerge.geometry.dimension_formulas import (
    circular_dimension as circular_dimension,
    l1_descent_dimension as l1_descent_dimension,
)
from jaxmerge.geometry.ellipsoidal import (
    EllipsoidalCone as EllipsoidalCone,
    ellipsoid_cone as ellipsoid_cone,
)
from jaxmerge.geometry.estimate import Estimate as Estimate
from jaxmerge.geometry.gram import (
    EffectiveRanks as EffectiveRanks,
    GramSum as GramSum,
    cosines as cosines,
    effective_ranks as effective_ranks,
    gram as gram,
)
from jaxmerge.geometry.hill import HillPlot as HillPlot, hill as hill
from jaxmerge.geometry.matrices import (
    GroupL1Ball as GroupL1Ball,
    LowRankHessian as LowRankHessian,
    NuclearBall as NuclearBall,
    OperatorBall as OperatorBall,
    QuadraticSublevel as QuadraticSublevel,
    Spectraplex as Spectraplex,
)
from jaxmerge.geometry.monotone import MonotoneCone as MonotoneCone
from jaxmerge.geometry.polyhedral import (
    PolyhedralCone as PolyhedralCone,
    uncertified_fraction as uncertified_fraction,
)
from jaxmerge.geometry.semidefinite import PSDCone as PSDCone
from jaxmerge.geometry.sets import (
    Ball as Ball,
    Box as Box,
    Ellipsoid as Ellipsoid,
    LpBall as LpBall,
    Simplex as Simplex,
    SparseBall as SparseBall,
    Subspace as Subspace,
    WeightedL1Ball as WeightedL1Ball,
)
from jaxmerge.geometry.spans import (
    Hull as Hull,
    SpanBall as SpanBall,
    SymmetricHull as SymmetricHull,
    Zonotope as Zonotope,
    equicorrelated as equicorrelated,
    gram_factor as gram_factor,
)
from jaxmerge.geometry.tails import (
    TailSums as TailSums,
    kurtosis as kurtosis,
    participation_ratio as participation_ratio,
    sparsity_ratio as sparsity_ratio,
    tail_mass as tail_mass,
    tail_sums as tail_sums,
)
from jaxmerge.geometry.volumes import (
    circular_intrinsic_volumes as circular_intrinsic_volumes,
    intrinsic_volumes as intrinsic_volumes,
    product_intrinsic_volumes as product_intrinsic_volumes,
    rays_intrinsic_volumes as rays_intrinsic_volumes,
    volumes_half_tails as volumes_half_tails,
    volumes_mean as volumes_mean,
    volumes_tails as volumes_tails,
    volumes_variance as volumes_variance,
)
from jaxmerge.geometry.widths import (
    gaussian_width as gaussian_width,
    gram_samples as gram_samples,
    width_error_bound as width_error_bound,
    width_samples as width_samples,
)

"""How experts' deltas become one: associative states, one family a file."""

from jaxmerge.combine.ace import (
    AdaptiveCovariance as AdaptiveCovariance,
    input_covariance as input_covariance,
)
from jaxmerge.combine.ace_report import (
    AceLayer as AceLayer,
    ace_diagnostics as ace_diagnostics,
)
from jaxmerge.combine.active import (
    ActiveMean as ActiveMean,
    AmplifiedActiveMean as AmplifiedActiveMean,
)
from jaxmerge.combine.calibration import (
    Decomposed as Decomposed,
    SingularValueCalibration as SingularValueCalibration,
)
from jaxmerge.combine.competition import (
    ParameterCompetition as ParameterCompetition,
)
from jaxmerge.combine.conflicts import ConflictTrimmed as ConflictTrimmed
from jaxmerge.combine.consensus import (
    ConsensusMask as ConsensusMask,
    SignElectedMean as SignElectedMean,
    SignMasks as SignMasks,
    TallMasks as TallMasks,
    UnifiedTaskVector as UnifiedTaskVector,
)
from jaxmerge.combine.decompositions import polar as polar, thin_svd as thin_svd
from jaxmerge.combine.directional import DirectionalConsensus as DirectionalConsensus
from jaxmerge.combine.directions import (
    SphericalMean as SphericalMean,
    WeightedInterpolation as WeightedInterpolation,
)
from jaxmerge.combine.essential import EssentialSubspaces as EssentialSubspaces
from jaxmerge.combine.fisher import FisherMean as FisherMean
from jaxmerge.combine.fusion import (
    ImportantEntries as ImportantEntries,
    row_divergence as row_divergence,
)
from jaxmerge.combine.interference import (
    WudiDescent as WudiDescent,
    WudiFilter as WudiFilter,
)
from jaxmerge.combine.karcher import (
    KarcherMean as KarcherMean,
    karcher_coefficients as karcher_coefficients,
)
from jaxmerge.combine.largest import LargestMagnitude as LargestMagnitude
from jaxmerge.combine.leading import leading_svd as leading_svd
from jaxmerge.combine.near import ClippedDelta as ClippedDelta
from jaxmerge.combine.regression import GramMean as GramMean
from jaxmerge.combine.ridge import RidgeMean as RidgeMean
from jaxmerge.combine.shares import NormSharedSum as NormSharedSum
from jaxmerge.combine.singular_vectors import (
    TaskSingularVectors as TaskSingularVectors,
)
from jaxmerge.combine.spectral import (
    CommonSpace as CommonSpace,
    Isotropic as Isotropic,
    IsotropicSubspaces as IsotropicSubspaces,
)
from jaxmerge.combine.sphere import (
    ModelStock as ModelStock,
    SphericalInterpolation as SphericalInterpolation,
)
from jaxmerge.combine.subspaces import (
    Coordinates as Coordinates,
    CoreBasis as CoreBasis,
    InSubspace as InSubspace,
    SharedBasis as SharedBasis,
)
from jaxmerge.combine.sums import WeightedSum as WeightedSum
from jaxmerge.combine.variance import (
    EnergyWeightedElection as EnergyWeightedElection,
    VaryingEntries as VaryingEntries,
)

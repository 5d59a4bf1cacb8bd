"""How experts' deltas become one: associative states, one family a file."""

from jaxmerge.combine.consensus import (
    ConsensusMask as ConsensusMask,
    SignElectedMean as SignElectedMean,
    SignMasks as SignMasks,
    UnifiedTaskVector as UnifiedTaskVector,
)
from jaxmerge.combine.spectral import Isotropic as Isotropic, polar as polar
from jaxmerge.combine.sphere import (
    ModelStock as ModelStock,
    SphericalInterpolation as SphericalInterpolation,
)
from jaxmerge.combine.sums import WeightedSum as WeightedSum

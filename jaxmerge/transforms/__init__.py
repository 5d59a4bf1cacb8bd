"""Transforms of one expert's delta, which never look at another expert."""

from jaxmerge.transforms.by_rank import (
    DropByRank as DropByRank,
    check_window as check_window,
)
from jaxmerge.transforms.heavy_tail import (
    AlphaStableTail as AlphaStableTail,
    CoverageOptimal as CoverageOptimal,
    LaplaceTail as LaplaceTail,
    ParetoTail as ParetoTail,
    SignedPower as SignedPower,
    StudentTail as StudentTail,
    TrimRescale as TrimRescale,
    TukeyH as TukeyH,
    TukeyHInverse as TukeyHInverse,
)
from jaxmerge.transforms.noise import ReparameterizedNoise as ReparameterizedNoise
from jaxmerge.transforms.outliers import (
    DropExtreme as DropExtreme,
    breadcrumbs as breadcrumbs,
)
from jaxmerge.transforms.rescale import ScalarControl as ScalarControl, Scale as Scale
from jaxmerge.transforms.shares import (
    ScaleByNormShare as ScaleByNormShare,
    norm_shares as norm_shares,
    scaled_norm as scaled_norm,
)
from jaxmerge.transforms.sparsify import (
    DropRandom as DropRandom,
    KeepLargest as KeepLargest,
    check_density as check_density,
)
from jaxmerge.transforms.spectrum import (
    BoostSpectrum as BoostSpectrum,
    LeadingDirections as LeadingDirections,
)

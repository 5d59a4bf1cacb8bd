"""Methods by their published names: each returns a `Merger` with the paper's defaults.

Numbers are coefficients (a number, one per expert, or a tree prefix; see
`jaxmerge.by_layer` and `jaxmerge.by_pattern`) and may be traced. Choices are strings
and booleans. Where a paper and a popular code differ, `compat` says whose behaviour;
the default is the paper's.
"""

from jaxmerge.recipes.active import (
    arcee_fusion as arcee_fusion,
    ram as ram,
    sce as sce,
)
from jaxmerge.recipes.calibrated import (
    subspace_boosting as subspace_boosting,
    svc as svc,
)
from jaxmerge.recipes.competition import pcb as pcb
from jaxmerge.recipes.consensus import (
    consensus as consensus,
    emr as emr,
    magmax as magmax,
    tall_masks as tall_masks,
    ties as ties,
)
from jaxmerge.recipes.depth import lines as lines
from jaxmerge.recipes.essential import esm as esm
from jaxmerge.recipes.fisher import fisher as fisher
from jaxmerge.recipes.geometric import (
    karcher as karcher,
    model_stock as model_stock,
    multislerp as multislerp,
    nearswap as nearswap,
    nuslerp as nuslerp,
    slerp as slerp,
)
from jaxmerge.recipes.heavy_tailed import rht as rht
from jaxmerge.recipes.interference import swudi as swudi, wudi as wudi
from jaxmerge.recipes.norms import metagpt as metagpt
from jaxmerge.recipes.regression import (
    ace as ace,
    actmat as actmat,
    cat as cat,
    lot as lot,
    regmean as regmean,
)
from jaxmerge.recipes.ridge import default as default
from jaxmerge.recipes.sparsified import (
    breadcrumbs as breadcrumbs,
    della as della,
)
from jaxmerge.recipes.spectral import (
    iso_cts as iso_cts,
    isotropic as isotropic,
    tsv_c as tsv_c,
    tsv_m as tsv_m,
)
from jaxmerge.recipes.subspaces import (
    core_space as core_space,
    dc_merge as dc_merge,
    knots as knots,
)
from jaxmerge.recipes.sums import (
    average as average,
    dare as dare,
    magnitude_prune as magnitude_prune,
    task_arithmetic as task_arithmetic,
)

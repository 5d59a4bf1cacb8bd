"""Model merging in JAX: pure merge operators over parameter pytrees.

The names here are the public API and the only promise of stability.
`jaxmerge.checkpoint` works on files, `jaxmerge.ranks` selects by magnitude,
`jaxmerge.statistics` makes Gram matrices and Fishers of an expert and its examples;
`jaxmerge.transforms` and `jaxmerge.combine` are the parts that recipes are made of.

`jaxmerge.geometry`, `jaxmerge.kinematics`, `jaxmerge.curvature`, `jaxmerge.laws`,
`jaxmerge.stability` and `jaxmerge.diagnose` say why more experts fail, and are imported
when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxmerge import (
    checkpoint as checkpoint,
    combine as combine,
    ranks as ranks,
    statistics as statistics,
    transforms as transforms,
)
from jaxmerge._coefficients import by_layer as by_layer, by_pattern as by_pattern
from jaxmerge._matrices import Matrices as Matrices
from jaxmerge._trees import (
    LowRank as LowRank,
    Stacked as Stacked,
    TaskModels as TaskModels,
    name_hash as name_hash,
    named_leaves as named_leaves,
    stack as stack,
)
from jaxmerge._types import (
    Combine as Combine,
    Leaf as Leaf,
    MatrixSpec as MatrixSpec,
    Transform as Transform,
)
from jaxmerge.balance import balance_layers as balance_layers
from jaxmerge.composition import (
    Partition as Partition,
    chain as chain,
    partition as partition,
    then as then,
)
from jaxmerge.merger import (
    Merger as Merger,
    merge_leaves as merge_leaves,
    scalar_control as scalar_control,
)
from jaxmerge.recipes import (
    ace as ace,
    actmat as actmat,
    arcee_fusion as arcee_fusion,
    average as average,
    breadcrumbs as breadcrumbs,
    cat as cat,
    consensus as consensus,
    core_space as core_space,
    dare as dare,
    dc_merge as dc_merge,
    default as default,
    della as della,
    emr as emr,
    esm as esm,
    fisher as fisher,
    iso_cts as iso_cts,
    isotropic as isotropic,
    karcher as karcher,
    knots as knots,
    lines as lines,
    lot as lot,
    magmax as magmax,
    magnitude_prune as magnitude_prune,
    metagpt as metagpt,
    model_stock as model_stock,
    multislerp as multislerp,
    nearswap as nearswap,
    nuslerp as nuslerp,
    pcb as pcb,
    ram as ram,
    regmean as regmean,
    rht as rht,
    sce as sce,
    slerp as slerp,
    subspace_boosting as subspace_boosting,
    svc as svc,
    swudi as swudi,
    tall_masks as tall_masks,
    task_arithmetic as task_arithmetic,
    ties as ties,
    tsv_c as tsv_c,
    tsv_m as tsv_m,
    wudi as wudi,
)

if TYPE_CHECKING:
    from jaxmerge import (
        curvature as curvature,
        diagnose as diagnose,
        geometry as geometry,
        kinematics as kinematics,
        laws as laws,
        stability as stability,
    )

__version__ = "0.1.0"

_THEORY = ("curvature", "diagnose", "geometry", "kinematics", "laws", "stability")


def __getattr__(name: str) -> Any:
    if name in _THEORY:
        return importlib.import_module(f"jaxmerge.{name}")
    raise AttributeError(f"module 'jaxmerge' has no attribute {name!r}")

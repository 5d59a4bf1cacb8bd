"""The scaling law of merging: how loss falls with experts and size, and what to plan.

`curves` are the laws, `fit` fits them to tables of losses, `planner` and `returns` say
how many experts are worth it, and `guards` what not to take at its word. `designs`
choose subsets, `measure` merges and evaluates them, `theory` says before any merge what
the curve will be.
"""

from jaxmerge.laws.bootstrap import bootstrap as bootstrap
from jaxmerge.laws.curves import (
    FORMS as FORMS,
    Curve as Curve,
    FinitePool as FinitePool,
    Form as Form,
    JointLaw as JointLaw,
)
from jaxmerge.laws.designs import (
    Design as Design,
    all_subsets as all_subsets,
    iterate_subsets as iterate_subsets,
    num_subsets as num_subsets,
    permutations as permutations,
    prefixes as prefixes,
    uniform_subsets as uniform_subsets,
)
from jaxmerge.laws.expansion import Expansion as Expansion, expand as expand
from jaxmerge.laws.fit import (
    Fit as Fit,
    fit_curve as fit_curve,
    fit_joint as fit_joint,
    with_cautions as with_cautions,
)
from jaxmerge.laws.forecast import Forecast as Forecast, three_point as three_point
from jaxmerge.laws.foresight import (
    CurveForecast as CurveForecast,
    forecast_curve as forecast_curve,
)
from jaxmerge.laws.guards import (
    Caution as Caution,
    query_cautions as query_cautions,
    table_cautions as table_cautions,
)
from jaxmerge.laws.linear import (
    LinearMerge as LinearMerge,
    linear_merge as linear_merge,
)
from jaxmerge.laws.measure import (
    Incremental as Incremental,
    measure as measure,
    measure_prefixes as measure_prefixes,
)
from jaxmerge.laws.orders import (
    OrderSpread as OrderSpread,
    Synergy as Synergy,
    order_sensitivity as order_sensitivity,
    synergy as synergy,
    trajectories as trajectories,
)
from jaxmerge.laws.planner import (
    Choice as Choice,
    balanced_experts as balanced_experts,
    best_choice as best_choice,
    experts_for_loss as experts_for_loss,
    experts_within as experts_within,
    smallest_size as smallest_size,
    stop_after as stop_after,
)
from jaxmerge.laws.plans import Answer as Answer, Plan as Plan, make_plan as make_plan
from jaxmerge.laws.returns import (
    ReturnSummary as ReturnSummary,
    envelope as envelope,
    experts_for_return as experts_for_return,
    first_reaching as first_reaching,
    fractional_return as fractional_return,
    law_return as law_return,
    summarise_returns as summarise_returns,
)
from jaxmerge.laws.rivals import compare as compare
from jaxmerge.laws.stages import TwoStage as TwoStage, fit_two_stage as fit_two_stage
from jaxmerge.laws.tables import (
    LossTable as LossTable,
    Points as Points,
    curve_points as curve_points,
    read_table as read_table,
    subset_name as subset_name,
    write_table as write_table,
)
from jaxmerge.laws.theory import Tail as Tail, predict_tail as predict_tail
from jaxmerge.laws.variance import (
    VarianceFit as VarianceFit,
    fit_variance as fit_variance,
)

"""When more experts fail: kinematic probabilities, their bounds, and thresholds T*.

Cones that are turned at random share a direction as long as their codimensions fit into
the space, and hardly ever once they do not. `probability` has the exact chances,
`approximate` bounds that need only statistical dimensions, `windows` how wide the
transition is, `escape` the opposite question; `thresholds`, `gains`, `gram_capacity`
and the reconstructions say after how many experts merging stops paying.
"""

from jaxmerge.kinematics.approximate import (
    ProbabilityBounds as ProbabilityBounds,
    bennett_bounds as bennett_bounds,
    central_limit_probability as central_limit_probability,
    mccoy_tropp_bounds as mccoy_tropp_bounds,
    preprint_bounds as preprint_bounds,
    published_bounds as published_bounds,
    subspace_bounds as subspace_bounds,
)
from jaxmerge.kinematics.escape import (
    angular_width_bounds as angular_width_bounds,
    escape_probability as escape_probability,
    gordon_escape_probability as gordon_escape_probability,
    local_angular_dimension_approx as local_angular_dimension_approx,
    threshold_training_dimension as threshold_training_dimension,
)
from jaxmerge.kinematics.gains import marginal_gain as marginal_gain
from jaxmerge.kinematics.gram_capacity import gram_capacity as gram_capacity
from jaxmerge.kinematics.probability import (
    cover_capacity as cover_capacity,
    crofton_probability as crofton_probability,
    expected_intersection_dimensions as expected_intersection_dimensions,
    expected_sum_dimensions as expected_sum_dimensions,
    intersection_probabilities as intersection_probabilities,
    subspace_intersection as subspace_intersection,
    wendel_probability as wendel_probability,
)
from jaxmerge.kinematics.reconstructions import (
    common_direction_capacity as common_direction_capacity,
    conflict_capacity as conflict_capacity,
    conflict_floor as conflict_floor,
    joint_well_dimension as joint_well_dimension,
    quadratic_wells_capacity as quadratic_wells_capacity,
)
from jaxmerge.kinematics.saturation import (
    adapter_saturation as adapter_saturation,
    rescaled_gain_threshold as rescaled_gain_threshold,
    scaling_law_threshold as scaling_law_threshold,
    width_ceiling as width_ceiling,
)
from jaxmerge.kinematics.solver import (
    Root as Root,
    Threshold as Threshold,
    monotone_root as monotone_root,
)
from jaxmerge.kinematics.thresholds import (
    intersection_capacity as intersection_capacity,
    random_direction as random_direction,
    span_saturation as span_saturation,
    transition as transition,
)
from jaxmerge.kinematics.windows import (
    bennett_window as bennett_window,
    bernstein_window as bernstein_window,
    capacity_window as capacity_window,
    central_limit_window as central_limit_window,
    mccoy_tropp_window as mccoy_tropp_window,
    preprint_constant as preprint_constant,
    published_constant as published_constant,
    sharper_constant as sharper_constant,
)

"""Why over-trained experts merge badly: a generalisation bound, term by term.

`excess_risk_bound` says what each setting of fine-tuning costs the merge, `recommend`
and `merge_friendliness` what follows from it; `post_hoc_bound` needs no settings, and
the estimators measure what the bound is told. The theorems are reconstructions: see
docs/stability.md.
"""

from jaxmerge.stability.bound import (
    BoundTerms as BoundTerms,
    Measured as Measured,
    excess_risk_bound as excess_risk_bound,
    generalisation_bound as generalisation_bound,
)
from jaxmerge.stability.coefficients import (
    normalised_coefficients as normalised_coefficients,
)
from jaxmerge.stability.gradients import (
    GradientStats as GradientStats,
    debiased_heterogeneity as debiased_heterogeneity,
    gradient_statistics as gradient_statistics,
    gram_statistics as gram_statistics,
    pseudo_gradient_statistics as pseudo_gradient_statistics,
    training_lengths as training_lengths,
)
from jaxmerge.stability.noise import (
    per_sample_noise as per_sample_noise,
    two_batch_noise as two_batch_noise,
)
from jaxmerge.stability.post_hoc import (
    PostHoc as PostHoc,
    dispersion as dispersion,
    gram_dispersion as gram_dispersion,
    post_hoc_bound as post_hoc_bound,
)
from jaxmerge.stability.recommend import (
    Advice as Advice,
    Recommendations as Recommendations,
    recommend as recommend,
)
from jaxmerge.stability.recursions import (
    drift as drift,
    expert_l2_stability as expert_l2_stability,
    small_step_drift as small_step_drift,
    small_step_stability as small_step_stability,
)
from jaxmerge.stability.report import (
    MergeFriendliness as MergeFriendliness,
    merge_friendliness as merge_friendliness,
)
from jaxmerge.stability.retraining import measure_stability as measure_stability
from jaxmerge.stability.scaling import (
    ScalingLaw as ScalingLaw,
    best_length as best_length,
    best_steps as best_steps,
    fit_scaling_law as fit_scaling_law,
    stability_exponents as stability_exponents,
)
from jaxmerge.stability.smoothness import (
    Smoothness as Smoothness,
    between as between,
    measure_sample_smoothness as measure_sample_smoothness,
    measure_smoothness as measure_smoothness,
    secant_smoothness as secant_smoothness,
)
from jaxmerge.stability.sparsifiers import (
    SparsifierEffect as SparsifierEffect,
    dropout_variance_loss as dropout_variance_loss,
    random_mask_effect as random_mask_effect,
)
from jaxmerge.stability.spec import (
    ExpertSpec as ExpertSpec,
    ProblemStats as ProblemStats,
)

"""Whether the data prefer the law: its rivals, fitted alike and ranked by AICc."""

from collections.abc import Sequence

import numpy as np

from jaxmerge.laws import guards
from jaxmerge.laws._numbers import Reals
from jaxmerge.laws.curves import FORMS
from jaxmerge.laws.fit import Fit, fit_curve, fit_joint, with_cautions
from jaxmerge.laws.tables import Points


def compare(
    points: Points,
    *,
    forms: Sequence[str] = tuple(FORMS),
    weights: str | Reals = "k",
) -> tuple[Fit, ...]:
    """Fits each form, of one size or jointly over sizes, best AICc first.

    Forms whose AICc differ by less than 2 are not told apart. Where a form without a
    floor is among the best, the floor of the law is an assumption; the fit of the law
    then carries a caution.

    Args:
      points: of one size, or of three or more.
      forms: which; all by default.
      weights: of the squared residuals.

    Returns:
      The fits that the number of points admits.

    Example:
      >>> from jaxmerge.laws import Curve, curve_points
      >>> k = np.arange(1, 10)
      >>> best, *_ = compare(curve_points(k, Curve(0.5, 0.2, 1.0)(k)))
      >>> best.law.form
      'offset'

    References:
      Burnham, Anderson, Model Selection and Multimodel Inference, 2002, section 2.4.
    """
    fit = fit_joint if len(points.sizes) > 1 else fit_curve
    fits = []
    for form in forms:
        # A curve through as many points as parameters says nothing.
        parameters = 2 + (FORMS[form].bounds is not None)
        if len(np.unique(points.k)) > parameters or form == "offset":
            fits.append(fit(points, form=form, weights=weights))
    aicc = {found.law.form: found.aicc for found in fits}
    fits = [_with_rivals(found, aicc) for found in fits]
    return tuple(sorted(fits, key=lambda found: found.aicc))


def _with_rivals(fit: Fit, aicc: dict[str, float]) -> Fit:
    if fit.law.form != "offset":
        return fit
    curve = fit.law
    i = fit.names.index("floor")
    # Of several sizes, the smallest model's data lie far above L* for another reason.
    points, floor = fit.points, curve.floor
    if len(points.sizes) > 1:
        points = points.at_size(points.sizes[-1])
        floor = float(curve.at(points.size[0]).floor)
    found = guards.rival_cautions(points, aicc, floor, float(fit.stderr[i]))
    return with_cautions(fit, tuple(found))

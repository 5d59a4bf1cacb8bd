"""Families of laws as separable least squares: their parameters and columns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxmerge.laws._numbers import Real
from jaxmerge.laws._separable import Problem
from jaxmerge.laws.curves import FORMS, Curve, JointLaw
from jaxmerge.laws.tables import Points

EXPONENT_BOUNDS = (0.0, 3.0)
_HALF_BOUNDS = (1e-2, 100.0)


class Model(NamedTuple):
    """A family of laws for given points: parameters, columns, and the law they make.

    Attributes:
      make: the class of the law.
      form: of its tail.
      theta: names of the nonlinear parameters.
      linear: names of the linear ones, in the order of the columns.
      lower: bounds of theta.
      upper: bounds of theta.
      columns: from theta to `(point, linear)`; of complex theta too.
    """

    make: Callable[..., Any]
    form: str
    theta: tuple[str, ...]
    linear: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    columns: Callable[[np.ndarray], np.ndarray]

    @property
    def names(self) -> tuple[str, ...]:
        """All parameters, theta first."""
        return (*self.theta, *self.linear)

    def law(self, values: np.ndarray) -> Any:
        """The law with these values, in the order of `names`."""
        fields = dict(zip(self.names, map(float, values), strict=True))
        return self.make(**fields, form=self.form)

    def problem(self, y: np.ndarray, weights: np.ndarray) -> Problem:
        """Fitting it to data."""
        nonnegative = np.array([name != "floor" for name in self.linear])
        return Problem(self.columns, y, weights, self.lower, self.upper, nonnegative)

    def jacobian(self, values: np.ndarray) -> np.ndarray:
        """Derivatives of the prediction, `(point, parameter)`, by complex steps."""
        count, step = len(self.theta), 1e-30
        rows = []
        for i in range(len(values)):
            moved = values.astype(complex)
            moved[i] += 1j * step
            rows.append(np.imag(self.columns(moved[:count]) @ moved[count:]) / step)
        return np.stack(rows, axis=1)


def curve_model(
    points: Points, form: str, offset_bounds: tuple[Real, Real], bounded: bool
) -> Model:
    """The curve in k, for the points of one size."""
    k, tail = points.k, FORMS[form].tail
    theta, lower, upper = _shape(form, offset_bounds)
    linear: tuple[str, ...] = ("floor", "amplitude")
    if bounded:
        theta, linear = (*theta, "half"), (*linear, "rise")
        lower, upper = (*lower, _HALF_BOUNDS[0]), (*upper, _HALF_BOUNDS[1])

    def columns(values: np.ndarray) -> np.ndarray:
        shape = values[0] if "offset" in theta else 0.0
        made = [np.ones_like(k), tail(k, shape)]
        if bounded:
            made.append(k / (k + values[-1]))
        return np.stack(made, axis=1)

    return Model(Curve, form, theta, linear, np.array(lower), np.array(upper), columns)


def joint_model(
    points: Points,
    form: str,
    offset_bounds: tuple[Real, Real],
    exponent_bounds: tuple[Real, Real],
) -> Model:
    """The law in size and k."""
    k, size, tail = points.k, points.size, FORMS[form].tail
    shape, lower, upper = _shape(form, offset_bounds)

    def columns(values: np.ndarray) -> np.ndarray:
        beta, gamma = values[:2]
        parameter = values[2] if shape else 0.0
        return np.stack(
            [
                np.ones_like(size),
                size ** (-beta),
                size ** (-gamma) * tail(k, parameter),
            ],
            axis=1,
        )

    low, high = exponent_bounds
    return Model(
        JointLaw,
        form,
        ("size_exponent", "amplitude_exponent", *shape),
        ("floor", "size_amplitude", "amplitude"),
        np.array((low, low, *lower)),
        np.array((high, high, *upper)),
        columns,
    )


def _shape(form: str, offset_bounds: tuple[Real, Real]) -> tuple[Any, Any, Any]:
    bounds = offset_bounds if form == "offset" else FORMS[form].bounds
    return (("offset",), (bounds[0],), (bounds[1],)) if bounds else ((), (), ())


def power_model(sizes: np.ndarray) -> Model:
    """`floor + B N^-beta`."""
    low, high = EXPONENT_BOUNDS
    return Model(
        JointLaw,
        "inverse",
        ("size_exponent",),
        ("floor", "size_amplitude"),
        np.array([low]),
        np.array([high]),
        lambda theta: np.stack([np.ones_like(sizes), sizes ** (-theta[0])], axis=1),
    )

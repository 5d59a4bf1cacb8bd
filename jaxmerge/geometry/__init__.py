"""Convex sets and cones, and how large they are.

Sets are given by their support function, cones by their projection. Estimators return
an `Estimate`: a mean with its standard error.
"""

from jaxmerge.geometry.estimate import Estimate as Estimate

"""Is our default a good one? On families that its design has not seen."""

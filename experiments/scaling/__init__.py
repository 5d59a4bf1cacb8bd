"""Whether the merging scaling law holds here, and whether it forecasts."""

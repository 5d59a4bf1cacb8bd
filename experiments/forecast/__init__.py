"""Whether the curve in k can be told before any merge, from the experts alone."""

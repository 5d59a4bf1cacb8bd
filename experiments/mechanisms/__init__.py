"""Which mechanism dominates as experts are added, and which method removes it."""

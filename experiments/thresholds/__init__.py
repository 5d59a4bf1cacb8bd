"""Whether any T* says how many experts are worth merging better than trivial rules."""

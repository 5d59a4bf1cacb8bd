"""Model merging in JAX."""

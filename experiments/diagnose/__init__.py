"""Is the advice of `jaxmerge diagnose` any good?"""

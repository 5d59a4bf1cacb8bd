"""Families of experts that train here: exact worlds, classifiers, digit networks."""

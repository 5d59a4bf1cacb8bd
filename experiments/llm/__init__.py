"""Language models that train on two cores, and real ones: how do their merges fare?"""

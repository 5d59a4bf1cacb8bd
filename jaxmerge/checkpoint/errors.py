"""The exceptions of the file side of the library; their messages are sentences."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read, written or understood."""


class RecipeError(ValueError):
    """A recipe cannot be followed as it is written."""

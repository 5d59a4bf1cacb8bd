"""The one exception of the file side of the library."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read, written or understood; its message is a sentence."""

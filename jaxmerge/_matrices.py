"""Which leaves are matrices: the rule that spectral methods go by."""

import re

from jaxmerge._types import MatrixSpec, pytree, static


@pytree
class Matrices:
    """The leaves that a spectral method treats as matrices.

    A leaf with two axes is one, `[out, in]` as in Hugging Face checkpoints (the polar
    factor and the singular values are the same for `[in, out]`), unless its name says
    that it is an embedding: rows of an embedding are looked up, not multiplied.

    Attributes:
      exclude: a regular expression; leaves in whose name it is found are no matrices.
    """

    exclude: str = static(
        default=r"(?:^|[._])(?:embed\w*|wte|wpe|tok_embeddings|\w*embeddings?|"
        r"position_ids)(?:[._]|$)"
    )

    def spec(self, name: str, shape: tuple[int, ...]) -> MatrixSpec | None:
        """How the leaf is a matrix, or None.

        >>> Matrices().spec("layers.0.mlp.weight", (4, 3))
        MatrixSpec(out=-2, in_=-1, batch=0)
        >>> Matrices().spec("model.embed_tokens.weight", (4, 3)) is None
        True
        """
        if len(shape) != 2 or re.search(self.exclude, name):
            return None
        return MatrixSpec()

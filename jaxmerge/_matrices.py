"""Which leaves are matrices: the rule that spectral and regression methods go by."""

import re
from collections.abc import Mapping

from jaxmerge._types import MatrixSpec, pytree, static

_IN_OUT = MatrixSpec(out=-1, in_=-2)

# GPT-2 and its relatives keep most weights as [in, out].
CONV1D = ((r"(?:^|\.)(?:c_attn|q_attn|c_proj|c_fc)\.weight$", _IN_OUT),)
CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")


@pytree
class Matrices:
    """The leaves that a spectral or regression method treats as matrices.

    The first of the rules whose pattern is found in a leaf's name decides. Without one,
    a leaf with two axes is a matrix, unless its name says that it is an embedding: rows
    of an embedding are looked up, not multiplied. Leaves that are no matrices get what
    the method says, the mean in most.

    Attributes:
      exclude: a regular expression; leaves in whose name it is found are no matrices,
        unless a rule says so.
      rules: pairs of a regular expression and a `MatrixSpec`, or None for no matrix.
      layout: of leaves with two axes that no rule names: `"named"`, which is `[in,
        out]` for those called `kernel`, as Flax calls them, and `[out, in]` for others,
        as Hugging Face checkpoints have it; or `"out_in"` or `"in_out"` for all.
    """

    exclude: str = static(
        default=r"(?:^|[._])(?:embed\w*|wte|wpe|tok_embeddings|\w*embeddings?|"
        r"position_ids)(?:[._]|$)"
    )
    rules: tuple[tuple[str, MatrixSpec | None], ...] = static(default=())
    layout: str = static(default="named")

    @staticmethod
    def by_pattern(rules: Mapping[str, MatrixSpec | None]) -> "Matrices":
        r"""The default rule, and others before it.

        Args:
          rules: regular expression to how a leaf whose name has it is a matrix.

        A query, key and value that are fused, and a scanned stack of Flax kernels:

        >>> rule = Matrices.by_pattern({
        ...     "qkv_proj": MatrixSpec(split=3),
        ...     r"layers\..*kernel": MatrixSpec(out=-1, in_=-2),
        ... })
        >>> rule.spec("layers.mlp.kernel", (12, 64, 256))
        MatrixSpec(out=-1, in_=-2, split=None)
        """
        return Matrices(rules=tuple(rules.items()))

    def spec(self, name: str, shape: tuple[int, ...]) -> MatrixSpec | None:
        """How the leaf is a matrix, or None.

        >>> Matrices().spec("layers.0.mlp.weight", (4, 3))
        MatrixSpec(out=-2, in_=-1, split=None)
        >>> Matrices().spec("model.embed_tokens.weight", (4, 3)) is None
        True
        """
        for pattern, spec in self.rules:
            if re.search(pattern, name):
                return spec
        if len(shape) != 2 or re.search(self.exclude, name):
            return None
        if self.layout == "named":
            return _IN_OUT if name.split(".")[-1] == "kernel" else MatrixSpec()
        return _IN_OUT if self.layout == "in_out" else MatrixSpec()

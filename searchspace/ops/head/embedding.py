"""Embedding: one vector for each sequence, or the hidden states as they are.

    pooling     mean over the valid tokens, the first token, or none: hidden states [B, T, D]
    normalize   divided by its length, so that a product of two is their cosine

Reimers and Gurevych, "Sentence-BERT", arXiv:1908.10084. No parameters. Shapes: x [B, T, D] -> [B, D].
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import AxisModule
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.primitives.packing import unpack
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class Embedding(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.pooling, self.normalize = spec["pooling"], spec["normalize"]

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        if self.pooling != "none":
            x, tokens = (x, tokens) if tokens.offsets is None else unpack(x, tokens)
            x = tokens.mean(x) if self.pooling == "mean" else tokens.without_padding(x)[:, 0]
        return F.normalize(x, dim=-1) if self.normalize else x


OPERATOR = Operator(
    name="embedding",
    slot="head",
    paper="Sentence-BERT, Reimers and Gurevych 2019, arXiv:1908.10084",
    build=Embedding,
    choices={"pooling": ("mean", "first", "none"), "normalize": (True, False)},
    packed=True,
    causal=False,
    complexity="T D",
)

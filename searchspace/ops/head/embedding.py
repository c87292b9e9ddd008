"""Embedding: one vector for each sequence, or the hidden states.

    pooling     mean over the valid tokens, the first token, or none: hidden states [B, T, D]
    normalize   divided by its length, so that a product of two vectors is their cosine
    width       W > 0: the vectors are first mapped to that width, so that networks of all widths give vectors of equal
                size; 0: they have the width of the network

Reimers and Gurevych, "Sentence-BERT", arXiv:1908.10084. Shapes: x [B, T, D] -> [B, D], or [B, W].
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.primitives.packing import unpack
from searchspace.registry import COUNT, Operator
from searchspace.spec.arch import OpSpec


class Embedding(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.pooling, self.normalize = spec["pooling"], spec["normalize"]
        self.proj, width = None, spec.get("width", 0)
        if width:
            context = replace(context, projection=OpSpec.of("dense", bias=False))
            self.proj = context.linear("head", Axis.of(W=width), Axis.of(D=context.d_model))

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        """x [B, T, D] -> [B, D], [B, W] with a width, or [B, T, .] without pooling."""
        if self.pooling != "none":
            x, tokens = (x, tokens) if tokens.offsets is None else unpack(x, tokens)
            x = tokens.mean(x) if self.pooling == "mean" else tokens.without_padding(x)[:, 0]
        x = x if self.proj is None else self.proj(x)
        return F.normalize(x, dim=-1) if self.normalize else x


def flops(module: Embedding, T: int, S: int) -> int:
    vectors = T if module.pooling == "none" else 1
    return 0 if module.proj is None else 2 * vectors * module.proj.weight.numel()


OPERATOR = Operator(
    name="embedding",
    slot="head",
    paper="Sentence-BERT, Reimers and Gurevych 2019, arXiv:1908.10084",
    build=Embedding,
    choices={"pooling": ("mean", "first", "none"), "normalize": (True, False)},
    ranges={"width": COUNT},
    fixed={"width": 0},
    flops=flops,
    counts_projections=True,
    packed=True,
    causal=False,
    quantizable=("head",),
    complexity="T D",
)

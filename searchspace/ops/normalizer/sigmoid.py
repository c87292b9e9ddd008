"""Sigmoid attention: A_ij = sigmoid(s_ij - log n_i), n_i the number of keys that query i sees.

Rows need not sum to 1, so no key has to absorb unused weight; the bias keeps a row's sum near that of softmax at every
length. Gu et al., "When Attention Sink Emerges in Language Models", arXiv:2410.10781; Ramapuram et al., "Theory,
Analysis, and Best Practices for Sigmoid Self-Attention", arXiv:2409.04431 (who use the whole length for n_i).
Shapes: scores [B, H, T, S], visible broadcastable to them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import AxisModule
from searchspace.primitives.context import BuildContext
from searchspace.primitives.scores import ONE_HEAD, HeadSizes
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class Sigmoid(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, heads: HeadSizes = ONE_HEAD) -> None:
        super().__init__()

    def forward(self, scores: Tensor, visible: Tensor) -> Tensor:
        """scores [B, H, T, S] -> weights [B, H, T, S]."""
        count = visible.sum(-1, keepdim=True).clamp_min(1).to(scores.dtype)
        return torch.sigmoid(scores - count.log()) * visible


def reference(module: Sigmoid, scores: Tensor, visible: Tensor) -> Tensor:
    """scores [B, H, T, S] -> weights [B, H, T, S]."""
    count = visible.expand_as(scores).sum(-1, keepdim=True).clamp_min(1)
    odds = torch.exp(scores)
    return visible * odds / (odds + count)


OPERATOR = Operator(
    name="sigmoid",
    slot="normalizer",
    paper="Gu et al. 2024, arXiv:2410.10781",
    build=Sigmoid,
    reference=reference,
    catalogue=(109,),
)

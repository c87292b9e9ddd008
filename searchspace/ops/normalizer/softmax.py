"""Softmax over the visible keys: A_ij = exp(s_ij) / sum_j exp(s_ij).

Vaswani et al., "Attention Is All You Need", arXiv:1706.03762. Shapes: scores [B, H, T, S], visible broadcastable to
them; a row that sees nothing is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import AxisModule
from searchspace.primitives.context import BuildContext
from searchspace.primitives.row_statistics import masked_softmax
from searchspace.primitives.scores import ONE_HEAD, HeadSizes
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class Softmax(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, heads: HeadSizes = ONE_HEAD) -> None:
        super().__init__()

    def forward(self, scores: Tensor, visible: Tensor) -> Tensor:
        """scores [B, H, T, S] -> weights [B, H, T, S]."""
        return masked_softmax(scores, visible)


def reference(module: Softmax, scores: Tensor, visible: Tensor) -> Tensor:
    """scores [B, H, T, S] -> weights [B, H, T, S]."""
    weights = torch.exp(scores - scores.max()) * visible
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp_min(torch.finfo(scores.dtype).tiny), 0.0)


OPERATOR = Operator(
    name="softmax",
    slot="normalizer",
    paper="Vaswani et al. 2017, arXiv:1706.03762",
    build=Softmax,
    reference=reference,
)

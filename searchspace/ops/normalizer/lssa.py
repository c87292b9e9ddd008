"""Length-scaled softplus attention: u_ij = softplus(log K log n_i s_ij), A_ij = u_ij / sum_j u_ij, then sharpening.

    sharpening p > 0    A_ij <- relu(n_i A_ij - 1)^p, divided by the row's sum; a row of zeros keeps its A_ij

n_i is the number of keys that query i sees, K the head dim, s the product divided by sqrt(K). Gao and Spratling,
"Softplus Attention with Re-weighting Boosts Length Extrapolation in Large Language Models", arXiv:2501.13428. A query
that sees one key gives it weight 1. In at least float32. Shapes: scores [B, H, T, S], visible broadcastable to them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import AxisModule
from searchspace.primitives.context import BuildContext
from searchspace.primitives.row_statistics import num_visible
from searchspace.primitives.scores import ONE_HEAD, HeadSizes
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec


class LSSA(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, heads: HeadSizes = ONE_HEAD) -> None:
        super().__init__()
        self.sharpening, self.K = spec["sharpening"], heads.K

    def forward(self, scores: Tensor, visible: Tensor) -> Tensor:
        """scores [B, H, T, S] -> weights [B, H, T, S]."""
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        count = num_visible(wide, visible)
        weights = rows_to_one(F.softplus(math.log(self.K) * count.log() * wide) * visible)
        if self.sharpening:
            above = torch.relu(count * weights - 1)
            largest = above.detach().amax(-1, keepdim=True)
            sharp = (above / torch.where(largest > 0, largest, 1.0)) ** self.sharpening
            weights = torch.where(largest > SMALL, rows_to_one(sharp), weights)
        return weights.to(scores.dtype)


SMALL = 1e-6  # of n A - 1: rows of equal weights differ by rounding only


def rows_to_one(weights: Tensor) -> Tensor:
    """weights [..., S] divided by their sum over the last axis; rows of zeros stay 0."""
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, 1.0)


def reference(module: LSSA, scores: Tensor, visible: Tensor) -> Tensor:
    """Row by row, over the visible scores alone. scores [B, H, T, S] -> weights [B, H, T, S]."""
    weights = torch.zeros_like(scores)
    for b, h, i in torch.cartesian_prod(*map(torch.arange, scores.shape[:3])).tolist():
        seen = visible.expand_as(scores)[b, h, i]
        n = int(seen.sum())
        if n:
            s = math.log(module.K) * math.log(n) * scores[b, h, i][seen]
            u = s.clamp_min(0.0) + torch.log(1 + torch.exp(-s.abs()))
            row = u / u.sum()
            above = (n * row - 1).clamp_min(0.0)
            if module.sharpening and above.max() > SMALL:
                row = above**module.sharpening / (above**module.sharpening).sum()
            weights[b, h, i] = weights[b, h, i].masked_scatter(seen, row)
    return weights


OPERATOR = Operator(
    name="lssa",
    slot="normalizer",
    paper="Gao and Spratling 2025, arXiv:2501.13428",
    build=LSSA,
    ranges={"sharpening": Range(0, 64)},
    reference=reference,
    choices={"sharpening": (0, 1, 3, 15)},
    catalogue=(59,),
)

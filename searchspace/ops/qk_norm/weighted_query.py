"""Weighted multiplicative attention: an additional square map of the queries, s_ij = (W q_i) . k_j / sqrt(K).

The general score of Luong et al., "Effective Approaches to Attention-based Neural Machine Translation",
arXiv:1508.04025, as used in FlexiBERT, Tuli et al., arXiv:2205.11656. W maps the queries of all heads, [H K, H K], and
has no bias. A larger W_q could compute the same; the difference is in training. Before rotary positions.
Shapes: q [B, T, H, K], k [B, T, G, K].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext
from searchspace.primitives.scores import ONE_HEAD, HeadSizes
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class WeightedQuery(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, heads: HeadSizes = ONE_HEAD) -> None:
        super().__init__()
        width = Axis.of(G=heads.G, R=heads.R, K=heads.K)
        self.score_proj = context.linear("score", width, width)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """q [B, T, H, K] and k [B, T, G, K] -> mapped q, and k."""
        return self.score_proj(q.flatten(2)).view_as(q), k


def reference(module: WeightedQuery, q: Tensor, k: Tensor) -> Tensor:
    """Return queries and keys concatenated, [B, T, H + G, K]."""
    weighted = (q.flatten(2).unsqueeze(-2) * module.score_proj.weight).sum(-1)
    return torch.cat((weighted.unflatten(-1, q.shape[2:]), k), 2)


OPERATOR = Operator(
    name="weighted_query",
    slot="qk_norm",
    paper="FlexiBERT, Tuli et al. 2022, arXiv:2205.11656; Luong et al. 2015, arXiv:1508.04025",
    build=WeightedQuery,
    reference=reference,
    catalogue=(5,),
    quantizable=("score",),
    complexity="T (H K)^2",
)

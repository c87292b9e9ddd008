"""ELU attention: A_ij = (elu(s_ij) + 1) / c_i, where c_i is the row's sum or the number of keys that query i sees.

Divided by the count, no key has to absorb unused weight, and no attention sink emerges; divided by the sum, one does.
Gu et al., "When Attention Sink Emerges in Language Models", arXiv:2410.10781, do not divide the rows: the count keeps
their size at every length. Sigmoid is a separate operator, and their kernels are linear attention.
Shapes: scores [B, H, T, S], visible broadcastable to them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.activations import elu_plus_one
from searchspace.primitives.axes import AxisModule
from searchspace.primitives.context import BuildContext
from searchspace.primitives.row_statistics import num_visible
from searchspace.primitives.scores import ONE_HEAD, HeadSizes
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class EluSimilarity(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, heads: HeadSizes = ONE_HEAD) -> None:
        super().__init__()
        self.by_sum = spec["divide_by"] == "sum"

    def forward(self, scores: Tensor, visible: Tensor) -> Tensor:
        """scores [B, H, T, S] -> weights [B, H, T, S]."""
        similarity = elu_plus_one(scores) * visible
        if not self.by_sum:
            return similarity / num_visible(scores, visible)
        total = similarity.sum(-1, keepdim=True)
        return similarity / torch.where(total > 0, total, 1.0)


def reference(module: EluSimilarity, scores: Tensor, visible: Tensor) -> Tensor:
    """scores [B, H, T, S] -> weights [B, H, T, S]."""
    similarity = torch.where(scores > 0, scores + 1, torch.exp(scores.clamp_max(0.0)))
    similarity = torch.where(visible, similarity, 0.0)
    divisor = (similarity if module.by_sum else visible.expand_as(scores).to(scores.dtype)).sum(
        -1, keepdim=True
    )
    return similarity / torch.where(divisor > 0, divisor, 1.0)


OPERATOR = Operator(
    name="elu_similarity",
    slot="normalizer",
    paper="Gu et al. 2024, arXiv:2410.10781",
    build=EluSimilarity,
    reference=reference,
    choices={"divide_by": ("sum", "count")},
    catalogue=(109,),
)

"""ReLU attention: A_ij = relu(s_ij) / (gamma_h sqrt(n_i / 2)), n_i the number of keys that query i sees.

For unit-normal scores E[relu^2] = 1/2, so the output has the variance of the values at every length. gamma > 0 is
learned per head, initially 1. Shen et al., "A Study on ReLU and Softmax in Transformer", arXiv:2302.06461; their two
losses on the rows are not part of the operator. Shapes: scores [B, H, T, S], visible broadcastable to them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import AxisModule, zeros
from searchspace.primitives.context import BuildContext
from searchspace.primitives.row_statistics import num_visible
from searchspace.primitives.scores import ONE_HEAD, HeadSizes
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class ScaledReLU(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, heads: HeadSizes = ONE_HEAD) -> None:
        super().__init__()
        self.declare("log_gamma", (heads.axis,), zeros)

    def forward(self, scores: Tensor, visible: Tensor) -> Tensor:
        """scores [B, H, T, S] -> weights [B, H, T, S]."""
        scale = torch.exp(-self.log_gamma)[:, None, None] * (num_visible(scores, visible) / 2).rsqrt()
        return torch.relu(scores) * visible * scale


def reference(module: ScaledReLU, scores: Tensor, visible: Tensor) -> Tensor:
    """scores [B, H, T, S] -> weights [B, H, T, S]."""
    gamma = torch.exp(module.log_gamma)[:, None, None]
    count = visible.expand_as(scores).to(scores.dtype).sum(-1, keepdim=True)
    kept = torch.where(visible & (scores > 0), scores, 0.0)
    return kept / (gamma * torch.sqrt(torch.where(count > 0, count, 1.0) / 2))


OPERATOR = Operator(
    name="scaled_relu",
    slot="normalizer",
    paper="Shen et al. 2023, arXiv:2302.06461",
    build=ScaledReLU,
    reference=reference,
    catalogue=(115,),
)

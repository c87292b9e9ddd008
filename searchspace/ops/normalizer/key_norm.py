"""Normalisation layers of ConvNets in place of softmax: LayerNorm over each query's scores, before or after a ReLU.

    ln       A = (g z(s) + b) / sqrt(n)              relu_ln  A = (g z(relu(s)) + b) / sqrt(n)
    ln_relu  A = relu(g z(s) + b) / sqrt(n)          z(s)_ij = (s_ij - mean_i) / sqrt(var_i + eps)

over the n_i keys that query i sees, with numbers g and b per head, so that weights do not depend on a key's place. Zhou
et al., "Interpret Vision Transformers as ConvNets with Dynamic Convolutions", arXiv:2309.10713, view attention as a
dynamic convolution over keys, whose activation need not be softmax; the scale 1 / sqrt(n) preserves the output's size.
Shapes: scores [B, H, T, S], visible broadcastable to them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import AxisModule, ones, zeros
from searchspace.primitives.context import BuildContext
from searchspace.primitives.row_statistics import standardized
from searchspace.primitives.scores import ONE_HEAD, HeadSizes
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-5


class KeyNorm(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, heads: HeadSizes = ONE_HEAD) -> None:
        super().__init__()
        self.order = spec["order"]
        self.declare("gain", (heads.axis,), ones)
        self.declare("offset", (heads.axis,), zeros)

    def forward(self, scores: Tensor, visible: Tensor) -> Tensor:
        """scores [B, H, T, S] -> weights [B, H, T, S]."""
        if self.order == "relu_ln":
            scores = torch.relu(scores)
        z, count = standardized(scores, visible, inside=EPS)
        weights = self.gain[:, None, None] * z + self.offset[:, None, None]
        weights = torch.relu(weights) if self.order == "ln_relu" else weights
        return weights * visible / count.sqrt()


def reference(module: KeyNorm, scores: Tensor, visible: Tensor) -> Tensor:
    """Row by row, over the visible scores alone. scores [B, H, T, S] -> weights [B, H, T, S]."""
    weights = torch.zeros_like(scores)
    for b, h, i in torch.cartesian_prod(*map(torch.arange, scores.shape[:3])).tolist():
        seen = visible.expand_as(scores)[b, h, i]
        row = scores[b, h, i][seen]
        if len(row):
            row = row.clamp_min(0) if module.order == "relu_ln" else row
            z = (row - row.mean()) / (row.var(correction=0) + EPS).sqrt() * module.gain[h] + module.offset[h]
            z = z.clamp_min(0) if module.order == "ln_relu" else z
            weights[b, h, i] = weights[b, h, i].masked_scatter(seen, z / len(row) ** 0.5)
    return weights


OPERATOR = Operator(
    name="key_norm",
    slot="normalizer",
    paper="Zhou et al. 2023, arXiv:2309.10713",
    build=KeyNorm,
    reference=reference,
    choices={"order": ("ln", "relu_ln", "ln_relu")},
    catalogue=(119,),
)

"""Normalised attention: A_ij = (g (s_ij - mu_i) / (sigma_i + eps) + b) / sqrt(n_i), scores standardised in each row.

mu_i and sigma_i are mean and population standard deviation of row i, n_i its number of visible keys; g and b are
per-head parameters. Weights are signed and sum to sqrt(n) b. Richter and Wattenhofer, "Normalized Attention Without
Probability Cage", arXiv:2005.09561, put a LayerNorm after the attention instead of dividing by sqrt(n_i): both preserve
the output's size at every length. A query that sees one key gives it weight b, initially 0.
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

EPS = 1e-3


class NAP(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, heads: HeadSizes = ONE_HEAD) -> None:
        super().__init__()
        self.declare("gain", (heads.axis,), ones)
        self.declare("offset", (heads.axis,), zeros)

    def forward(self, scores: Tensor, visible: Tensor) -> Tensor:
        """scores [B, H, T, S] -> weights [B, H, T, S]."""
        z, count = standardized(scores, visible, outside=EPS)
        gain, offset = self.gain[:, None, None], self.offset[:, None, None]
        return (gain * z + offset) * visible / count.sqrt()


def reference(module: NAP, scores: Tensor, visible: Tensor) -> Tensor:
    """Row by row, over the visible scores alone. scores [B, H, T, S] -> weights [B, H, T, S]."""
    weights = torch.zeros_like(scores)
    for b, h, i in torch.cartesian_prod(*map(torch.arange, scores.shape[:3])).tolist():
        seen = visible.expand_as(scores)[b, h, i]
        row = scores[b, h, i][seen]
        if len(row):
            sigma = row.var(correction=0).sqrt() if len(row) > 1 else row.new_zeros(())
            z = module.gain[h] * (row - row.mean()) / (sigma + EPS) + module.offset[h]
            weights[b, h, i] = weights[b, h, i].masked_scatter(seen, z / len(row) ** 0.5)
    return weights


OPERATOR = Operator(
    name="nap",
    slot="normalizer",
    paper="Richter and Wattenhofer 2020, arXiv:2005.09561",
    build=NAP,
    reference=reference,
    catalogue=(116,),
)

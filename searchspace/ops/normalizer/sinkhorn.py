"""Sinkhorn attention: rows and columns of exp(s) are alternately scaled towards sums of 1, in n half steps, rows first.

    n = 1   softmax          n odd   rows sum to 1 exactly, columns nearly

Sander et al., "Sinkformers: Transformers with Doubly Stochastic Attention", arXiv:2110.11773. Bidirectional only: the
only lower triangular doubly stochastic matrix is the identity. Computed in logarithms, in at least float32; the
gradient goes through every step, where the authors' code detaches the column factors. Padding does not take part: where
there are as many queries as keys, a token that nobody sees is excluded as a query too. Shapes: scores [B, H, T, S],
visible broadcastable to them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import AxisModule
from searchspace.primitives.context import BuildContext
from searchspace.primitives.scores import ONE_HEAD, HeadSizes
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec


class Sinkhorn(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, heads: HeadSizes = ONE_HEAD) -> None:
        super().__init__()
        self.half_steps = spec["half_steps"]

    def forward(self, scores: Tensor, visible: Tensor) -> Tensor:
        """scores [B, H, T, S] -> weights [B, H, T, S]."""
        counted = taking_part(scores, visible)
        logs = scores.to(torch.promote_types(scores.dtype, torch.float32))
        hidden = torch.finfo(logs.dtype).min / 4  # differences of two such numbers stay finite
        for step in range(self.half_steps):
            logs = logs.masked_fill(~counted, hidden)
            logs = logs - logs.logsumexp(-2 if step % 2 else -1, keepdim=True)
        return (logs.exp() * counted).to(scores.dtype)


def taking_part(scores: Tensor, visible: Tensor) -> Tensor:
    """Pairs [.., T, S] of a query and a key that are both real tokens."""
    if scores.shape[-1] != scores.shape[-2]:
        return visible
    return visible & visible.any(-2).unsqueeze(-1)


def reference(module: Sinkhorn, scores: Tensor, visible: Tensor) -> Tensor:
    """Sinkhorn and Knopp: factors of rows and columns around exp(s). scores [B, H, T, S] -> weights [B, H, T, S]."""
    kernel = torch.exp(scores - scores.amax((-2, -1), keepdim=True)) * taking_part(scores, visible)
    rows, columns = torch.ones_like(kernel[..., :1]), torch.ones_like(kernel[..., :1, :])
    for step in range(module.half_steps):
        if step % 2:
            total = (kernel * rows).sum(-2, keepdim=True)
            columns = torch.where(total > 0, 1 / torch.where(total > 0, total, 1.0), 0.0)
        else:
            total = (kernel * columns).sum(-1, keepdim=True)
            rows = torch.where(total > 0, 1 / torch.where(total > 0, total, 1.0), 0.0)
    return rows * kernel * columns


OPERATOR = Operator(
    name="sinkhorn",
    slot="normalizer",
    paper="Sander et al. 2021, arXiv:2110.11773",
    build=Sinkhorn,
    ranges={"half_steps": Range(1, 99, "rows sum to 1 where they come last as well as first", step=2)},
    reference=reference,
    choices={"half_steps": (3, 5, 7)},
    causal=False,
    catalogue=(122,),
)

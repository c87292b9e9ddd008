"""QKNorm: queries and keys of length 1 and a learned scale, s_ij = g q_i . k_j / (|q_i| |k_j|), |s_ij| <= g.

Henry et al., "Query-Key Normalization for Transformers", arXiv:2010.04245. Each head has its g, initially
log2(L^2 - L) with L the maximum length; the authors have one for the layer. The query is multiplied by g sqrt(K), since
the mixer divides scores by sqrt(K). Keys are cached normalised. Shapes: q [B, T, H, K], k [B, T, G, K].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import AxisModule, constant
from searchspace.primitives.context import BuildContext
from searchspace.primitives.scores import ONE_HEAD, HeadSizes
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-12


class QKL2(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, heads: HeadSizes = ONE_HEAD) -> None:
        super().__init__()
        L = max(2, context.layout.max_len)
        self.declare("scale", (heads.axis,), constant(math.log2(L * L - L)))

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """q [B, T, H, K] and k [B, T, G, K] -> normalised q and k."""
        q, k = (unit(x) for x in (q, k))
        return q * (self.scale * math.sqrt(q.shape[-1])).unsqueeze(-1), k


def unit(x: Tensor) -> Tensor:
    """x [..., K] -> x / |x| [..., K], computed in at least float32."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.normalize(wide, dim=-1, eps=EPS).to(x.dtype)


def reference(module: QKL2, q: Tensor, k: Tensor) -> Tensor:
    """Return queries and keys concatenated, [B, T, H + G, K]."""
    q, k = (x / (x * x).sum(-1, keepdim=True).sqrt() for x in (q, k))
    return torch.cat((math.sqrt(q.shape[-1]) * q * module.scale[None, None, :, None], k), 2)


OPERATOR = Operator(
    name="qk_l2",
    slot="qk_norm",
    paper="Henry et al. 2020, arXiv:2010.04245",
    build=QKL2,
    reference=reference,
    catalogue=(112,),
    complexity="T H K",
)

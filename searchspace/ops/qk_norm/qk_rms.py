"""RMSNorm of queries and keys over the channels of a head, with weights shared by all heads.

    q <- w_q q / sqrt(mean(q^2) + eps)          k <- w_k k / sqrt(mean(k^2) + eps)

A variant of Henry et al., arXiv:2010.04245, with the norm of Zhang and Sennrich, arXiv:1910.07467. Applied before
rotary positions, since weights must not act on rotated channel pairs. Shapes: q [B, T, H, K], k [B, T, G, K].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule, ones
from searchspace.primitives.context import BuildContext
from searchspace.primitives.scores import ONE_HEAD, HeadSizes
from searchspace.registry import EPSILON, Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-6


class QKRMS(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, heads: HeadSizes = ONE_HEAD) -> None:
        super().__init__()
        self.eps = spec.get("eps", EPS)
        for name in ("q_weight", "k_weight"):
            self.declare(name, (Axis.of(K=heads.K),), ones)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """q [B, T, H, K] and k [B, T, G, K] -> normalised q and k."""
        K = q.shape[-1:]
        return F.rms_norm(q, K, self.q_weight, self.eps), F.rms_norm(k, K, self.k_weight, self.eps)


def reference(module: QKRMS, q: Tensor, k: Tensor) -> Tensor:
    """Return queries and keys concatenated, [B, T, H + G, K]."""
    q, k = (x / torch.sqrt((x**2).mean(-1, keepdim=True) + module.eps) for x in (q, k))
    return torch.cat((q * module.q_weight, k * module.k_weight), 2)


OPERATOR = Operator(
    name="qk_rms",
    slot="qk_norm",
    paper="Henry et al. 2020, arXiv:2010.04245; RMSNorm arXiv:1910.07467",
    build=QKRMS,
    ranges={"eps": EPSILON},
    reference=reference,
    fixed={"eps": EPS},
    catalogue=(112,),
    complexity="T H K",
)

"""RMSNorm of queries and of keys over the channels of all heads together, with a weight for each channel.

    q <- w_q q / sqrt(mean over heads and channels of q^2 + eps)          k likewise

OLMo 2, arXiv:2501.00656. With fewer heads the mean is over the remaining ones. Before rotary positions, as `qk_rms`.
Shapes: q [B, T, H, K], k [B, T, G, K].
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


class QKRMSJoint(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, heads: HeadSizes = ONE_HEAD) -> None:
        super().__init__()
        self.eps = spec.get("eps", EPS)
        self.declare("q_weight", (Axis.of(G=heads.G, R=heads.R, K=heads.K),), ones)
        self.declare("k_weight", (Axis.of(G=heads.G, K=heads.K),), ones)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """q [B, T, H, K] and k [B, T, G, K] -> normalised q and k."""
        return self._normed(q, self.q_weight), self._normed(k, self.k_weight)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        flat = x.flatten(2)
        return F.rms_norm(flat, flat.shape[-1:], weight, self.eps).view_as(x)


def reference(module: QKRMSJoint, q: Tensor, k: Tensor) -> Tensor:
    """Return queries and keys concatenated, [B, T, H + G, K]."""
    q, k = (x / torch.sqrt((x**2).mean((-2, -1), keepdim=True) + module.eps) for x in (q, k))
    return torch.cat((q * module.q_weight.view(q.shape[2:]), k * module.k_weight.view(k.shape[2:])), 2)


OPERATOR = Operator(
    name="qk_rms_joint",
    slot="qk_norm",
    paper="OLMo 2, arXiv:2501.00656; RMSNorm arXiv:1910.07467",
    build=QKRMSJoint,
    ranges={"eps": EPSILON},
    reference=reference,
    fixed={"eps": EPS},
    complexity="T H K",
)

"""KERPLE, power: b_ij = -a_h |i - j|^p_h, with a > 0 and 0 < p <= 2 learned per head; p = 1 is ALiBi.

Chi et al., "KERPLE: Kernelized Relative Positional Embedding for Length Extrapolation", arXiv:2205.09921. For p > 2 the
bias is not a conditionally positive definite kernel, so p = 2 sigmoid(raw). Shapes: distance [T, S] -> [H, T, S].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import AxisModule
from searchspace.primitives.context import BuildContext
from searchspace.primitives.score_bias import in_float, softplus_inverse, spread, values
from searchspace.primitives.scores import ONE_HEAD, HeadSizes
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class KerplePower(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, heads: HeadSizes = ONE_HEAD) -> None:
        super().__init__()
        starts = spread(1.0, heads.H)
        self.declare("slope", (heads.axis,), values([softplus_inverse(a) for a in starts]))
        self.declare("exponent", (heads.axis,), values([math.log(p / (1 - p)) for p in starts]))

    def forward(self, distance: Tensor) -> Tensor:
        """distance [T, S] -> bias [H, T, S]."""
        far = in_float(distance, self.slope)
        a = F.softplus(self.slope.to(far.dtype))[:, None, None]
        p = 2 * torch.sigmoid(self.exponent.to(far.dtype))[:, None, None]
        return -a * far**p


def reference(module: KerplePower, distance: Tensor) -> Tensor:
    """distance [T, S] -> bias [H, T, S]."""
    a, p = torch.log(1 + torch.exp(module.slope)), 2 / (1 + torch.exp(-module.exponent))
    far = distance.abs().to(a.dtype)
    logs = torch.where(far > 0, far, 1.0).log()
    return torch.stack([-a[h] * torch.exp(p[h] * logs) * (far > 0) for h in range(len(a))])


OPERATOR = Operator(
    name="kerple_power",
    slot="score_bias",
    paper="Chi et al. 2022, arXiv:2205.09921",
    build=KerplePower,
    reference=reference,
    catalogue=(105,),
    complexity="H T S",
)

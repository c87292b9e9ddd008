"""KERPLE, logarithmic: b_ij = -p_h ln(1 + a_h |i - j|), with p, a > 0 learned per head.

Chi et al., "KERPLE: Kernelized Relative Positional Embedding for Length Extrapolation", arXiv:2205.09921. The bias is
a conditionally positive definite kernel, so up to a constant, which softmax ignores, it is an inner product of
positions. Positive by softplus, where the authors clamp. Shapes: distance [T, S] -> [H, T, S].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import AxisModule
from searchspace.primitives.context import BuildContext
from searchspace.primitives.score_bias import in_float, softplus_inverse, spread, values
from searchspace.primitives.scores import ONE_HEAD, HeadSizes
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class KerpleLog(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, heads: HeadSizes = ONE_HEAD) -> None:
        super().__init__()
        for name, high in (("log_scale", 2.0), ("log_rate", 1.0)):
            starts = [softplus_inverse(value) for value in spread(high, heads.H)]
            self.declare(name, (heads.axis,), values(starts))

    def forward(self, distance: Tensor) -> Tensor:
        """distance [T, S] -> bias [H, T, S]."""
        far = in_float(distance, self.log_scale)
        p, a = (F.softplus(raw.to(far.dtype))[:, None, None] for raw in (self.log_scale, self.log_rate))
        return -p * torch.log1p(a * far)


def reference(module: KerpleLog, distance: Tensor) -> Tensor:
    """distance [T, S] -> bias [H, T, S]."""
    p, a = (torch.log(1 + torch.exp(raw)) for raw in (module.log_scale, module.log_rate))
    return torch.stack([-p[h] * torch.log(1 + a[h] * distance.abs()) for h in range(len(p))])


OPERATOR = Operator(
    name="kerple_log",
    slot="score_bias",
    paper="Chi et al. 2022, arXiv:2205.09921",
    build=KerpleLog,
    reference=reference,
    catalogue=(105,),
    complexity="H T S",
)

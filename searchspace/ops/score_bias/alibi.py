"""ALiBi: b_ij = -m_h |i - j| with fixed slopes m_h = 2^(-8 h / H), h = 1 .. H, no parameters.

Press et al., "Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation",
arXiv:2108.12409. A head's slope goes by its number in this network, so that any number of heads spans the same range.
Shapes: distance [T, S] -> [H, T, S].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import AxisModule
from searchspace.primitives.context import BuildContext
from searchspace.primitives.score_bias import in_float
from searchspace.primitives.scores import ONE_HEAD, HeadSizes
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class Alibi(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, heads: HeadSizes = ONE_HEAD) -> None:
        super().__init__()
        self.H = heads.H

    def forward(self, distance: Tensor) -> Tensor:
        far = in_float(distance)
        exponents = torch.arange(1, self.H + 1, device=distance.device, dtype=far.dtype) * (-8.0 / self.H)
        return -torch.exp2(exponents)[:, None, None] * far


def reference(module: Alibi, distance: Tensor) -> Tensor:
    slopes = [2.0 ** (-8.0 * (h + 1) / module.H) for h in range(module.H)]
    return torch.stack([-slope * distance.abs().to(torch.get_default_dtype()) for slope in slopes])


OPERATOR = Operator(
    name="alibi",
    slot="score_bias",
    paper="Press et al. 2021, arXiv:2108.12409",
    build=Alibi,
    reference=reference,
    complexity="H T S",
)

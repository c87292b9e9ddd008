"""ALiBi: b_ij = -m_h |i - j| with fixed slopes, no parameters.

    m_h = 2^(-8 h / H), h = 1 .. H, for a power of two; else the slopes of the next smaller power of two n, followed by
    those of 2 n at h = 1, 3, 5, ...

Press et al., "Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation",
arXiv:2108.12409; for other H the slopes follow the authors' code. A slope belongs to its head: a sub-network keeps the
slopes that its heads were trained with. Shapes: distance [T, S] -> [H, T, S].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import AxisModule
from searchspace.primitives.context import BuildContext
from searchspace.primitives.score_bias import alibi_slopes, in_float
from searchspace.primitives.scores import ONE_HEAD, HeadSizes
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class Alibi(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, heads: HeadSizes = ONE_HEAD) -> None:
        super().__init__()
        self.declare("slopes", (heads.axis,), start_slopes, role="fixed")

    def forward(self, distance: Tensor) -> Tensor:
        """distance [T, S] -> bias [H, T, S]."""
        far = in_float(distance, self.slopes)
        return -self.slopes.to(far.dtype)[:, None, None] * far


def start_slopes(tensor: Tensor) -> None:
    """Fill tensor [H] with the slopes."""
    tensor.copy_(torch.tensor(alibi_slopes(len(tensor)), dtype=torch.float64))


def reference(module: Alibi, distance: Tensor) -> Tensor:
    """Head by head, with the paper's formula for slopes where H is a power of two. distance [T, S] -> [H, T, S]."""
    H = len(module.slopes)
    stated = [2.0 ** (-8.0 * h / H) for h in range(1, H + 1)] if H & (H - 1) == 0 else module.slopes.tolist()
    return torch.stack([-slope * distance.abs().to(module.slopes.dtype) for slope in stated])


OPERATOR = Operator(
    name="alibi",
    slot="score_bias",
    paper="Press et al. 2021, arXiv:2108.12409",
    build=Alibi,
    reference=reference,
    complexity="H T S",
)

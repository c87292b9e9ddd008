"""Power-Softmax: an even power in place of the exponential, A_ij = y_ij^p / (eps + sum_j y_ij^p), y = s / max_j |s_ij|.

Zimerman et al., "Power-Softmax: Towards Secure LLM Inference over Encrypted Data", arXiv:2410.09457. Dividing by the
largest score keeps s^p from overflowing and changes nothing where eps = 0; with eps > 0 this is the authors' training
form, and eps is relative to the largest weight. s and -s have equal weight. A row of zeros gives 0.
Shapes: scores [B, H, T, S], visible broadcastable to them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import AxisModule
from searchspace.primitives.context import BuildContext
from searchspace.primitives.scores import ONE_HEAD, HeadSizes
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec


class PowerSoftmax(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, heads: HeadSizes = ONE_HEAD) -> None:
        super().__init__()
        self.power, self.epsilon = spec["power"], spec["epsilon"]

    def forward(self, scores: Tensor, visible: Tensor) -> Tensor:
        """scores [B, H, T, S] -> weights [B, H, T, S]."""
        seen = torch.where(visible, scores, 0.0)
        largest = seen.abs().amax(-1, keepdim=True)
        powers = (seen / torch.where(largest > 0, largest, 1.0)) ** self.power
        total = powers.sum(-1, keepdim=True)
        return powers / (torch.where(total > 0, total, 1.0) + self.epsilon)


def reference(module: PowerSoftmax, scores: Tensor, visible: Tensor) -> Tensor:
    """Without the division by the largest score, whose power multiplies eps instead. scores [B, H, T, S]."""
    powers = scores**module.power * visible
    total = powers.sum(-1, keepdim=True) + module.epsilon * powers.amax(-1, keepdim=True)
    return torch.where(total > 0, powers / torch.where(total > 0, total, 1.0), 0.0)


OPERATOR = Operator(
    name="power_softmax",
    slot="normalizer",
    paper="Zimerman et al. 2024, arXiv:2410.09457",
    build=PowerSoftmax,
    ranges={"power": Range(2, 64, "an odd power makes weights negative", step=2), "epsilon": Range(0, 1)},
    reference=reference,
    choices={"power": (2, 4, 6), "epsilon": (0.0, 1e-3)},
    catalogue=(25, 111),
)

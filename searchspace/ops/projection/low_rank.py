"""Low-rank projection: y = U (W x) with W [P, in] and U [out, P].

    P = max(1, round(rank_ratio * min(in, out)))

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685, add the factors to a frozen weight;
here they replace it, as in Khodak et al., "Initialization and Regularization of Factorized Neural Layers",
arXiv:2105.01029. Cheaper than dense where P < in * out / (in + out).
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule, fan_in
from searchspace.primitives.context import BuildContext
from searchspace.registry import SHARE, Operator
from searchspace.spec.arch import OpSpec


class LowRank(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, role: str, out: Axis, inp: Axis) -> None:
        super().__init__()
        self.role, self.kind = role, "low_rank"
        rank = Axis.of(P=max(1, round(spec["rank_ratio"] * min(out.size, inp.size))))
        gain = 1.0 / math.sqrt(2 * context.num_layers) if role in ("o", "down") else 1.0
        self.declare("reduce", (rank, inp), fan_in())
        self.declare("expand", (out, rank), fan_in(gain))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return F.linear(F.linear(x, self.reduce), self.expand)


def reference(module: LowRank, x: Tensor) -> Tensor:
    """x [..., in] -> [..., out]."""
    return (x.unsqueeze(-2) * (module.expand @ module.reduce)).sum(-1)


def flops(module: LowRank, T: int, S: int) -> int:
    return 2 * T * (module.reduce.numel() + module.expand.numel())


OPERATOR = Operator(
    name="low_rank",
    slot="projection",
    paper="Khodak et al. 2021, arXiv:2105.01029",
    build=LowRank,
    ranges={"rank_ratio": SHARE},
    reference=reference,
    choices={"rank_ratio": (0.25, 0.5)},
    flops=flops,
    complexity="T P (in + out)",
)

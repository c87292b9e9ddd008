"""Dense projection: y = x W^T + b.

The bias applies to every role of a block (True), to none (False), or to the roles listed in a string: "q,k,v".
Shapes: x [..., in], W [out, in], y [..., out].
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule, fan_in, zeros
from searchspace.primitives.context import BuildContext
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

ROLES = ("q", "k", "v", "o", "up", "gate", "down")  # in the blocks of pretrained networks


class Dense(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, role: str, out: Axis, inp: Axis) -> None:
        super().__init__()
        self.role, self.kind = role, "dense"
        # branches that write to the residual stream start smaller, so that depth does not raise its variance
        gain = 1.0 / math.sqrt(2 * context.num_layers) if role in ("o", "down") else 1.0
        self.declare("weight", (out, inp), fan_in(gain))
        bias = spec.get("bias", False)
        if role in bias.split(",") if isinstance(bias, str) else bias:
            self.declare("bias", (out,), zeros)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return F.linear(x, self.weight, self._parameters.get("bias"))


def reference(module: Dense, x: Tensor) -> Tensor:
    """x [..., in] -> [..., out]."""
    y = (x.unsqueeze(-2) * module.weight).sum(-1)
    return y if "bias" not in module.declared else y + module.bias


def flops(module: Dense, T: int, S: int) -> int:
    return 2 * T * module.weight.numel()


OPERATOR = Operator(
    name="dense",
    slot="projection",
    paper="the linear layer",
    build=Dense,
    reference=reference,
    choices={"bias": (False,)},
    ranges={"bias": ROLES},
    lists=("bias",),
    flops=flops,
    complexity="T in out",
)

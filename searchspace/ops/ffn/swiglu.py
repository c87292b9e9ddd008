"""SwiGLU: y = W_down (silu(W_gate x) * W_up x), nested in its hidden width.

Shazeer, "GLU Variants Improve Transformer", arXiv:2002.05202. Shapes: x [B, T, D], hidden [B, T, F].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.activations import gated_activation
from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class SwiGLU(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        d_model, hidden = Axis.of(D=context.d_model), Axis.of(F=spec["d_ff"])
        self.gate_proj = context.linear("gate", hidden, d_model)
        self.up_proj = context.linear("up", hidden, d_model)
        self.down_proj = context.linear("down", d_model, hidden)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        return self.down_proj(gated_activation(self.gate_proj(x), self.up_proj(x), "silu")), None


def reference(module: SwiGLU, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    gate, up = F.linear(x, module.gate_proj.weight), F.linear(x, module.up_proj.weight)
    return F.linear(gate * torch.sigmoid(gate) * up, module.down_proj.weight)


OPERATOR = Operator(
    name="swiglu",
    slot="ffn",
    paper="Shazeer 2020, arXiv:2002.05202",
    build=SwiGLU,
    reference=reference,
    choices={"d_ff": (64, 128, 256)},
    quantizable=("gate", "up", "down"),
    complexity="T D F",
)

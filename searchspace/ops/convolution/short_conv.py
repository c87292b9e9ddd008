"""Short convolution: y = W_o C(W_in x), C a depthwise convolution over the last w tokens or a w x w window.

Depthwise convolution in place of local attention: Han et al., "On the Connection between Local Attention and Dynamic
Depth-wise Convolution", arXiv:2106.04263; the causal form is the short convolution of recurrent mixers on its own.
Shapes: x [B, T, D].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import state_size
from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.convolution import WINDOW, DepthwiseConv, convolved, why_no_middle
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class ShortConv(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        d_model = Axis.of(D=context.d_model)
        self.in_proj = context.linear("v", d_model, d_model)
        self.conv = DepthwiseConv(d_model, spec["window"], context.causal)
        self.out_proj = context.linear("o", d_model, d_model)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        y, state = self.conv(self.in_proj(x), tokens, state)
        return self.out_proj(y), state

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        return self.conv.init_state(batch_size, device, dtype)


def reference(module: ShortConv, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    y = convolved(module.conv, F.linear(x, module.in_proj.weight), tokens)
    return (y.unsqueeze(-2) * module.out_proj.weight).sum(-1)


OPERATOR = Operator(
    name="short_conv",
    slot="mixer",
    paper="Han et al. 2021, arXiv:2106.04263",
    build=ShortConv,
    ranges={"window": WINDOW},
    why_invalid=why_no_middle,
    reference=reference,
    choices={"window": (3, 5, 7)},
    flops=lambda module, T, S: module.conv.flops(T),
    state_bytes=state_size.fixed,
    needs_2d=True,
    quantizable=("v", "o"),
    complexity="T D (D + w)",
    state="(w - 1) D",
)

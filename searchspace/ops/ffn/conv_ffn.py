"""Convolutional FFN: y = W_down act(C W_up x) with a depthwise convolution C in the hidden layer.

C reads the last k tokens in a causal network, the k x k square around a token of an image otherwise
(searchspace/primitives/convolution.py). The depthwise hidden layer is that of VAN, Guo et al., "Visual Attention
Network", arXiv:2202.09741. With k = 1 this is the FFN of two pointwise convolutions of LMUFormer, Liu et al.,
arXiv:2402.04882, with the block's norm in place of its batch norms. Shapes: x [B, T, D], hidden [B, T, F].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import state_size
from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.convolution import DepthwiseConv, convolved
from searchspace.registry import ODD, Nested, Operator
from searchspace.spec.arch import OpSpec


class ConvFFN(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        d_model, hidden = Axis.of(D=context.d_model), Axis.of(F=spec["d_ff"])
        self.activation = context.nested("activation", spec["activation"])
        self.up_proj = context.linear("up", hidden, d_model)
        self.conv = DepthwiseConv(hidden, spec["kernel_size"], context.causal)
        self.down_proj = context.linear("down", d_model, hidden)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        hidden, state = self.conv(self.up_proj(x), tokens, state)
        return self.down_proj(self.activation(hidden)), state

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        return self.conv.init_state(batch_size, device, dtype)


def reference(module: ConvFFN, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    hidden = convolved(module.conv, F.linear(x, module.up_proj.weight), tokens)
    return (module.activation(hidden).unsqueeze(-2) * module.down_proj.weight).sum(-1)


OPERATOR = Operator(
    name="conv_ffn",
    slot="ffn",
    paper="VAN, Guo et al. 2022, arXiv:2202.09741; LMUFormer, arXiv:2402.04882",
    build=ConvFFN,
    ranges={"kernel_size": ODD},
    reference=reference,
    choices={
        "d_ff": (64, 128, 256),
        "kernel_size": (1, 3, 5),
        "activation": Nested("activation", ("gelu", "relu_squared")),
    },
    flops=lambda module, T, S: module.conv.flops(T),
    state_bytes=state_size.fixed,
    needs_2d=True,
    catalogue=(12,),
    quantizable=("up", "down"),
    complexity="T (D + k) F",
    state="(k - 1) F",
)

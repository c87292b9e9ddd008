"""Large kernel attention: each channel is multiplied by the output of a large depthwise kernel around it.

    u = gelu(W_in x)        y = W_o ((W_a C_far C_near u) * u)

A kernel of w d tokens is split into a dense part, C_near with 2 d - 1 taps, and a part with dilation d, C_far with w
taps. Together they span 2 d - 1 + d (w - 1) tokens: the past of a sequence, or the surroundings in an image. Guo et
al., "Visual Attention Network", arXiv:2202.09741, with w d = 21 and d = 3. The block's norm and residual replace its
batch norm, inner shortcut and layer scale; the causal form is ours. Shapes: x, u [B, T, D].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import state_size
from searchspace.primitives.activations import gelu_tanh
from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.convolution import DepthwiseConv, convolved
from searchspace.registry import ODD, Operator
from searchspace.spec.arch import OpSpec


class LargeKernelAttention(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        d_model, dilation = Axis.of(D=context.d_model), spec["dilation"]
        self.in_proj = context.linear("v", d_model, d_model)
        self.near = DepthwiseConv(d_model, 2 * dilation - 1, context.causal)
        self.far = DepthwiseConv(d_model, spec["window"], context.causal, dilation)
        self.kernel_proj = context.linear("k", d_model, d_model)
        self.out_proj = context.linear("o", d_model, d_model)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        before = state or {"near": None, "far": None}
        u = gelu_tanh(self.in_proj(x))
        seen, near = self.near(u, tokens, before["near"])
        seen, far = self.far(seen, tokens, before["far"])
        y = self.out_proj(self.kernel_proj(seen) * u)
        return y, {"near": near, "far": far} if state else None

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        parts = {"near": self.near, "far": self.far}
        return {name: part.init_state(batch_size, device, dtype) for name, part in parts.items()}


def reference(module: LargeKernelAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    u = gelu_tanh(F.linear(x, module.in_proj.weight))
    seen = convolved(module.far, convolved(module.near, u, tokens), tokens)
    gate = (seen.unsqueeze(-2) * module.kernel_proj.weight).sum(-1)
    return ((gate * u).unsqueeze(-2) * module.out_proj.weight).sum(-1)


def flops(module: LargeKernelAttention, T: int, S: int) -> int:
    return module.near.flops(T) + module.far.flops(T)


OPERATOR = Operator(
    name="lka",
    slot="mixer",
    paper="Guo et al. 2022, arXiv:2202.09741",
    build=LargeKernelAttention,
    ranges={"window": ODD},
    reference=reference,
    choices={"window": (3, 5, 7), "dilation": (2, 3)},
    flops=flops,
    state_bytes=state_size.fixed,
    needs_2d=True,
    catalogue=(46,),
    quantizable=("v", "k", "o"),
    complexity="T D (D + w + d)",
    state="(w + 1) d D",
)

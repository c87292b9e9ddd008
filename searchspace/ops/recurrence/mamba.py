"""Mamba: a selective state space after a short convolution, with a gate.

    u, z = W_in x, W_z x          y = W_out (S6(silu(conv(u))) * silu(z))

Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv:2312.00752; the scan is in
`searchspace.primitives.selective_scan`.
Shapes: B batch, T time, D model width, C = expand D inner channels, N states.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import state_size
from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.convolution import DepthwiseConv, convolved
from searchspace.primitives.recurrence import state_dtype
from searchspace.primitives.selective_scan import SelectiveScan, selective_scan_reference
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec

TAPS = 4


class Mamba(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        d_model, inner = Axis.of(D=context.d_model), Axis.of(E=spec["expand"], D=context.d_model)
        self.C, self.N = inner.size, spec["num_states"]
        self.inner_proj = context.linear("up", inner, d_model)
        self.inner_gate_proj = context.linear("gate", inner, d_model)
        self.inner_conv = DepthwiseConv(inner, TAPS, causal=True)
        self.scan = SelectiveScan(inner, self.N)
        self.inner_down_proj = context.linear("down", d_model, inner)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        u, conv = self.inner_conv(self.inner_proj(x), tokens, state["conv"] if state else None)
        y, h = self.scan(F.silu(u), tokens.valid, state["h"] if state else None)
        return self.output(y, x), {"conv": conv, "h": h} if state else None

    def output(self, y: Tensor, x: Tensor) -> Tensor:
        """y [B, T, C], x [B, T, D] -> [B, T, D]."""
        return self.inner_down_proj(y * F.silu(self.inner_gate_proj(x)))

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        h = torch.zeros(batch_size, self.C, self.N, device=device, dtype=state_dtype(dtype))
        return {"conv": self.inner_conv.init_state(batch_size, device, dtype), "h": h}


def reference(module: Mamba, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    u = convolved(module.inner_conv, module.inner_proj(x), tokens)
    return module.output(selective_scan_reference(module.scan, F.silu(u), tokens.valid), x)


def flops(module: Mamba, T: int, S: int) -> int:
    return module.inner_conv.flops(T) + module.scan.flops(T)


OPERATOR = Operator(
    name="mamba",
    slot="mixer",
    paper="Gu and Dao 2023, arXiv:2312.00752",
    build=Mamba,
    ranges={"expand": Range(1, 16)},
    reference=reference,
    choices={"expand": (1, 2), "num_states": (8, 16)},
    flops=flops,
    state_bytes=state_size.fixed,
    bidirectional=False,
    quantizable=("up", "gate", "down"),
    complexity="T C N",
    state="C N + (taps - 1) C",
)

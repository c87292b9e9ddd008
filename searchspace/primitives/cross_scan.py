"""A selective state space over an image, which is scanned by rows and by columns, each in both directions.

    u, z = W_in x, W_z x          s = sum over directions of S6_d(silu(conv(u)))
    y = W_out (layernorm(s) * silu(z))

Liu et al., "VMamba: Visual State Space Model", arXiv:2401.10166. Each direction has its own weights; 2 directions are
rows forward and backward, 4 add columns forward and backward. Padding neither writes nor forgets, wherever it is.
Shapes: B batch, T = rows * columns, D model width, C = expand D inner channels, N states.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule, ones, zeros
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.primitives.convolution import DepthwiseConv, convolved
from searchspace.primitives.selective_scan import SelectiveScan, selective_scan_reference
from searchspace.registry import Range

EPS = 1e-6
CHOICES = {"expand": (1, 2), "num_states": (8, 16), "directions": (2, 4)}
DIRECTIONS = Range(1, 4, "rows and columns are scanned in two directions each")


class CrossScan(AxisModule):
    """x [B, T, D] on a grid -> [B, T, D]."""

    def __init__(self, context: BuildContext, expand: int, num_states: int, directions: int) -> None:
        super().__init__()
        d_model, inner = Axis.of(D=context.d_model), Axis.of(E=expand, D=context.d_model)
        self.inner_proj = context.linear("up", inner, d_model)
        self.inner_gate_proj = context.linear("gate", inner, d_model)
        self.conv = DepthwiseConv(inner, 3, causal=False)
        self.scans = nn.ModuleList(SelectiveScan(inner, num_states) for _ in range(directions))
        self.declare("norm_weight", (inner,), ones)
        self.declare("norm_bias", (inner,), zeros)
        self.inner_down_proj = context.linear("down", d_model, inner)

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        u = F.silu(self.conv(self.inner_proj(x), tokens)[0])
        total = torch.zeros_like(u)
        for direction, scan in enumerate(self.scans):
            order = scan_order(direction, tokens.sides, x.device)
            valid = None if tokens.valid is None else tokens.valid[:, order]
            total = total + scan(u[:, order], valid)[0][:, order.argsort()]
        return self.output(total, x)

    def output(self, s: Tensor, x: Tensor) -> Tensor:
        """s [B, T, C], x [B, T, D] -> [B, T, D]."""
        s = F.layer_norm(s, s.shape[-1:], self.norm_weight, self.norm_bias, EPS)
        return self.inner_down_proj(s * F.silu(self.inner_gate_proj(x)))

    def flops(self, T: int) -> int:
        """Return the FLOPs without the projections."""
        return self.conv.flops(T) + sum(scan.flops(T) for scan in self.scans)  # type: ignore[operator]


def scan_order(direction: int, grid: tuple[int, int], device: torch.device) -> Tensor:
    """Return the tokens [T] in the order of a direction: rows, rows reversed, columns, columns reversed."""
    places = torch.arange(grid[0] * grid[1], device=device)
    order = places.view(grid).T.flatten() if direction >= 2 else places
    return order.flip(0) if direction % 2 else order


def cross_scan_reference(module: CrossScan, x: Tensor, tokens: Tokens) -> Tensor:
    """Every scan token by token, in an order sorted by coordinates. x [B, T, D] -> [B, T, D]."""
    columns = tokens.sides[1]
    u = F.silu(convolved(module.conv, module.inner_proj(x), tokens))
    total = torch.zeros_like(u)
    for direction, scan in enumerate(module.scans):
        order = list(range(x.shape[1]))
        if direction >= 2:
            order.sort(key=lambda t: (t % columns, t // columns))
        if direction % 2:
            order.reverse()
        valid = None if tokens.valid is None else tokens.valid[:, order]
        y = selective_scan_reference(scan, u[:, order], valid)  # type: ignore[arg-type]
        for place, t in enumerate(order):
            total[:, t] = total[:, t] + y[:, place]
    return module.output(total, x)

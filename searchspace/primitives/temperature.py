"""Temperatures for single queries and values, from the token and, for queries, from its place.

    tau_q(x_i, i) = 1 + tanh(w_q . x_i) + sigmoid(a) log(i + 1)          q_i <- tau_q q_i
    tau_v(x_j) = 1 + tanh(w_v . x_j)                                     v_j <- tau_v v_j

w is shared by the heads, a belongs to each head. Zhang et al., "Selective Attention: Enhancing Transformer through
Principled Context Control" (Selective Self-Attention), arXiv:2411.12892. Both terms keep tau positive, so that a
temperature never reverses the order of keys. i counts from 0 and is the place in the sequence, not in a chunk.
Shapes: x [B, T, D], q [B, T, H, K], v [B, T, G, K].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule, constant, zeros
from searchspace.primitives.scores import HeadSizes

START = -4.0  # sigmoid(-4) = 0.02: training starts close to one temperature for all


class Temperature(AxisModule):
    def __init__(self, kind: str, d_model: int, heads: HeadSizes) -> None:
        super().__init__()
        self.declare("query_weight", (Axis.of(D=d_model),), zeros)
        self.declare("position_weight", (heads.axis,), constant(START))
        self.on_values = kind == "query_value"
        if self.on_values:
            self.declare("value_weight", (Axis.of(D=d_model),), zeros)

    def forward(self, x: Tensor, q: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return scaled q [B, T, H, K] and v [B, T, G, K], for x [B, T, D] and positions [T] or [B, T] int."""
        places = (positions + 1).to(torch.promote_types(x.dtype, torch.float32)).log().unsqueeze(-1)
        of_token = 1 + torch.tanh((x * self.query_weight).sum(-1, keepdim=True))  # [B, T, 1]
        tau = of_token + (torch.sigmoid(self.position_weight) * places).to(x.dtype)  # [B, T, H]
        if self.on_values:
            v = v * (1 + torch.tanh((x * self.value_weight).sum(-1)))[..., None, None]
        return q * tau.unsqueeze(-1), v

"""Selective state space (S6): every channel has N states, whose decay depends on the token's step.

    h_t[c, n] = exp(s_tc A_cn) h_{t-1}[c, n] + s_tc B_tn u_t[c]          y_t[c] = sum_n C_tn h_t[c, n] + D_c u_t[c]
    s_t = softplus(W_s W_r u_t + b_s)          B_t, C_t = W_B u_t, W_C u_t          A = -exp(log_rates)

Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv:2312.00752. It is the gated linear
recurrence with a head per channel and values of one entry, for which matrix products don't pay off: within a chunk,
pairs of decay and sum are composed by doubling steps, with all exponents at most 0. Shapes: B batch, T time, C inner
channels, N states, P rank of the step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule, fan_in, ones
from searchspace.primitives.recurrence import state_dtype

CHUNK = 64
STEP_RANK = 8


class SelectiveScan(AxisModule):
    """u [B, T, C] -> y [B, T, C] and the last state [B, C, N]."""

    def __init__(self, channels: Axis, num_states: int) -> None:
        super().__init__()
        self.N = num_states
        states, rank = Axis.of(N=num_states), Axis.of(P=STEP_RANK)
        self.declare("step_reduce", (rank, channels), fan_in())
        self.declare("step_expand", (channels, rank), fan_in())
        self.declare("step_bias", (channels,), step_bias)
        self.declare("B_weight", (states, channels), fan_in())
        self.declare("C_weight", (states, channels), fan_in())
        self.declare("log_rates", (channels, states), one_to_n)
        self.declare("skip", (channels,), ones)

    def forward(self, u: Tensor, valid: Tensor | None, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        log_a, b, C = self.steps(u, valid)
        h = b.new_zeros(b[:, 0].shape) if h is None else h
        found = []
        parts = zip(log_a.split(CHUNK, 1), b.split(CHUNK, 1), C.split(CHUNK, 1), strict=True)
        for log_a_part, b_part, C_part in parts:
            states = composed(log_a_part, b_part, h)
            found.append((states * C_part.unsqueeze(2)).sum(-1))
            h = states[:, -1].clone()
        return torch.cat(found, 1).to(u.dtype) + self.skip * u, h

    def steps(self, u: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """u [B, T, C] -> log decay and input [B, T, C, N], both 0 at padding, and the read vector [B, T, N]."""
        dtype = state_dtype(u.dtype)
        step = F.softplus(F.linear(F.linear(u, self.step_reduce), self.step_expand, self.step_bias)).to(dtype)
        step = step if valid is None else step * valid.unsqueeze(-1)
        B, C = (F.linear(u, weight).to(dtype) for weight in (self.B_weight, self.C_weight))
        log_a = -step.unsqueeze(-1) * self.log_rates.to(dtype).exp()
        return log_a, (step * u).unsqueeze(-1) * B.unsqueeze(2), C

    def flops(self, T: int) -> int:
        return 2 * T * (self.step_reduce.numel() + self.step_expand.numel() + 2 * self.B_weight.numel())


def composed(log_a: Tensor, b: Tensor, h: Tensor) -> Tensor:
    """log_a and b [B, T, C, N] after the state h [B, C, N] -> all states [B, T, C, N]."""
    b = torch.cat((b[:, :1] + (log_a[:, :1].exp() * h.unsqueeze(1)), b[:, 1:]), 1)
    step = 1
    while step < b.shape[1]:
        b = torch.cat((b[:, :step], b[:, step:] + log_a[:, step:].exp() * b[:, :-step]), 1)
        log_a = torch.cat((log_a[:, :step], log_a[:, step:] + log_a[:, :-step]), 1)
        step *= 2
    return b


def selective_scan_reference(module: SelectiveScan, u: Tensor, valid: Tensor | None) -> Tensor:
    """Token by token, u [B, T, C] -> y [B, T, C]; valid [B, T]."""
    log_a, b, C = module.steps(u, valid)
    h, found = torch.zeros_like(b[:, 0]), []
    for t in range(u.shape[1]):
        h = log_a[:, t].exp() * h + b[:, t]
        found.append(torch.einsum("bcn,bn->bc", h, C[:, t]))
    return torch.stack(found, 1).to(u.dtype) + module.skip * u


def step_bias(bias: Tensor) -> None:
    """Fill `bias` [C] so that softplus(bias) is log-uniform from 1e-3 to 1e-1."""
    steps = torch.empty_like(bias).uniform_(math.log(1e-3), math.log(1e-1)).exp()
    bias.copy_(steps.expm1().log())


def one_to_n(log_rates: Tensor) -> None:
    """Fill `log_rates` [C, N] with the logarithms of 1 .. N in every channel."""
    log_rates.copy_(torch.arange(1, log_rates.shape[1] + 1).log().expand_as(log_rates))

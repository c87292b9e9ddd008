"""Legendre memory: each of U signals is stored as the first N Legendre coefficients of its last theta tokens.

    u_t = leaky_relu(W_u x_t + b_u)          m_t = A m_{t-1} + B u_t          y_t = W_y relu(W_m m_t + W_x x_t + b)

A and B are fixed: the zero-order hold, with a step of 1, of dm/dt = A' m + B' u with A'_ij = (2 i + 1) / theta times -1
for i < j, else (-1)^(i - j + 1), and B'_i = (2 i + 1) (-1)^i / theta. In chunks, m is a convolution with the impulse
response A^j B plus the decayed state. Voelker et al., "Legendre Memory Units", NeurIPS 2019; Liu et al., "LMUFormer:
Low Complexity Yet Powerful Spiking Model With Legendre Memory Units", arXiv:2402.04882, use one signal, relu for u, so
that a token may leave no trace, and batch norms between the projections, which are left out here.
Shapes: B batch, T time, D model width, U signals, N order, C chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import state_size
from searchspace.primitives.axes import Axis, AxisModule, fan_in, zeros
from searchspace.primitives.constants import kept
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.recurrence import state_dtype
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

CHUNK = 64


class LMU(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.U, self.N, self.theta = spec["num_signals"], spec["order"], spec["theta"]
        d_model, memory = Axis.of(D=context.d_model), Axis.of(U=self.U, N=self.N)
        self.declare("signal_weight", (Axis.of(U=self.U), d_model), fan_in())
        self.declare("signal_bias", (Axis.of(U=self.U),), zeros)
        self.memory_proj = context.linear("memory", d_model, memory)
        self.skip_proj = context.linear("skip", d_model, d_model)
        self.declare("hidden_bias", (d_model,), zeros)
        self.readout_proj = context.linear("o", d_model, d_model)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        u = self.signals(x, tokens)
        m = state["m"] if state else u.new_zeros(x.shape[0], self.U, self.N)
        found = []
        for part in u.split(CHUNK, 1):
            coefficients = self.remembered(part.mT, m)
            found.append(coefficients)
            m = coefficients[:, -1]
        return self.output(torch.cat(found, 1), x), {"m": m.clone()} if state else None

    def signals(self, x: Tensor, tokens: Tokens) -> Tensor:
        """u [B, T, U], 0 at padding, in the precision of the memory."""
        u = F.leaky_relu(F.linear(x, self.signal_weight, self.signal_bias)).to(state_dtype(x.dtype))
        return tokens.without_padding(u)

    def remembered(self, u: Tensor, m: Tensor) -> Tensor:
        """u [B, U, C] and the previous memory m [B, U, N] -> the memory after each token [B, C, U, N]."""
        C = u.shape[-1]
        responses, powers = (t[:C] for t in responses_on(self.N, self.theta, u.device, u.dtype))
        lagged = F.pad(u, (C - 1, 0)).unfold(-1, C, 1).flip(-1)  # [B, U, i, lag]
        left = (m @ powers.permute(2, 0, 1).flatten(1)).unflatten(-1, (C, self.N))
        return (lagged @ responses + left).transpose(1, 2)

    def output(self, m: Tensor, x: Tensor) -> Tensor:
        """m [B, T, U, N], x [B, T, D] -> [B, T, D]."""
        hidden = self.memory_proj(m.flatten(2).to(x.dtype)) + self.skip_proj(x) + self.hidden_bias
        return self.readout_proj(torch.relu(hidden))

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        return {"m": torch.zeros(batch_size, self.U, self.N, device=device, dtype=state_dtype(dtype))}


@kept(64)
def transition(order: int, theta: int) -> tuple[Tensor, Tensor]:
    """A [N, N] and B [N] of the discrete memory, in float64 on the CPU regardless of the default device."""
    i = torch.arange(order, device="cpu", dtype=torch.float64)
    lag = i.unsqueeze(1) - i.unsqueeze(0)
    signs = torch.where(lag < 0, -1.0, 1.0 - 2.0 * ((lag + 1) % 2))
    rates = (2 * i + 1) / theta
    A, B = rates.unsqueeze(1) * signs, rates * (1.0 - 2.0 * (i % 2))
    discrete = torch.linalg.matrix_exp(A)
    eye = torch.eye(order, device="cpu", dtype=torch.float64)
    return discrete, torch.linalg.solve(A, (discrete - eye) @ B)


@kept(64)
def responses(order: int, theta: int) -> tuple[Tensor, Tensor]:
    """A^j B [C, N] and A^(j + 1) [C, N, N] for j < C."""
    A, B = transition(order, theta)
    powers = [A]
    for _ in range(CHUNK - 1):
        powers.append(A @ powers[-1])
    return torch.stack([B, *(power @ B for power in powers[:-1])]), torch.stack(powers)


@kept(64)
def responses_on(order: int, theta: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return `responses` on this device: [C, N] and [C, N, N]."""
    return tuple(t.to(device, dtype) for t in responses(order, theta))


def reference(module: LMU, x: Tensor, tokens: Tokens) -> Tensor:
    """Token by token. x [B, T, D] -> [B, T, D]."""
    u = module.signals(x, tokens)
    A, B = (t.to(u) for t in transition(module.N, module.theta))
    m, found = u.new_zeros(len(x), module.U, module.N), []
    for t in range(x.shape[1]):
        m = m @ A.T + u[:, t].unsqueeze(-1) * B
        found.append(m)
    return module.output(torch.stack(found, 1), x)


def flops(module: LMU, T: int, S: int) -> int:
    total = 2 * T * module.signal_weight.numel()
    for C in [CHUNK] * (T // CHUNK) + [T % CHUNK]:
        total += 2 * module.U * C * module.N * (C + module.N)
    return total


OPERATOR = Operator(
    name="lmu",
    slot="mixer",
    paper="Voelker et al. 2019, NeurIPS; LMUFormer, arXiv:2402.04882",
    build=LMU,
    reference=reference,
    choices={"num_signals": (1, 4), "order": (8, 16, 32), "theta": (16, 64)},
    flops=flops,
    state_bytes=state_size.fixed,
    bidirectional=False,
    catalogue=(12,),
    complexity="T U N (C + N)",
    state="U N",
)

"""Mamba-2: a state space with one decay for all states of a head (SSD), after a short convolution, with a gate.

    u, B, C = silu(conv(W x) + b)                 s_t = softplus(W_s x_t + b_s)          log a_t = -exp(A) s_t
    S_t = a_t S_{t-1} + B_t (s_t u_t)^T          o_t = S_t^T C_t + D u_t
    y = W_o (w * rms(o_t * silu(W_z x_t)))

Dao and Gu, "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality",
arXiv:2405.21060. B and C are shared by the R heads of a group, and the norm is over the channels of a group. The
recurrence is `searchspace.primitives.recurrence` with keys B, queries C, values s u and a state per head, in the
published chunked form. A, D, s and the bias b_s are one number per head. Heads and head dim are free here, so that a
narrower network is a slice; the paper has an inner width of twice the model's. Steps have no upper limit.
Shapes: B batch, T time, D model width, G groups, R heads per group, H = G R, K head dim, N states, J taps.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import recurrence, state_size
from searchspace.primitives.axes import Axis, AxisModule, fan_in, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.convolution import DepthwiseConv, convolved
from searchspace.primitives.selective_scan import step_bias
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-5


class Mamba2(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.G, self.R, self.K = spec["num_groups"], spec["heads_per_group"], spec["head_dim"]
        self.H, self.N, taps = self.G * self.R, spec["num_states"], spec["conv_taps"]
        d_model = Axis.of(D=context.d_model)
        heads, inner = Axis.of(G=self.G, R=self.R), Axis.of(G=self.G, R=self.R, K=self.K)
        states = Axis.of(G=self.G, N=self.N)
        self.ssd_u_proj = context.linear("up", inner, d_model)
        self.ssd_B_proj = context.linear("k", states, d_model)
        self.ssd_C_proj = context.linear("q", states, d_model)
        for name, axis in (("u", inner), ("B", states), ("C", states)):
            self.add_module(f"ssd_{name}_conv", DepthwiseConv(axis, taps, causal=True))
            self.declare(f"ssd_{name}_bias", (axis,), zeros)
        self.declare("ssd_step_weight", (heads, d_model), fan_in())
        self.declare("ssd_step_bias", (heads,), step_bias)
        self.declare("ssd_log_rate", (heads,), one_to_h)
        self.declare("ssd_skip", (heads,), ones)
        self.declare("ssd_norm_weight", (inner,), ones)
        self.ssd_gate_proj = context.linear("gate", inner, d_model)
        self.ssd_down_proj = context.linear("down", d_model, inner)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        kept: State = {}
        mixed = []
        for name, projection, conv in self.paths():
            y, kept[name] = conv(projection(x), tokens, state[name] if state else None)
            mixed.append(y)
        u, k, q = self.activated(*mixed)
        step, log_a = self.steps(x, tokens)
        v = step.unsqueeze(-1).to(u.dtype) * u
        o, kept["S"] = recurrence.recurrence_chunked(
            self.per_head(q).unsqueeze(3), self.per_head(k), v, log_a, state["S"] if state else None
        )
        return self.output(o.squeeze(3), u, x), kept if state else None

    def paths(self) -> list[tuple[str, AxisModule, DepthwiseConv]]:
        """(name, projection, convolution) of u, B and C."""
        return [
            ("u", self.ssd_u_proj, self.ssd_u_conv),
            ("B", self.ssd_B_proj, self.ssd_B_conv),
            ("C", self.ssd_C_proj, self.ssd_C_conv),
        ]

    def activated(self, u: Tensor, k: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Convolved [B, T, H K] and twice [B, T, G N] -> u [B, T, H, K], keys B and queries C [B, T, G, N]."""
        states = (self.G, self.N)
        u = F.silu(u + self.ssd_u_bias).unflatten(2, (self.H, self.K))
        return (
            u,
            F.silu(k + self.ssd_B_bias).unflatten(2, states),
            F.silu(q + self.ssd_C_bias).unflatten(2, states),
        )

    def per_head(self, grouped: Tensor) -> Tensor:
        """[B, T, G, N] -> [B, T, H, N]."""
        return grouped.repeat_interleave(self.R, 2) if self.R > 1 else grouped

    def steps(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """s [B, T, H] and log decay [B, T, H, 1] in at least float32, both 0 at padding."""
        step = F.softplus(F.linear(x, self.ssd_step_weight, self.ssd_step_bias))
        step = tokens.without_padding(step.to(recurrence.state_dtype(x.dtype)))
        return step, -(self.ssd_log_rate.exp() * step).unsqueeze(-1)

    def output(self, o: Tensor, u: Tensor, x: Tensor) -> Tensor:
        """o and u [B, T, H, K], x [B, T, D] -> [B, T, D]."""
        y = (o + self.ssd_skip.unsqueeze(-1) * u).flatten(2) * F.silu(self.ssd_gate_proj(x))
        y = F.rms_norm(y.unflatten(2, (self.G, -1)), (self.R * self.K,), None, EPS).flatten(2)
        return self.ssd_down_proj(self.ssd_norm_weight * y)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        S = recurrence.empty_state(batch_size, self.H, self.N, self.K, device, dtype)
        return {"S": S} | {name: conv.init_state(batch_size, device, dtype) for name, _, conv in self.paths()}


def one_to_h(log_rates: Tensor) -> None:
    """Fill `log_rates` [H] with the logarithms of 1 .. H."""
    log_rates.copy_(torch.arange(1, len(log_rates) + 1).log())


def reference(module: Mamba2, x: Tensor, tokens: Tokens) -> Tensor:
    """The dual form, C_i . B_j times the total decay from j to i for every pair of tokens.

    x [B, T, D] -> [B, T, D].
    """
    mixed = [convolved(conv, projection(x), tokens) for _, projection, conv in module.paths()]
    u, k, q = module.activated(*mixed)
    step, log_a = module.steps(x, tokens)
    total = log_a.squeeze(-1).cumsum(1).transpose(1, 2)  # [B, H, T]
    later = (total.unsqueeze(-1) - total.unsqueeze(-2)).tril().exp().tril()
    pairs = torch.einsum("bihn,bjhn->bhij", module.per_head(q), module.per_head(k)) * later.to(x.dtype)
    o = torch.einsum("bhij,bjh,bjhk->bihk", pairs, step.to(x.dtype), u)
    return module.output(o, u, x)


def flops(module: Mamba2, T: int, S: int) -> int:
    convs = sum(conv.flops(T) for _, _, conv in module.paths())
    steps = 2 * T * module.ssd_step_weight.numel()
    return convs + steps + recurrence.chunked_flops(T, module.H, module.H, module.N, module.K)


OPERATOR = Operator(
    name="mamba2",
    slot="mixer",
    paper="Dao and Gu 2024, arXiv:2405.21060",
    build=Mamba2,
    reference=reference,
    choices={
        "num_groups": (1, 2),
        "heads_per_group": (2, 4),
        "head_dim": (16, 32),
        "num_states": (16, 32),
        "conv_taps": (2, 4),
    },
    flops=flops,
    state_bytes=state_size.fixed,
    bidirectional=False,
    quantizable=("q", "k", "up", "gate", "down"),
    catalogue=(127,),
    complexity="T H K N",
    state="H K N + (taps - 1) (H K + 2 G N)",
)

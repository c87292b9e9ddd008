"""Jet block: the gated delta rule on values that pass a convolution whose kernel each token computes.

    v_t = silu(sum_i w_ti * (W_v x_{t-i}))          w_t = W_2 silu(W_1 x_t) + b,  a tap for each channel and i < J
    S_t = a_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T          y = W_o (w * rms(S_t^T q_t) * silu(W_g x_t))

Gu et al., "Jet-Nemotron: Efficient Language Model with Post Neural Architecture Search", arXiv:2508.15884. Queries and
keys have no convolution: q, k = unit(silu(W x)). The kernel generator reduces the width by 8, as published; a bias b,
which starts at the token itself, is ours, and makes fixed taps a special case. The rest is `gated_deltanet`, in
`searchspace.primitives.delta`; published: 4 taps, beta_max 1.
Shapes: B batch, T time, D model width, G groups, R heads per group, K key dim = V value dim, J taps, P = D / 8.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import delta, recurrence, state_size
from searchspace.primitives.axes import Axis, fan_in, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.delta import EPS, step_bias, unit
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

REDUCTION = 8


class JetBlock(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.J, self.beta_max = spec["conv_taps"], spec["beta_max"]
        d_model, groups = Axis.of(D=context.d_model), Axis.of(G=self.G)
        taps, rank = Axis.of(G=self.G, K=self.K, taps=self.J), Axis.of(P=max(1, context.d_model // REDUCTION))
        self.declare("taps_reduce", (rank, d_model), fan_in())
        self.declare("taps_expand", (taps, rank), fan_in())
        self.declare("taps_bias", (taps,), partial(own_token, num_taps=self.J))
        self.declare("beta_weight", (groups, d_model), fan_in())
        self.declare("norm_weight", (Axis.of(K=self.K),), ones)
        self.declare("step_weight", (groups, d_model), fan_in())
        self.declare("step_bias", (groups,), step_bias)
        self.declare("log_rate", (groups,), zeros)
        self.gate_proj = context.linear("gate", Axis.of(G=self.G, R=self.R, K=self.K), d_model)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k = self.queries_keys(x)
        v, seen = self.values(x, tokens, state["v"] if state else None)
        beta, log_a = self.gates(x, tokens)
        o, S = recurrence.recurrence_chunked(q, k, v, log_a, state["S"] if state else None, beta=beta)
        return self.output(o, x), {"v": seen, "S": S} if state else None

    def queries_keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Unit q [B, T, G, R, K] and k [B, T, G, K]"""
        q = unit(F.silu(self.q_proj(x)).unflatten(2, (self.G, self.R, self.K)))
        return q, unit(F.silu(self.k_proj(x)).unflatten(2, (self.G, self.K)))

    def values(self, x: Tensor, tokens: Tokens, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """v [B, T, G, V], and the last J - 1 tokens of the convolution's input [B, J - 1, G V], `before` included."""
        mapped = tokens.without_padding(self.v_proj(x))
        if before is None:
            before = mapped.new_zeros(x.shape[0], self.J - 1, mapped.shape[2])
        seen, T = torch.cat((before, mapped), 1), x.shape[1]
        taps = self.taps(x)
        v = sum(taps[..., i] * seen[:, self.J - 1 - i : self.J - 1 - i + T] for i in range(self.J))
        assert isinstance(v, Tensor)
        return F.silu(v).unflatten(2, (self.G, self.K)), seen[:, T:].clone()

    def taps(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> taps [B, T, G V, J], the token's own first."""
        taps = F.linear(F.silu(F.linear(x, self.taps_reduce)), self.taps_expand, self.taps_bias)
        return taps.unflatten(2, (-1, self.J))

    def gates(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """beta [B, T, G] and log decay [B, T, G, 1], both 0 at padding."""
        beta = self.beta_max * torch.sigmoid(F.linear(x, self.beta_weight))
        log_a = -self.log_rate.exp() * F.softplus(F.linear(x, self.step_weight, self.step_bias))
        return tokens.without_padding(beta), tokens.without_padding(log_a).unsqueeze(-1)

    def output(self, o: Tensor, x: Tensor) -> Tensor:
        """o [B, T, G, R, V], x [B, T, D] -> [B, T, D]."""
        o = F.rms_norm(o, o.shape[-1:], self.norm_weight, EPS).flatten(2)
        return self.o_proj(o * F.silu(self.gate_proj(x)))

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        S = recurrence.empty_state(batch_size, self.G, self.K, self.K, device, dtype)
        return {"v": torch.zeros(batch_size, self.J - 1, self.G * self.K, device=device, dtype=dtype), "S": S}


def own_token(bias: Tensor, num_taps: int) -> None:
    """Fill `bias` [C k] so that every channel starts as the token's own value."""
    bias.zero_()
    bias[::num_taps] = 1.0


def reference(module: JetBlock, x: Tensor, tokens: Tokens) -> Tensor:
    """Tap by tap, then token by token. x [B, T, D] -> [B, T, D]."""
    mapped, taps = tokens.without_padding(module.v_proj(x)), module.taps(x)
    rows = []
    for t in range(x.shape[1]):
        near = range(min(module.J, t + 1))
        rows.append(torch.stack([taps[:, t, :, i] * mapped[:, t - i] for i in near]).sum(0))
    v = F.silu(torch.stack(rows, 1)).unflatten(2, (module.G, module.K))
    beta, log_a = module.gates(x, tokens)
    o, _ = recurrence.recurrence_reference(*module.queries_keys(x), v, log_a, beta=beta)
    return module.output(o, x)


def flops(module: JetBlock, T: int, S: int) -> int:
    small = (module.taps_reduce, module.taps_expand, module.beta_weight, module.step_weight)
    sizes = (module.H, module.G, module.K, module.K)
    return 2 * T * sum(t.numel() for t in small) + recurrence.chunked_flops(T, *sizes, delta=True)


OPERATOR = Operator(
    name="jet_block",
    slot="mixer",
    paper="Jet-Nemotron, Gu et al. 2025, arXiv:2508.15884",
    build=JetBlock,
    ranges={"beta_max": delta.BETA_MAX},
    reference=reference,
    choices={**HEAD_CHOICES, **delta.CHOICES},
    flops=flops,
    state_bytes=state_size.fixed,
    bidirectional=False,
    quantizable=("q", "k", "v", "o", "gate"),
    catalogue=(131,),
    complexity="T H K V",
    state="G K V + (taps - 1) G V",
)

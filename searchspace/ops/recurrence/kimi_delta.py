"""Kimi delta attention: the gated delta rule with a decay for each key channel.

    S_t = (I - beta_t k_t k_t^T) diag(a_t) S_{t-1} + beta_t k_t v_t^T
    log a_t = -exp(A) softplus(W_2 W_1 x_t + b)          y = W_o (w * rms(S_t^T q_t) * sigmoid(W_4 W_3 x_t))

Kimi Team, "Kimi Linear: An Expressive, Efficient Attention Architecture", arXiv:2510.26692. A is one number per head;
the ranks of both gates are the head dim K, as published. Unit keys and queries, short convolutions before them, and
`beta_max` (published: 4 taps, 1) are in `searchspace.primitives.delta`; the paper has one head per group.
Shapes: B batch, T time, D model width, G groups, R heads per group, H = G R, K key dim = V value dim, P = K gate rank.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import delta, state_size
from searchspace.primitives.axes import Axis, fan_in, zeros
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.primitives.delta import DeltaAttention
from searchspace.primitives.heads import HEAD_CHOICES
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class KimiDelta(DeltaAttention):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context, gated=False)
        rank, group = Axis.of(P=self.K), Axis.of(G=self.G, K=self.K)
        self.declare("fade_reduce", (rank, self.d_model), fan_in())
        self.declare("fade_expand", (group, rank), fan_in())
        self.declare("fade_bias", (group,), delta.step_bias)
        self.declare("log_rate", (Axis.of(G=self.G),), zeros)
        self.declare("gate_reduce", (rank, self.d_model), fan_in())
        self.declare("gate_expand", (self.reads, rank), fan_in())

    def gates(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """beta [B, T, G] and log decay [B, T, G, K], both 0 at padding."""
        beta = super().gates(x, tokens)[0]
        step = F.softplus(F.linear(F.linear(x, self.fade_reduce), self.fade_expand, self.fade_bias))
        log_a = -self.log_rate.exp().unsqueeze(-1) * step.unflatten(2, (self.G, self.K))
        return beta, tokens.without_padding(log_a)

    def output(self, o: Tensor, x: Tensor) -> Tensor:
        """o [B, T, G, R, V], x [B, T, D] -> [B, T, D]."""
        gate = F.linear(F.linear(x, self.gate_reduce), self.gate_expand)
        return self.o_proj(self.normed(o) * torch.sigmoid(gate))


def flops(module: KimiDelta, T: int, S: int) -> int:
    gates = (
        module.beta_weight,
        module.fade_reduce,
        module.fade_expand,
        module.gate_reduce,
        module.gate_expand,
    )
    return 2 * T * sum(t.numel() for t in gates) + delta.mixing_flops(module, T, vector_decay=True)


OPERATOR = Operator(
    name="kimi_delta",
    slot="mixer",
    paper="Kimi Linear, Kimi Team 2025, arXiv:2510.26692",
    build=KimiDelta,
    ranges={"beta_max": delta.BETA_MAX},
    reference=delta.delta_reference,
    choices={**HEAD_CHOICES, **delta.CHOICES},
    flops=flops,
    state_bytes=state_size.fixed,
    bidirectional=False,
    quantizable=("q", "k", "v", "o"),
    catalogue=(128,),
    complexity="T H K V",
    state="G K V + (taps - 1) (H + 2 G) K",
)

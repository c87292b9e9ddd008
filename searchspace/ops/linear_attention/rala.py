"""Rank-augmented linear attention: keys are weighted by the average query's attention, outputs by the token.

    alpha_j = n softmax_j(mean_i phi(q_i) . phi(k_j) / sqrt(K))          phi = elu + 1
    o_i = sum_j R phi(q_i) . R phi(k_j) alpha_j v_j / (phi(q_i) . sum_j alpha_j phi(k_j) + n eps) + conv(v)_i
    y = W_o (o * W_g x)

Fan et al., "Breaking the Low-Rank Dilemma of Linear Attention", arXiv:2411.07635. R denotes rotary positions, in the
numerator only, where a negative product does no harm; the published ones are those of the grid, `position` rope_2d.
Bidirectional, on a grid. Shapes: B batch, T time, D model width, G groups, R heads per group, H = G R, K key dim = V
value dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from searchspace.primitives import recurrence
from searchspace.primitives.activations import elu_plus_one
from searchspace.primitives.axes import Axis
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.convolution import DepthwiseConv, convolved
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads, rotate
from searchspace.primitives.linear import EPS
from searchspace.registry import ODD, Operator
from searchspace.spec.arch import OpSpec


class RALA(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.value_conv = DepthwiseConv(Axis.of(G=self.G, K=self.K), spec["kernel_size"], causal=False)
        self.gated = spec["gate"]
        if self.gated:
            heads = Axis.of(G=self.G, R=self.R, K=self.K)
            self.gate_proj = context.linear("gate", heads, Axis.of(D=context.d_model))

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        q, k, v, real = self.mapped(x, tokens)
        k = k * self.alpha(q, k, real)
        numerator = recurrence.sum_over_all(
            rotate(q, tokens).unsqueeze(3), rotate(k, tokens), self.per_head(v)
        )
        divisor = (q * k.sum(1, keepdim=True)).sum(-1, keepdim=True) + EPS * real.sum(1, keepdim=True)
        near, _ = self.value_conv(v.flatten(2).to(x.dtype), tokens)
        return self.output(numerator.squeeze(3) / divisor.clamp_min(EPS), near, x), None

    def mapped(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """phi(q) and phi(k) [B, T, H, K], v [B, T, G, V], all 0 at padding; which tokens are real [B, T, 1, 1]."""
        q, k, v = (t.to(recurrence.state_dtype(x.dtype)) for t in self.queries_keys_values(x))
        real = tokens.real(k)
        return elu_plus_one(q) * real, self.per_head(elu_plus_one(k)) * real, v * real, real

    def alpha(self, q: Tensor, k: Tensor, real: Tensor) -> Tensor:
        """alpha [B, T, H, 1], with sum n over the real tokens."""
        n = real.sum(1, keepdim=True)
        wanted = (q.sum(1, keepdim=True) / n.clamp_min(1.0) * k).sum(-1, keepdim=True) / math.sqrt(self.K)
        hidden = wanted.masked_fill(real == 0, torch.finfo(wanted.dtype).min)
        return n * hidden.softmax(1) * real

    def output(self, o: Tensor, near: Tensor, x: Tensor) -> Tensor:
        """o [B, T, H, V], near [B, T, G V], x [B, T, D] -> [B, T, D]."""
        o = o.to(x.dtype) + self.per_head(near.unflatten(2, (self.G, self.K)))
        return self.merge_heads(o * self.gate_proj(x).view_as(o) if self.gated else o)


def reference(module: RALA, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    q, k, v, real = module.mapped(x, tokens)
    n = real.sum(1, keepdim=True).clamp_min(1.0)
    wanted = torch.einsum("bihk,bjhk->bjh", q, k).unsqueeze(-1) / n / math.sqrt(module.K)
    strength = wanted.exp() * real
    alpha = n * strength / strength.sum(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    weights, turned = (
        torch.einsum("bihk,bjhk->bhij", a, b * alpha)
        for a, b in ((q, k), (rotate(q, tokens), rotate(k, tokens)))
    )
    turned = turned / (weights.sum(-1, keepdim=True) + EPS * n)
    o = torch.einsum("bhij,bjhv->bihv", turned, module.per_head(v))
    return module.output(o, convolved(module.value_conv, v.flatten(2).to(x.dtype), tokens), x)


def flops(module: RALA, T: int, S: int) -> int:
    return recurrence.sum_over_all_flops(T, module.H, module.H, module.K, module.K) + module.value_conv.flops(
        T
    )


OPERATOR = Operator(
    name="rala",
    slot="mixer",
    paper="Fan et al. 2024, arXiv:2411.07635",
    build=RALA,
    ranges={"kernel_size": ODD},
    reference=reference,
    choices={**HEAD_CHOICES, "kernel_size": (3, 5), "gate": (True, False)},
    flops=flops,
    causal=False,
    needs_2d=True,
    rope=True,
    quantizable=("q", "k", "v", "o", "gate"),
    catalogue=(53,),
    complexity="T H K V",
)

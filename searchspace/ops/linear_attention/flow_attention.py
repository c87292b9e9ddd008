"""Flow attention: linear attention in which flow into sinks and out of sources is conserved.

    I_i = 1 / (q_i . sum_j k_j)                O_j = 1 / (k_j . sum_i q_i)              q, k after a sigmoid
    a_i = sigmoid(q_i . sum_j k_j O_j)         c_j = n softmax_j(k_j . sum_i q_i I_i)   allocation, competition
    o_i = a_i I_i q_i^T sum_j k_j (c_j v_j)^T

Wu et al., "Flowformer: Linearizing Transformers with Conservation Flows", arXiv:2202.06258. Causal: every sum is over
the tokens so far, and I, O scale with their number n, so that a source is compared with the sinks up to its own time.
Both factors of a product get eps added; the competition's logit is clipped to [-1, 1]. Padding does not take part.
Heads of a group share keys and values but compete separately. Shapes: B batch, T time, D model width, H heads, K key
dim = V value dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives import linear, recurrence, state_size
from searchspace.primitives.context import State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.registry import Operator

EPS = 1e-6
SUMS = ("count", "k", "q", "k_out", "q_in", "competition")


class FlowAttention(GroupedHeads):
    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v, real = self.capacities(x, tokens)
        kept: State = {}

        def total(name: str, value: Tensor) -> Tensor:
            """Sums [B, T, H, .] over the tokens so far, or [B, 1, H, .] over all."""
            if not self.causal:
                return value.sum(1, keepdim=True)
            sums = value.cumsum(1) + (state[name] if state else 0.0)
            kept[name] = sums[:, -1:].clone()
            return sums

        n = total("count", real).clamp_min(1.0)
        inflow = n / product(q, total("k", k))
        outflow = n / product(k, total("q", q))
        allocation = torch.sigmoid(product(q, total("k_out", k * outflow)) / n)
        logit = (product(k, total("q_in", q * inflow)) / n).clamp(-1.0, 1.0)
        strength = logit.exp() * real
        competition = strength * n / total("competition", strength).clamp_min(EPS)
        S = state["S"] if state else None
        o, S = linear.read((q * inflow / n).unsqueeze(3), k, competition * v, self.causal, S)
        y = self.merge_heads((allocation * o.squeeze(3)).to(x.dtype))
        return y, kept | {"S": S} if state else None

    def capacities(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """sigmoid of q and k, v [B, T, H, K], all 0 at padding, and which tokens are real [B, T, 1, 1]."""
        q, k, v = self.queries_keys_values(x)
        dtype = recurrence.state_dtype(x.dtype)
        q, k, v = q.to(dtype), self.per_head(k).to(dtype), self.per_head(v).to(dtype)
        real = tokens.real(q)
        return q.sigmoid() * real, k.sigmoid() * real, v * real, real

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        S = linear.empty_state(batch_size, self.H, self.K, self.K, device, dtype)
        zero = S["S"].new_zeros(batch_size, 1, 1, 1)
        head = {"count": zero, "competition": zero.expand(-1, -1, self.H, -1).clone()}
        sums = {name: zero.expand(-1, -1, self.H, self.K).clone() for name in SUMS if name not in head}
        return S | head | sums


def product(x: Tensor, y: Tensor) -> Tensor:
    """Inner products of x and y [..., K] plus eps -> [..., 1]."""
    return ((x + EPS) * (y + EPS)).sum(-1, keepdim=True)


def reference(module: FlowAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """By a visibility matrix for every sum, and a weight for each pair of tokens. x [B, T, D] -> [B, T, D]."""
    q, k, v, real = (t.transpose(1, 2) for t in module.capacities(x, tokens))  # [B, H, T, K]
    seen = real.mT.expand(-1, -1, x.shape[1], -1)  # [B, 1, T, T]
    seen = seen.tril() if module.causal else seen
    n = seen.sum(-1, keepdim=True).clamp_min(1.0)
    inflow, outflow = n / product(q, seen @ k), n / product(k, seen @ q)
    allocation = torch.sigmoid(product(q, seen @ (k * outflow)) / n)
    strength = (product(k, seen @ (q * inflow)) / n).clamp(-1.0, 1.0).exp()
    competition = n * strength / (seen @ strength).clamp_min(EPS)
    pairs = (q @ k.mT) * inflow / n * seen * competition.mT
    return module.merge_heads((allocation * (pairs @ v)).transpose(1, 2).to(x.dtype))


def flops(module: FlowAttention, T: int, S: int) -> int:
    return linear.read_flops(module.causal, T, module.H, module.H, module.K, module.K)


OPERATOR = Operator(
    name="flow_attention",
    slot="mixer",
    paper="Wu et al. 2022, arXiv:2202.06258",
    build=FlowAttention,
    reference=reference,
    choices=HEAD_CHOICES,
    flops=flops,
    state_bytes=state_size.fixed,
    catalogue=(42, 66),
    complexity="T H K V",
    state="H (K V + 4 K + 1)",
)

"""Differential attention: each head is the difference of two maps of softmax attention, which cancels common noise.

    o_i = (1 - l0) RMSNorm(sum_j (A1_ij - l A2_ij) v_j)        A_n = softmax(q_n . k_n / sqrt(K / 2)), n = 1, 2
    l = exp(a_1 . b_1) - exp(a_2 . b_2) + l0                   l0 = 0.8 - 0.6 exp(-0.3 layer), layer = 0, 1, ...

Ye et al., "Differential Transformer", arXiv:2410.05258. The norm is over the channels of each head. A head has K
channels as in other mixers, of which the even ones are q_1 and the odd ones q_2 (likewise for keys), so that a narrower
head keeps a part of both; the paper counts half as many heads of twice the width.
Shapes: q [B, T, H, K], k and v [B, S, G, K], a_n and b_n [K / 2].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from searchspace.primitives import state_size
from searchspace.primitives.axes import Axis, normal, ones
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads, rotate
from searchspace.primitives.row_norms import rms_norm
from searchspace.primitives.scores import Places, Visibility, empty_cache, extend_rows, fused_attention
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-5
PARTS = ("1", "2")


class DifferentialAttention(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.rule = Visibility(context.causal)
        self.first_weight = 0.8 - 0.6 * math.exp(-0.3 * context.layer)
        half = Axis.of(K=self.K // 2)
        for part in PARTS:
            self.declare(f"lambda_q{part}", (half,), normal(0.1))
            self.declare(f"lambda_k{part}", (half,), normal(0.1))
        self.declare("difference_norm_weight", (Axis.of(K=self.K),), ones)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.queries_keys_values(x)
        queries = [rotate(part, tokens) for part in parts(q)]
        k = torch.stack([rotate(part, tokens) for part in parts(k)], -1).flatten(-2)
        places, valid = Places.following(0, x.shape[1], x.device), tokens.valid
        if state is not None:
            rows, places, state = extend_rows(state, {"k": k, "v": v}, self.rule, valid)
            k, v, valid = rows["k"], rows["v"], rows.get("valid")
        visible = self.rule.mask(places.queries, places.keys, valid)
        v = self.per_head(v).transpose(1, 2)
        first, second = (
            fused_attention(q.transpose(1, 2), self.per_head(k).transpose(1, 2), v, visible)
            for q, k in zip(queries, parts(k), strict=True)
        )
        y = rms_norm((first - self.weight() * second).transpose(1, 2), self.difference_norm_weight, EPS)
        return self.merge_heads((1 - self.first_weight) * y), state

    def weight(self) -> Tensor:
        """The weight l [] of the second map."""
        one, two = (
            (getattr(self, f"lambda_q{n}") * getattr(self, f"lambda_k{n}")).sum().exp() for n in PARTS
        )
        return one - two + self.first_weight

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        return empty_cache(batch_size, self.G, self.K, device, dtype)


def parts(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [B, T, H, K] -> its two halves [B, T, H, K / 2]."""
    return x[..., 0::2], x[..., 1::2]


def reference(module: DifferentialAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """Two weights for each pair of tokens. x [B, T, D] -> [B, T, D]."""
    q, k, v = module.queries_keys_values(x)
    T = x.shape[1]
    seen = torch.ones(T, T, dtype=torch.bool)
    seen = (seen.tril() if module.rule.causal else seen)[None, :, :, None]
    seen = seen if tokens.valid is None else seen & tokens.valid[:, None, :, None]
    maps = []
    for n in (0, 1):
        one, other = (rotate(t[..., n::2], tokens) for t in (q, module.per_head(k)))
        scores = (one.unsqueeze(2) * other.unsqueeze(1)).sum(-1) / math.sqrt(module.K / 2)  # [B, T, S, H]
        weights = scores.exp() * seen
        maps.append(weights / weights.sum(2, keepdim=True).clamp_min(1e-30))
    a, b, c, d = (getattr(module, f"lambda_{name}") for name in ("q1", "k1", "q2", "k2"))
    share = torch.exp(a @ b) - torch.exp(c @ d) + module.first_weight
    y = ((maps[0] - share * maps[1]).unsqueeze(-1) * module.per_head(v).unsqueeze(1)).sum(2)
    y = y / (y.square().mean(-1, keepdim=True) + EPS).sqrt() * module.difference_norm_weight
    return module.merge_heads((1 - module.first_weight) * y)


def flops(module: DifferentialAttention, T: int, S: int) -> int:
    return 6 * T * S * module.H * module.K


def why_invalid(spec: OpSpec, context: BuildContext) -> str | None:
    if spec["head_dim"] % 4:
        return f"differential_attention: head_dim = {spec['head_dim']} must be a multiple of 4, two halves of pairs"
    return None


OPERATOR = Operator(
    name="differential_attention",
    slot="mixer",
    paper="Differential Transformer, Ye et al. 2024, arXiv:2410.05258",
    build=DifferentialAttention,
    reference=reference,
    choices=HEAD_CHOICES,
    flops=flops,
    state_bytes=state_size.every_token,
    why_invalid=why_invalid,
    rope=True,
    catalogue=(135,),
    complexity="T S H K",
    state="2 S G K",
)

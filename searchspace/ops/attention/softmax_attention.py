"""Score attention with heads in key/value groups, optional window with sinks, and a choice of normalizer.

    s_ij = q_i . k_j / sqrt(K)          o_i = sum_j A(s)_ij v_j          A the normalizer over the keys that i sees

Vaswani et al., arXiv:1706.03762. Settings: multi-head (heads_per_group 1), grouped-query (Ainslie et al.,
arXiv:2305.13245), multi-query (num_groups 1; Shazeer, arXiv:1911.02150), sparse-query (fewer heads than D / K;
Filipek, arXiv:2510.01817), sliding window and sinks (Xiao et al., arXiv:2309.17453).
Shapes: B batch, T queries, S keys, D model width, G groups, R heads per group, H = G R heads, K head dim.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads, rotate
from searchspace.primitives.scores import Visibility, cache_bytes, empty_cache, extend_cache
from searchspace.registry import Nested, Operator
from searchspace.spec.arch import OpSpec


class SoftmaxAttention(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.rule = Visibility(context.causal, spec["window"], spec["sinks"])
        self.fused = spec["normalizer"] == OpSpec("softmax")
        self.normalizer = context.nested("normalizer", spec["normalizer"])

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        q, k, v = self.queries_keys_values(x)
        q, k = rotate(q, tokens), rotate(k, tokens)
        if state is not None:
            k, v, positions, state = extend_cache(state, k, v, self.rule)
            y = self.attend(q, k, v, self.rule.mask(positions[-q.shape[1] :], positions))
        elif tokens.valid is None and not self.rule.window and self.fused:
            y = self.fused_attention(q, k, v, None, is_causal=self.causal)
        else:
            positions = torch.arange(q.shape[1], device=x.device)
            y = self.attend(q, k, v, self.rule.mask(positions, positions, tokens.valid))
        return self.merge_heads(y), state

    def attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
        """q [B, T, H, K], k and v [B, S, G, K], visible [T, S] or [B, 1, T, S] -> [B, T, H, K]."""
        if self.fused and visible.dim() == 2:
            return self.fused_attention(q, k, v, visible)
        if self.fused:  # with padding a row may see nothing, which fused attention would answer with NaN
            seeing = visible.any(-1)
            y = self.fused_attention(q, k, v, visible | ~seeing.unsqueeze(-1))
            return y * seeing.transpose(1, 2).unsqueeze(-1)
        q, k, v = q.transpose(1, 2), self.per_head(k).transpose(1, 2), self.per_head(v).transpose(1, 2)
        weights = self.normalizer(q @ k.transpose(-1, -2) / math.sqrt(self.K), visible)
        return (weights @ v).transpose(1, 2)

    def fused_attention(
        self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, is_causal: bool = False
    ) -> Tensor:
        q, k, v = q.transpose(1, 2), self.per_head(k).transpose(1, 2), self.per_head(v).transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=is_causal).transpose(1, 2)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        return empty_cache(batch_size, self.G, self.K, device, dtype)


def reference(module: SoftmaxAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """One query at a time."""
    q, k, v = module.queries_keys_values(x)
    q, k, v = rotate(q, tokens), module.per_head(rotate(k, tokens)), module.per_head(v)
    B, T, H, K = q.shape
    rows = []
    for b, i in product(range(B), range(T)):
        sees = [j for j in range(T) if _sees(module.rule, i, j)]
        sees = [j for j in sees if tokens.valid is None or tokens.valid[b, j]]
        scores = (q[b, i] * k[b, sees]).sum(-1).T / math.sqrt(K)  # [H, S]
        visible = torch.ones(1, len(sees), dtype=torch.bool)
        weights = module.normalizer(scores.view(1, H, 1, -1), visible).view(H, -1, 1) if sees else 0.0
        rows.append((weights * v[b, sees].transpose(0, 1)).sum(1))  # [H, K]
    return module.merge_heads(torch.stack(rows).view(B, T, H, K))


def _sees(rule: Visibility, i: int, j: int) -> bool:
    if rule.causal and j > i:
        return False
    if not rule.window or j < rule.sinks:
        return True
    return i - j < rule.window if rule.causal else abs(i - j) <= rule.window // 2


def flops(module: SoftmaxAttention, T: int, S: int) -> int:
    keys = module.rule.num_kept(S - T) + T
    return 4 * T * keys * module.H * module.K


def state_bytes(module: SoftmaxAttention, context_len: int, bytes_per_value: int) -> int:
    return cache_bytes(module.rule, context_len, module.G, module.K, bytes_per_value)


def why_invalid(spec: OpSpec, context: BuildContext) -> str | None:
    if spec["sinks"] and not spec["window"]:
        return f"softmax_attention: sinks={spec['sinks']} mean nothing without a window"
    if spec["sinks"] and not context.causal:
        return f"softmax_attention: sinks={spec['sinks']} are for causal networks"
    return None


OPERATOR = Operator(
    name="softmax_attention",
    slot="mixer",
    paper="Vaswani et al. 2017, arXiv:1706.03762; GQA arXiv:2305.13245; MQA arXiv:1911.02150; SQA arXiv:2510.01817",
    build=SoftmaxAttention,
    reference=reference,
    choices={
        **HEAD_CHOICES,
        "window": (0, 16, 64),
        "sinks": (0, 4),
        "normalizer": Nested("normalizer", ("softmax", "sigmoid")),
    },
    flops=flops,
    state_bytes=state_bytes,
    why_invalid=why_invalid,
    rope=True,
    quantizable=("q", "k", "v", "o"),
    complexity="T S H K",
    state="2 S G K, at most 2 (window - 1 + sinks) G K",
)

"""Score attention with heads in key/value groups: window and sinks, QK norm, score bias, temperature, normalizer.

    s_ij = tau_i q_i . k_j / sqrt(K) + b_(i - j)       o_i = sum_j A(s)_ij v_j       A over the keys that i sees

Vaswani et al., arXiv:1706.03762. Settings: multi-head (heads_per_group 1), grouped-query (Ainslie et al.,
arXiv:2305.13245), multi-query (num_groups 1; Shazeer, arXiv:1911.02150), sparse-query (fewer heads than D / K;
Filipek, arXiv:2510.01817), sliding window and sinks (Xiao et al., arXiv:2309.17453), temperature of queries, or of
queries and values (Selective Self-Attention, arXiv:2411.12892, see searchspace.primitives.temperature).
Shapes: B batch, T queries, S keys, D model width, G groups, R heads per group, H = G R heads, K head dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace import registry
from searchspace.kernels import dispatch
from searchspace.primitives import held
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads, rotate
from searchspace.primitives.scores import (
    HeadSizes,
    Visibility,
    empty_cache,
    extend_rows,
    fused_attention,
)
from searchspace.primitives.temperature import Temperature
from searchspace.registry import COUNT, Nested, Operator
from searchspace.spec.arch import NONE, OpSpec


class SoftmaxAttention(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.spec = spec
        self.rule = Visibility(context.causal, spec["window"], spec["sinks"])
        self.fused = spec["normalizer"] == OpSpec("softmax")
        heads = HeadSizes(self.G, self.R, self.K)
        self.normalizer = context.nested("normalizer", spec["normalizer"], heads)
        self.qk_norm, self.score_bias = (
            None if spec[slot] == NONE else context.nested(slot, spec[slot], heads)
            for slot in ("qk_norm", "score_bias")
        )
        kind = spec["temperature"]
        self.temperature = None if kind == "none" else Temperature(kind, context.d_model, heads)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        T, start = x.shape[1], 0 if state is None else state["num_tokens"]
        q, k, v = self.queries_keys_values(x)
        if self.qk_norm is not None:
            q, k = self.qk_norm(q, k)
        q, k = rotate(q, tokens), rotate(k, tokens)
        places = torch.arange(start, start + T, device=x.device)
        if self.temperature is not None:
            q, v = self.temperature(x, q, v, places if tokens.positions is None else tokens.positions)
        if state is not None:
            rows, places, state = extend_rows(state, {"k": k, "v": v}, self.rule, tokens.valid)
            y = self.attend(q, rows["k"], rows["v"], places, rows.get("valid"))
        elif tokens.offsets is not None:
            ends = [(i, j) for i, j in pairwise(tokens.offsets) if i < j]
            alone = [self.attend(q[:, i:j], k[:, i:j], v[:, i:j], places[: j - i], None) for i, j in ends]
            y = torch.cat(alone, 1)
        else:
            y = self.attend(q, k, v, places, tokens.valid)
        return self.merge_heads(y), state

    def attend(self, q: Tensor, k: Tensor, v: Tensor, places: Tensor, valid: Tensor | None) -> Tensor:
        """q [B, T, H, K], k and v [B, S, G, K], places [S] of the keys, the last T of them the queries' too."""
        T, S = q.shape[1], k.shape[1]
        is_full = not self.rule.window and valid is None and T == S  # for torch's own fused attention
        if self.fused and self.score_bias is None and not is_full:
            kernel = dispatch.kernel("attention", q.device, q)
            if kernel is not None:
                y: Tensor = kernel(q, k, v, self.causal, self.rule.window, self.rule.sinks, valid)[0]
                return y
        q, k, v = q.transpose(1, 2), self.per_head(k).transpose(1, 2), self.per_head(v).transpose(1, 2)
        if self.fused and self.score_bias is None and is_full:
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2)
        queries = places[S - T :]
        visible, bias = self.rule.mask(queries, places, valid), None
        if self.score_bias is not None:
            bias = self.score_bias(queries[:, None] - places[None, :])  # [H, T, S]
        if self.fused:
            return fused_attention(q, k, v, visible, bias).transpose(1, 2)
        scores = (q @ k.mT).to(torch.promote_types(q.dtype, torch.float32)) / math.sqrt(self.K)
        weights = self.normalizer(scores if bias is None else scores + bias, visible)
        return (weights.to(v.dtype) @ v).transpose(1, 2)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        return empty_cache(batch_size, self.G, self.K, device, dtype)


def reference(module: SoftmaxAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """A weight for each pair of tokens, each part of the score in its own plain form."""
    T, spec = x.shape[1], module.spec
    q, k, v = module.queries_keys_values(x)
    if module.qk_norm is not None:
        q, k = _plain("qk_norm", spec)(module.qk_norm, q, k).split((module.H, module.G), 2)
    q, k, places = rotate(q, tokens), rotate(k, tokens), torch.arange(T)
    scores = (q.unsqueeze(2) * module.per_head(k).unsqueeze(1)).sum(-1) / math.sqrt(module.K)  # [B, T, S, H]
    scores, v = scores.permute(0, 3, 1, 2), module.per_head(v)
    if module.temperature is not None:
        part = module.temperature
        i = (places + 1 if tokens.positions is None else tokens.positions + 1).to(x.dtype)
        tau = 1 + torch.tanh(x @ part.query_weight).unsqueeze(1)  # [B, 1, T]
        tau = tau + torch.sigmoid(part.position_weight)[:, None] * i.log().unsqueeze(-2)
        scores = scores * tau.unsqueeze(-1)
        if part.on_values:
            v = v + torch.tanh(x @ part.value_weight)[..., None, None] * v
    if module.score_bias is not None:
        scores = scores + _plain("score_bias", spec)(module.score_bias, places[:, None] - places[None, :])
    visible = torch.tensor([[_sees(module.rule, i, j) for j in range(T)] for i in range(T)])
    visible = visible if tokens.valid is None else visible & tokens.valid[:, None, None, :]
    weights = _plain("normalizer", spec)(module.normalizer, scores, visible).to(x.dtype)  # [B, H, T, S]
    return module.merge_heads((weights.unsqueeze(-1) * v.transpose(1, 2).unsqueeze(2)).sum(3).transpose(1, 2))


def _plain(slot: str, spec: OpSpec) -> Callable[..., Tensor]:
    found = registry.operator(slot, spec[slot].op).reference
    assert found is not None
    return found


def _sees(rule: Visibility, i: int, j: int) -> bool:
    if rule.causal and j > i:
        return False
    if not rule.window or j < rule.sinks:
        return True
    return i - j < rule.window if rule.causal else abs(i - j) <= rule.window // 2


def flops(module: SoftmaxAttention, T: int, S: int) -> int:
    keys = module.rule.num_kept(S - T) + T
    return 4 * T * keys * module.H * module.K


def why_invalid(spec: OpSpec, context: BuildContext) -> str | None:
    if spec["sinks"] and not spec["window"]:
        return f"softmax_attention: sinks={spec['sinks']} mean nothing without a window"
    if spec["sinks"] and not context.causal:
        return f"softmax_attention: sinks={spec['sinks']} are for causal networks"
    return None


OPERATOR = Operator(
    name="softmax_attention",
    slot="mixer",
    paper="Vaswani et al. 2017, arXiv:1706.03762; GQA arXiv:2305.13245; MQA arXiv:1911.02150; SQA arXiv:2510.01817; "
    "SSA arXiv:2411.12892",
    build=SoftmaxAttention,
    ranges={"window": COUNT, "sinks": COUNT},
    reference=reference,
    choices={
        **HEAD_CHOICES,
        "window": (0, 16, 64),
        "sinks": (0, 4),
        "normalizer": Nested("normalizer", ("softmax", "sigmoid", "power_softmax", "nap")),
        "qk_norm": Nested("qk_norm", ("none", "qk_l2", "qk_rms", "qk_layernorm")),
        "score_bias": Nested("score_bias", ("none", "alibi", "kerple_log", "kerple_power", "relative_table")),
        "temperature": ("none", "query", "query_value"),
    },
    flops=flops,
    state_bytes=held.tokens(lambda module, n: module.rule.num_kept(n)),
    why_invalid=why_invalid,
    packed=True,
    rope=True,
    catalogue=(33, 71),
    complexity="T S H K",
    state="2 S G K, at most 2 (window - 1 + sinks) G K",
)

"""Score attention with heads in key/value groups: window, sinks, QK norm, score bias, temperature, normalizer.

    s_ij = c tanh(tau_i q_i . k_j / (c sqrt(K))) + b_(i - j)    o_i = sum_j A(s)_ij v_j    A over the keys that i sees

Vaswani et al., arXiv:1706.03762. Settings: multi-head (heads_per_group 1), grouped-query (Ainslie et al.,
arXiv:2305.13245), multi-query (num_groups 1; Shazeer, arXiv:1911.02150), sparse-query (fewer heads than D / K;
Filipek, arXiv:2510.01817), sliding window and sinks (Xiao et al., arXiv:2309.17453), temperature of queries, or of
queries and values (Selective Self-Attention, arXiv:2411.12892, see searchspace.primitives.temperature).

Options, off unless a space names them:
    output_gate     o_i times sigmoid(W_g x_i), a gate for each channel or for each head (Qiu et al., "Gated Attention",
                    arXiv:2505.06708; Qwen3-Next)
    sink_logit      a learned logit s_h per head acts as one more key with value 0: A_ij = e^s_ij / (e^s_h + sum_j
                    e^s_ij) (OpenAI, "gpt-oss", arXiv:2508.10925); `sinks` are first tokens that stay visible
    logit_softcap   c above; 0 is none (Gemma Team, "Gemma 2", arXiv:2408.00118)
    tied_values     v_j is the key before its norm and rotation, W_v = W_k; if keys have neither, a decoder stores
                    keys and values once
    rotary, rotary_share    see searchspace.primitives.heads.rotate
    value_residual  v_j becomes (1 - w_g) v_j + w_g v'_j, v' the values of the first block of the stage with this option
                    and as many groups and channels, w_g a weight for each group, which starts at 1/2 (Zhou et al.,
                    "Value Residual Learning", arXiv:2410.17897)
    keys            "earlier": keys and values are those of the last block before that has its own and the same settings
                    of them; they are kept once (Brandon et al., "Cross-Layer Attention", arXiv:2405.12981; with one
                    such block in the middle and all later ones borrowing, the cache is that of YOCO, Sun et al.,
                    arXiv:2405.05254, whose keys come from a projection between the blocks)
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
from searchspace.primitives import state_size
from searchspace.primitives.axes import Axis, constant, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import (
    HEAD_CHOICES,
    ROTARY_OPTIONS,
    ROTARY_RANGES,
    GroupedHeads,
    rotate,
    why_not_rotary,
)
from searchspace.primitives.local_attention import num_pairs, windowed_attention
from searchspace.primitives.scores import (
    HeadSizes,
    Places,
    Visibility,
    empty_cache,
    extend_rows,
    fused_attention,
)
from searchspace.primitives.temperature import Temperature
from searchspace.registry import COUNT, Nested, Operator, Range
from searchspace.spec.arch import NONE, OpSpec

OPTIONS = {
    **ROTARY_OPTIONS,
    "output_gate": ("none", "element", "head"),
    "sink_logit": (False, True),
    "logit_softcap": (0.0, 50.0),
    "tied_values": (False, True),
    "value_residual": (False, True),
}
MIX = 0.5  # the weight that the values of the first block start with


class SoftmaxAttention(GroupedHeads):
    takes_max_len = True

    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        self.borrows, self.tied = spec.get("keys") == "earlier", spec.get("tied_values", False)
        super().__init__(spec, context, "qo" if self.borrows else "qko" if self.tied else "qkvo")
        self.spec = spec
        self.rule = Visibility(context.causal, spec["window"], spec["sinks"])
        self.rotary = spec.get("rotary", "global"), spec.get("rotary_share", 1.0)
        self.cap, self.gate = spec.get("logit_softcap", 0.0), spec.get("output_gate", "none")
        self.has_sink, self.mixes = spec.get("sink_logit", False), spec.get("value_residual", False)
        self.fused = spec["normalizer"] == OpSpec("softmax") and not self.cap and not self.has_sink
        heads = HeadSizes(self.G, self.R, self.K)
        self.normalizer = context.nested("normalizer", spec["normalizer"], heads)
        self.qk_norm, self.score_bias = (
            None if spec[slot] == NONE else context.nested(slot, spec[slot], heads)
            for slot in ("qk_norm", "score_bias")
        )
        kind = spec["temperature"]
        self.temperature = None if kind == "none" else Temperature(kind, context.d_model, heads)
        plain_keys = self.qk_norm is None and self.rotary[0] == "none" and not self.mixes
        self.keeps_keys_alone = self.tied and plain_keys and kind != "query_value"
        if self.has_sink:
            self.declare("sink_logits", (heads.axis,), zeros)
        if self.mixes:
            self.declare("value_mix", (Axis.of(G=self.G),), constant(MIX))
        if self.gate != "none":
            sizes = {"G": self.G, "R": self.R} | ({"K": self.K} if self.gate == "element" else {})
            gates = context.linear("output_gate", Axis.of(**sizes), Axis.of(D=context.d_model))
            self.add_module("gate_proj" if self.gate == "element" else "head_gate_proj", gates)

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(q [B, T, H, K], k [B, T, G, K], v [B, T, G, K]) of x [B, T, D]."""
        if not self.tied:
            return super().queries_keys_values(x)
        k = self.k_proj(x).unflatten(2, (self.G, self.K))
        return self.q_proj(x).unflatten(2, (self.H, self.K)), k, k

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        if self.borrows:
            return self.merge_heads(self.borrowing(x, tokens)), None
        T, start = x.shape[1], 0 if state is None else state["num_tokens"]
        q, k, v = self.queries_keys_values(x)
        if self.qk_norm is not None:
            q, k = self.qk_norm(q, k)
        q, k = rotate(q, tokens, *self.rotary), rotate(k, tokens, *self.rotary)
        places = Places.following(start, T, x.device)
        if self.temperature is not None:
            q, v = self.temperature(x, q, v, places.queries if tokens.positions is None else tokens.positions)
        if self.mixes:
            v = self.mixed(v, tokens)
        valid = tokens.valid
        if state is not None:
            new = {"k": k} if self.keeps_keys_alone else {"k": k, "v": v}
            rows, places, state = extend_rows(state, new, self.rule, valid)
            k, v, valid = rows["k"], rows.get("v", rows["k"]), rows.get("valid")
        tokens.lend(keys_of(self.spec), (k, v, places, valid))
        y = self.attend_all(q, k, v, places, valid, tokens.offsets)
        return self.merge_heads(self.gated(y, x)), state

    def mixed(self, v: Tensor, tokens: Tokens) -> Tensor:
        """The values v [B, T, G, K] mixed with those of the first block by value_mix; [B, T, G, K]."""
        name = "values", self.G, self.K
        first = tokens.borrow(name)
        if first is None:
            tokens.lend(name, v)
            return v
        return torch.lerp(v, first, self.value_mix.unsqueeze(-1))

    def borrowing(self, x: Tensor, tokens: Tokens) -> Tensor:
        """Attend with the queries of x to the keys and values of an earlier block; heads are not merged.

        x [B, T, D] -> [B, T, H, K]. Raises ValueError if no earlier block lent keys of these settings.
        """
        lent = tokens.borrow(keys_of(self.spec))
        if lent is None:
            raise ValueError("softmax_attention: keys = 'earlier', but no block before has such keys")
        k, v, places, valid = lent
        q = rotate(self.q_proj(x).unflatten(2, (self.H, self.K)), tokens, *self.rotary)
        if self.temperature is not None:
            q, _ = self.temperature(x, q, v, places.queries if tokens.positions is None else tokens.positions)
        return self.gated(self.attend_all(q, k, v, places, valid, tokens.offsets), x)

    def gated(self, y: Tensor, x: Tensor) -> Tensor:
        """y [B, T, H, K] times the output gate of x [B, T, D]; [B, T, H, K]."""
        if self.gate == "none":
            return y
        gates = (
            self.gate_proj(x).view_as(y) if self.gate == "element" else self.head_gate_proj(x).unsqueeze(-1)
        )
        return y * torch.sigmoid(gates)

    def attend_all(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        places: Places,
        valid: Tensor | None,
        offsets: tuple[int, ...] | None,
    ) -> Tensor:
        """`attend` within each packed sequence; `offsets` are their boundaries, None for unpacked batches.

        q [B, T, H, K], k and v [B, S, G, K] -> [B, T, H, K].
        """
        if offsets is None:
            return self.attend(q, k, v, places, valid)
        ends = [(i, j) for i, j in pairwise(offsets) if i < j]
        first = places.queries
        alone = [
            self.attend(q[:, i:j], k[:, i:j], v[:, i:j], Places(first[: j - i], first[: j - i]), None)
            for i, j in ends
        ]
        return torch.cat(alone, 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, places: Places, valid: Tensor | None) -> Tensor:
        """Attention before heads are merged: q [B, T, H, K], k and v [B, S, G, K], valid [B, S] -> [B, T, H, K]."""
        T, S = q.shape[1], k.shape[1]
        if self.fused and self.score_bias is None:
            if self.rule.window or valid is not None or T != S:
                return self.attend_masked(q, k, v, places, valid)
            q, k, v = q.transpose(1, 2), self.per_head(k).transpose(1, 2), self.per_head(v).transpose(1, 2)
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2)
        q, k, v = q.transpose(1, 2), self.per_head(k).transpose(1, 2), self.per_head(v).transpose(1, 2)
        visible, bias = self.rule.mask(places.queries, places.keys, valid), None
        if self.score_bias is not None:
            bias = self.score_bias(places.queries[:, None] - places.keys[None, :])  # [H, T, S]
        if self.fused:
            return fused_attention(q, k, v, visible, bias).transpose(1, 2)
        scores = (q @ k.mT).to(torch.promote_types(q.dtype, torch.float32)) / math.sqrt(self.K)
        if self.cap:
            scores = self.cap * torch.tanh(scores / self.cap)
        scores = scores if bias is None else scores + bias
        if self.has_sink:
            sink = self.sink_logits.to(scores.dtype).view(-1, 1, 1).expand(*scores.shape[:3], 1)
            seen = visible.expand(*visible.shape[:-2], T, S)
            everywhere = seen.new_ones(*seen.shape[:-1], 1)
            scores, seen = torch.cat((scores, sink), -1), torch.cat((seen, everywhere), -1)
            weights = self.normalizer(scores, seen)[..., :-1]
        else:
            weights = self.normalizer(scores, visible)
        return (weights.to(v.dtype) @ v).transpose(1, 2)

    def attend_masked(self, q: Tensor, k: Tensor, v: Tensor, places: Places, valid: Tensor | None) -> Tensor:
        """Softmax attention with plain scores under a window, padding or a cache; shapes as in `attend`."""
        kernel = dispatch.kernel("attention", q.device, q)
        alone = q.shape[1] == 1 and not self.rule.window  # visibility of a single query is a mask of keys
        if kernel is None or not (places.is_last or alone):
            return windowed_attention(q, self.per_head(k), self.per_head(v), self.rule, places, valid)
        seen = valid if places.is_last else (places.keys <= places.queries).expand(k.shape[:2])
        y: Tensor = kernel(q, k, v, self.causal, self.rule.window, self.rule.sinks, seen)[0]
        return y

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        if self.borrows:
            return {}
        state = empty_cache(batch_size, self.G, self.K, device, dtype)
        return {name: rows for name, rows in state.items() if not (name == "v" and self.keeps_keys_alone)}


def keys_of(spec: OpSpec) -> tuple[object, ...]:
    """The settings in which two specs must agree for one block to borrow the other's keys and values."""
    names = ("num_groups", "head_dim", "window", "sinks")
    return "keys", *(spec[n] for n in names), *(spec.get(n, ROTARY_OPTIONS[n][0]) for n in ROTARY_OPTIONS)


def reference(module: SoftmaxAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """The forward pass from explicit weights of all pairs of tokens. x [B, T, D] -> [B, T, D]."""
    T, spec = x.shape[1], module.spec
    q, k, v = module.queries_keys_values(x)
    if module.qk_norm is not None:
        q, k = _plain("qk_norm", spec)(module.qk_norm, q, k).split((module.H, module.G), 2)
    q, k, places = rotate(q, tokens, *module.rotary), rotate(k, tokens, *module.rotary), torch.arange(T)
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
    if module.cap:
        scores = module.cap * torch.tanh(scores / module.cap)
    if module.score_bias is not None:
        scores = scores + _plain("score_bias", spec)(module.score_bias, places[:, None] - places[None, :])
    visible = torch.tensor([[_sees(module.rule, i, j) for j in range(T)] for i in range(T)])
    visible = visible if tokens.valid is None else visible & tokens.valid[:, None, None, :]
    weights = _plain("normalizer", spec)(module.normalizer, scores, visible).to(x.dtype)  # [B, H, T, S]
    if module.has_sink:
        weights = (scores.exp() * visible).to(x.dtype)
        weights = weights / (weights.sum(-1, keepdim=True) + module.sink_logits.exp().view(-1, 1, 1))
    y = (weights.unsqueeze(-1) * v.transpose(1, 2).unsqueeze(2)).sum(3).transpose(1, 2)
    return module.merge_heads(module.gated(y, x))


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
    is_fused = module.fused and module.score_bias is None  # the others compute all T x S pairs
    pairs = num_pairs(module.rule, T, S) if is_fused else T * (module.rule.num_kept(S - T) + T)
    return 4 * pairs * module.H * module.K


def why_invalid(spec: OpSpec, context: BuildContext) -> str | None:
    if spec["sinks"] and not spec["window"]:
        return f"softmax_attention: sinks={spec['sinks']} mean nothing without a window"
    if spec["sinks"] and not context.causal:
        return f"softmax_attention: sinks={spec['sinks']} are for causal networks"
    if spec.get("sink_logit") and spec["normalizer"] != OpSpec("softmax"):
        return (
            f"softmax_attention: sink_logit joins the sum of softmax, and normalizer is {spec['normalizer']}"
        )
    if spec.get("keys") == "earlier":
        kept = {"qk_norm": NONE, "tied_values": False, "value_residual": False}
        found = [name for name, off in kept.items() if spec.get(name, off) != off]
        if found or spec["temperature"] == "query_value":
            name = found[0] if found else "temperature"
            return (
                f"softmax_attention: {name}={spec[name]} is for own keys and values, not for keys='earlier'"
            )
    return why_not_rotary(spec)


OPERATOR = Operator(
    name="softmax_attention",
    slot="mixer",
    paper="Vaswani et al. 2017, arXiv:1706.03762; GQA arXiv:2305.13245; MQA arXiv:1911.02150; SQA arXiv:2510.01817; "
    "SSA arXiv:2411.12892; gates arXiv:2505.06708; sink logits arXiv:2508.10925; value residual arXiv:2410.17897; "
    "CLA arXiv:2405.12981",
    build=SoftmaxAttention,
    ranges={
        "window": COUNT,
        "sinks": COUNT,
        "logit_softcap": Range(0, 2**20, fractions=True),
        "keys": ("own", "earlier"),
        **ROTARY_RANGES,
    },
    options=OPTIONS,
    fixed={"keys": "own"},
    borrows=lambda spec: spec.get("keys") == "earlier" or spec.get("value_residual", False),
    lends=lambda spec: None if spec.get("keys") == "earlier" else keys_of(spec),
    lender=lambda spec: (
        OpSpec.of(spec.op, **dict(spec.items) | {"keys": "own"}) if spec.get("keys") == "earlier" else None
    ),
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
    state_bytes=state_size.tokens(lambda module, n: module.rule.num_kept(n)),
    why_invalid=why_invalid,
    packed=True,
    rope=True,
    catalogue=(33, 71),
    complexity="T S H K",
    state="2 S G K, at most 2 (window - 1 + sinks) G K",
)

"""Gated linear attention: linear attention whose state decays per channel, at a rate that depends on the token.

    S_t = diag(a_t) S_{t-1} + k_t v_t^T          o_t = S_t^T q_t
    log a_t = log sigmoid(W_2 W_1 x_t + b) / tau         y = W_o (w * rms(o_t) * silu(W_g x_t))

Yang et al., "Gated Linear Attention Transformers with Hardware-Efficient Training", arXiv:2312.06635. The norm over
each head cancels the scale 1 / sqrt(K), which is left out. Gates belong to the key/value group, as keys do. With
`init_rank` r > 0 the state starts as a learned S_0 = sum_{i <= r} a_i b_i^T, which Lemerle et al., "Lina-Speech",
arXiv:2410.23320, use for a speaker; with 0 it starts empty. `temperature` is tau and `gate_rank` the rank P of W_2 W_1,
both 16 as published; published values are twice as wide as keys: `expand_v` 2, see `searchspace.primitives.wide_heads`.
Shapes: B batch, T time, D model width, G groups, R heads per group, H = G R, K key dim, V value dim, P gate rank.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import recurrence, state_size
from searchspace.primitives.axes import Axis, fan_in, normal, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES
from searchspace.primitives.wide_heads import EXPAND_V, WideHeads
from searchspace.registry import COUNT, Operator, Range
from searchspace.spec.arch import OpSpec

EPS = 1e-6
TEMPERATURE = 16.0
GATE_RANK = 16
INIT_STD = 0.02


class GatedLinearAttention(WideHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        group, rank = Axis.of(G=self.G, K=self.K), Axis.of(P=spec.get("gate_rank", GATE_RANK))
        self.temperature = spec.get("temperature", TEMPERATURE)
        self.declare("decay_reduce", (rank, self.d_model), fan_in())
        self.declare("decay_expand", (group, rank), fan_in())
        self.declare("decay_bias", (group,), zeros)
        self.declare(self.named("norm_weight"), (self.width,), ones)
        self.init_rank = spec["init_rank"]
        if self.init_rank:
            pairs = Axis.of(P=self.init_rank)
            self.declare("init_keys", (group, pairs), normal(INIT_STD))
            self.declare(self.named("init_values"), (self.values, pairs), normal(INIT_STD))
        self.add_module(self.named("gate_proj"), context.linear("gate", self.reads, self.d_model))

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v, log_a = self.gated(x, tokens)
        o, S = recurrence.recurrence_chunked(q, k, v, log_a, state["S"] if state else self.first_state(x))
        state = {"S": S} if state else None
        return self.output(o, x), state

    def first_state(self, x: Tensor) -> Tensor | None:
        """S_0 for every sequence of x [B, T, D]: [B, G, K, V]; None where it is empty."""
        if not self.init_rank:
            return None
        keys, values = self.first_pairs()
        pairs = keys.unsqueeze(2) * values.unsqueeze(1)  # [G, K, V, P]
        return pairs.sum(-1).to(recurrence.state_dtype(x.dtype)).expand(x.shape[0], -1, -1, -1)

    def first_pairs(self) -> tuple[Tensor, Tensor]:
        """The factors a_i [G, K, P] and b_i [G, V, P] of S_0."""
        return self.init_keys.view(self.G, self.K, -1), self.own("init_values").view(self.G, self.V, -1)

    def gated(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q [B, T, G, R, K], k and log decay [B, T, G, K], v [B, T, G, V]; padding neither writes nor forgets."""
        q = self.q_proj(x).unflatten(2, (self.G, self.R, self.K))
        k = self.k_proj(x).unflatten(2, (self.G, self.K))
        v = self.own("v_proj")(x).unflatten(2, (self.G, self.V))
        gate = F.linear(F.linear(x, self.decay_reduce), self.decay_expand, self.decay_bias)
        log_a = F.logsigmoid(gate).view_as(k) / self.temperature
        return q, tokens.without_padding(k), v, tokens.without_padding(log_a)

    def output(self, o: Tensor, x: Tensor) -> Tensor:
        """o [B, T, G, R, V], x [B, T, D] -> [B, T, D]."""
        o = F.rms_norm(o, o.shape[-1:], self.own("norm_weight"), EPS).flatten(2)
        y: Tensor = self.own("o_proj")(o * F.silu(self.own("gate_proj")(x)))
        return y

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        first = self.first_state(torch.empty(batch_size, 0, dtype=dtype))
        if first is None:
            return {"S": recurrence.empty_state(batch_size, self.G, self.K, self.V, device, dtype)}
        return {"S": first.to(device).contiguous()}


def reference(module: GatedLinearAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    q, k, v, log_a = module.gated(x, tokens)
    o, _ = recurrence.recurrence_reference(q, k, v, log_a)
    if module.init_rank:  # what remains of each pair of S_0 after its decay
        left = log_a.cumsum(1).exp()  # [B, T, G, K]
        o = o + torch.einsum("btgrk,btgk,gkp,gvp->btgrv", q, left, *module.first_pairs())
    return module.output(o, x)


def flops(module: GatedLinearAttention, T: int, S: int) -> int:
    gates = 2 * T * (module.decay_reduce.numel() + module.decay_expand.numel())
    return gates + recurrence.chunked_flops(T, module.H, module.G, module.K, module.V, vector_decay=True)


OPERATOR = Operator(
    name="gated_linear_attention",
    slot="mixer",
    paper="Yang et al. 2023, arXiv:2312.06635",
    build=GatedLinearAttention,
    ranges={
        "init_rank": COUNT,
        "temperature": Range(0, 1000, above=True, fractions=True),
        "expand_v": EXPAND_V,
    },
    reference=reference,
    choices={**HEAD_CHOICES, "init_rank": (0, 1, 4)},
    fixed={"gate_rank": GATE_RANK, "temperature": TEMPERATURE, "expand_v": 1},
    flops=flops,
    state_bytes=state_size.fixed,
    bidirectional=False,
    catalogue=(72, 82),
    quantizable=("q", "k", "v", "o", "gate"),
    complexity="T H K V",
    state="G K V",
)

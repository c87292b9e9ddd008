"""Log-linear attention: one state per span of the past, with spans that double in length the further back they are.

    o_t = sum_s lambda_t[l(t, s)] (prod_{s < i <= t} a_i) (q_t . k_s) v_s          l(t, s) = min(bits of t xor s, L - 1)
    log a_t = -exp(A) softplus(W_a x_t + b)          lambda_t = softplus(W_l x_t + c)
    y = W_o (w * rms(o_t) * silu(W_g x_t))

Guo et al., "Log-Linear Attention", arXiv:2506.04761, on a gated recurrence like their log-linear Mamba-2. The levels l
are those of a Fenwick tree: a token has level 0 for itself, and the spans of 1, 2, 4, ... tokens before it that match
the binary digits of its place have levels 1, 2, 3, ... The paper has as many levels as the longest sequence needs; here
the last of L levels holds everything further back, so that the state has a fixed size for sequences of any length. With
equal lambda this is the gated recurrence with one state. A chunk of C tokens computes its own pairs densely, and reads
the L states of earlier spans: a span that ends before a chunk has the same level for all of its tokens, since spans are
aligned. Shapes: B batch, T time, D model width, G groups, R heads per group, H = G R, K key dim = V value dim, L
levels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import recurrence, state_size
from searchspace.primitives.axes import Axis, constant, fan_in, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.delta import step_bias
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec

EPS = 1e-6
ONE = math.log(math.e - 1)  # softplus(ONE) = 1


class LogLinearAttention(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.L = spec["num_levels"]
        d_model, groups = Axis.of(D=context.d_model), Axis.of(G=self.G)
        levels = Axis.of(G=self.G, levels=self.L)
        self.declare("step_weight", (groups, d_model), fan_in())
        self.declare("step_bias", (groups,), step_bias)
        self.declare("log_rate", (groups,), zeros)
        self.declare("level_weight", (levels, d_model), fan_in())
        self.declare("level_bias", (levels,), constant(ONE))
        self.declare("norm_weight", (Axis.of(K=self.K),), ones)
        self.gate_proj = context.linear("gate", Axis.of(G=self.G, R=self.R, K=self.K), d_model)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        n, S = (state["num_tokens"], state["S"]) if state else (0, self.empty(x))
        parts = self.parts(x, tokens)
        lengths, outputs = recurrence.chunk_lengths(x.shape[1]), []
        for q, k, v, log_a, weights in zip(*(p.split(lengths, p.dim() - 2) for p in parts), strict=True):
            o, S = self.one_chunk(q, k, v, log_a, weights, S, n)
            outputs.append(o)
            n += q.shape[3]
        o = torch.cat(outputs, 3).permute(0, 3, 1, 2, 4).to(x.dtype)
        return self.output(o, x), {"num_tokens": n, "S": S} if state else None

    def parts(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, ...]:
        """q [B, G, R, T, K], k [B, G, T, K], v [B, G, T, V], log a [B, G, T, 1], lambda [B, G, T, L], at least float32.

        Padding neither writes nor forgets.
        """
        q, k, v = self.queries_keys_values(x)
        log_a = -self.log_rate.exp() * F.softplus(F.linear(x, self.step_weight, self.step_bias))
        k, log_a = tokens.without_padding(k), tokens.without_padding(log_a).unsqueeze(-1)
        weights = F.softplus(F.linear(x, self.level_weight, self.level_bias)).unflatten(2, (self.G, self.L))
        dtype = recurrence.state_dtype(x.dtype)
        q = q.unflatten(2, (self.G, self.R)).permute(0, 2, 3, 1, 4).to(dtype)
        return q, *(t.transpose(1, 2).to(dtype) for t in (k, v, log_a, weights))

    def one_chunk(
        self, q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, weights: Tensor, S: Tensor, n: int
    ) -> tuple[Tensor, Tensor]:
        """Compute tokens n, n + 1, ... from the states S [B, G, L, K, V] of the spans before n.

        Returns o [B, G, R, C, V] and the states of the spans before n + C.
        """
        C, total = k.shape[2], log_a.cumsum(2)
        places = torch.arange(n, n + C, device=k.device)
        starts = torch.tensor([(n >> level) << level for level in range(self.L)], device=k.device)
        starts[-1] = 0
        own = weights.gather(3, self.levels(places, places).expand(*weights.shape[:3], C))
        o = (recurrence.pairs(q, k, total) * own.unsqueeze(2)).flatten(2, 3) @ v
        older = (
            weights.gather(3, self.levels(places, starts).expand(*weights.shape[:3], self.L)) * total.exp()
        )
        read = q.flatten(2, 3) @ S.permute(0, 1, 3, 2, 4).flatten(3, 4)  # [B, G, R C, L V]
        read = read.unflatten(3, (self.L, -1)).unflatten(2, (self.R, C))
        o = o.unflatten(2, (self.R, C)) + (read * older.unsqueeze(2).unsqueeze(-1)).sum(-2)
        end, left = torch.tensor([n + C], device=k.device), total[:, :, -1:].exp().unsqueeze(-1)
        kept = torch.zeros_like(S).index_add(2, self.levels(end, starts)[0], S * left)
        is_level = self.levels(end, places)[0] == torch.arange(self.L, device=k.device).unsqueeze(
            -1
        )  # [L, C]
        to_end = (total[:, :, -1:] - total).exp() * k
        return o, kept + (to_end.unsqueeze(2) * is_level.unsqueeze(-1)).mT @ v.unsqueeze(2)

    def levels(self, later: Tensor, earlier: Tensor) -> Tensor:
        """The level [T, S] of each earlier place [S] for each later one [T]; a span is given by its first place."""
        differing = later.unsqueeze(-1) ^ earlier
        bits = torch.arange(self.L - 1, device=later.device)
        return ((differing.unsqueeze(-1) >> bits) > 0).sum(-1)

    def output(self, o: Tensor, x: Tensor) -> Tensor:
        """o [B, T, G, R, V], x [B, T, D] -> [B, T, D]."""
        o = F.rms_norm(o, o.shape[-1:], self.norm_weight, EPS).flatten(2)
        return self.o_proj(o * F.silu(self.gate_proj(x)))

    def empty(self, x: Tensor) -> Tensor:
        """The states before the first token [B, G, L, K, V], for x [B, ...]."""
        dtype = recurrence.state_dtype(x.dtype)
        return x.new_zeros(x.shape[0], self.G, self.L, self.K, self.K, dtype=dtype)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        return {"num_tokens": 0, "S": self.empty(torch.empty(batch_size, 0, device=device, dtype=dtype))}


def reference(module: LogLinearAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """By a weight for every pair of tokens. x [B, T, D] -> [B, T, D]."""
    q, k, v, log_a, weights = module.parts(x, tokens)
    T, L = x.shape[1], module.L
    level = torch.tensor([[min((t ^ s).bit_length(), L - 1) for s in range(T)] for t in range(T)])
    total = log_a.squeeze(-1).cumsum(2)  # [B, G, T]
    decay = (total.unsqueeze(-1) - total.unsqueeze(-2)).tril().exp().tril()
    pairs = decay * weights.gather(3, level.expand(*weights.shape[:2], T, T))
    o = torch.einsum("bgrik,bgjk,bgij,bgjv->bigrv", q, k, pairs, v)
    return module.output(o.to(x.dtype), x)


def flops(module: LogLinearAttention, T: int, S: int) -> int:
    H, G, K, L = module.H, module.G, module.K, module.L
    found = 2 * T * (module.step_weight.numel() + module.level_weight.numel())
    for C in recurrence.chunk_lengths(T):
        own = recurrence.pairs_flops(H, K, C, False) + 2 * H * C * C * K
        found += own + 2 * (H + G) * C * L * K * K
    return found


OPERATOR = Operator(
    name="log_linear_attention",
    slot="mixer",
    paper="Guo et al. 2025, arXiv:2506.04761",
    build=LogLinearAttention,
    reference=reference,
    choices={**HEAD_CHOICES, "num_levels": (5, 10)},
    ranges={"num_levels": Range(2, 32, "there is a level for the token itself and one for all before it")},
    flops=flops,
    state_bytes=state_size.fixed,
    bidirectional=False,
    catalogue=(133,),
    quantizable=("q", "k", "v", "o", "gate"),
    complexity="T L H K V",
    state="L G K V",
)

"""LoLCATs: softmax weights for the last tokens and feature weights for all older ones, under one divisor.

    o_i = (g sum_W e_ij v_j + sum_F f_ij v_j) / (g sum_W e_ij + sum_F f_ij)          g = sigmoid(w_h)
    W: i - w < j <= i,  e_ij = exp(q_i . k_j / sqrt(K) - m_i),  m_i their largest          F: j <= i - w
    f_ij = phi(q_i) . psi(k_j)          phi(x) = [softmax(A x), softmax(-A x)], psi likewise with another map

Zhang et al., "LoLCATs: On Low-Rank Linearizing of Large Language Models", arXiv:2410.10254. Rotary positions are
applied before the features. m_i is part of the function: it determines how the two kinds of weights compare. A key is
added to the state when it leaves the window. A window over the whole sequence is softmax attention. The key map belongs
to the group here, so a decoder keeps one state for its heads. Shapes: B batch, T time, D model width, G groups, R heads
per group, K key dim = V value dim, 2 K features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import banded, recurrence, state_size
from searchspace.primitives.axes import Axis, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads, rotate
from searchspace.primitives.scores import empty_cache
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class Lolcats(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.window = spec["window"]
        square = (Axis.of(K=self.K), Axis.of(K=self.K))
        self.declare("q_features", (Axis.of(G=self.G), Axis.of(R=self.R), *square), identities)
        self.declare("k_features", (Axis.of(G=self.G), *square), identities)
        self.declare("window_gate", (Axis.of(G=self.G, R=self.R),), zeros)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.turned(x, tokens)
        cache = state["cache"] if state else None
        keys = banded.extended(k, self.window, cache["k"] if cache else None)
        values = banded.extended(v, self.window, cache["v"] if cache else None)
        num_kept = cache["k"].shape[1] if cache else 0
        near, total = banded.banded_attention(q, keys, values, self.window, tokens.valid, num_kept)
        far, S = self.older(q, keys, values, tokens, num_kept, state["S"] if state else None)
        gate = torch.sigmoid(self.window_gate).view(self.G, self.R, 1)
        o = banded.divided(gate * near + far[..., :-1], gate * total + far[..., -1:])
        y = self.o_proj(o.flatten(2))
        return y, {"S": S, "cache": banded.after(cache, keys, values, self.window)} if cache else None

    def turned(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, T, G, R, K] and k [B, T, G, K] with rotary positions, v [B, T, G, V]."""
        q, k, v = self.queries_keys_values(x)
        return rotate(q, tokens).unflatten(2, (self.G, self.R)), rotate(k, tokens), v

    def older(
        self, q: Tensor, keys: Tensor, values: Tensor, tokens: Tokens, num_kept: int, S: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Sums over the keys that left the window before each query [B, T, G, R, V + 1], and the final state.

        After query i, key i of `keys` [B, w - 1 + T, G, K] leaves the window; it is therefore written after the read.
        """
        T = q.shape[1]
        k = features(keys[:, :T].unsqueeze(3), self.k_features.unsqueeze(1)).squeeze(3)
        k = k * self.is_key(q, tokens, num_kept)[:, :T, None, None]
        v = F.pad(values[:, :T], (0, 1), value=1.0)
        late_k, late_v = (F.pad(t, (0, 0, 0, 0, 1, 0))[:, :T] for t in (k, v))
        o, S = recurrence.recurrence_chunked(features(q, self.q_features), late_k, late_v, None, S)
        last_k, last_v = k[:, -1].to(S.dtype), v[:, -1].to(S.dtype)
        return o, S + last_k.unsqueeze(-1) * last_v.unsqueeze(-2)

    def is_key(self, q: Tensor, tokens: Tokens, num_kept: int) -> Tensor:
        """[B, w - 1 + T], False where `keys` has padding or no token."""
        real = torch.ones(q.shape[:2], dtype=torch.bool, device=q.device)
        real = real if tokens.valid is None else tokens.valid
        return F.pad(F.pad(real, (num_kept, 0), value=True), (self.window - 1 - num_kept, 0))

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        S = recurrence.empty_state(batch_size, self.G, 2 * self.K, self.K + 1, device, dtype)
        return {"S": S, "cache": empty_cache(batch_size, self.G, self.K, device, dtype)}


def features(x: Tensor, weight: Tensor) -> Tensor:
    """x [B, T, G, R, K], weight [G, R, N, K] -> [B, T, G, R, 2 N]."""
    y = torch.einsum("btgrk,grnk->btgrn", x, weight)  # one product per head; @ needs one per token
    return torch.cat((y.softmax(-1), (-y).softmax(-1)), -1)


def identities(tensor: Tensor) -> None:
    """Fill tensor [..., N, N] with identity matrices."""
    tensor.copy_(torch.eye(tensor.shape[-1]).expand_as(tensor))


def reference(module: Lolcats, x: Tensor, tokens: Tokens) -> Tensor:
    """A weight for each pair of tokens, by its kind. x [B, T, D] -> [B, T, D]."""
    q, k, v = module.turned(x, tokens)
    T, w = x.shape[1], module.window
    ones = torch.ones(T, T, dtype=torch.bool)
    real = ones[:1] if tokens.valid is None else tokens.valid
    seen = real[:, None, None, None]  # [B, 1, 1, 1, j]
    scores = torch.einsum("bigrk,bjgk->bgrij", q, k) / module.K**0.5
    inside = ones.tril().triu(1 - w) & seen
    top = scores.masked_fill(~inside, -1e30).amax(-1, keepdim=True)
    gate = torch.sigmoid(module.window_gate).view(module.G, module.R, 1, 1)
    weights = gate * torch.where(inside, scores - top, -1e30).exp()
    maps = torch.einsum("bigrk,grnk->bigrn", q, module.q_features)
    key_maps = torch.einsum("bjgk,gnk->bjgn", k, module.k_features)
    for sign in (1, -1):
        pairs = torch.einsum("bigrn,bjgn->bgrij", (sign * maps).softmax(-1), (sign * key_maps).softmax(-1))
        weights = weights + pairs * (ones.tril(-w) & seen)
    total = weights.sum(-1, keepdim=True)
    weights = weights / torch.where(total > 0, total, 1.0)
    return module.o_proj(torch.einsum("bgrij,bjgv->bigrv", weights, v).flatten(2))


def flops(module: Lolcats, T: int, S: int) -> int:
    G, H, K = module.G, module.H, module.K
    mapped = 2 * T * (H + G) * K * K
    return (
        mapped
        + banded.banded_flops(T, module.window, H, K, K)
        + recurrence.chunked_flops(T, H, G, 2 * K, K + 1)
    )


OPERATOR = Operator(
    name="lolcats",
    slot="mixer",
    paper="Zhang et al. 2024, arXiv:2410.10254",
    build=Lolcats,
    reference=reference,
    choices={**HEAD_CHOICES, "window": (8, 16, 64)},
    flops=flops,
    state_bytes=state_size.tokens(lambda module, n: min(n, module.window - 1)),
    bidirectional=False,
    rope=True,
    catalogue=(50,),
    complexity="T H K V + T w H K",
    state="2 G K (V + 1) + 2 (w - 1) G K",
)

"""Softmax attention with an explicit map of weights, for designs that select or change single weights.

    A_ij = softmax_j(q_i . k_j / sqrt(K)) over the pairs that `allowed` permits
    o_i = sum_j `reweighed`(A)_ij v_j

A design may store facts about each token together with its key and value; a decoder caches them in the same way.
Shapes: B batch, T queries, S keys, H heads; weights [B, H, T, S]; facts [B, T, ...].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import GroupedHeads, rotate
from searchspace.primitives.row_statistics import masked_softmax
from searchspace.primitives.scores import Places, Visibility, empty_cache, extend_rows
from searchspace.spec.arch import OpSpec

Rows = dict[str, Tensor]


class MapAttention(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.d_model, self.rule = context.d_model, Visibility(context.causal)

    def facts(self, x: Tensor, tokens: Tokens) -> Rows:
        """Return what later queries need to know about each of these tokens, [B, T, ...] by name."""
        return {}

    def allowed(self, visible: Tensor, rows: Rows, tokens: Tokens) -> Tensor:
        """visible [B or 1, 1, T, S] -> the pairs in the softmax, [B or 1, 1, T, S]."""
        return visible

    def reweighed(self, weights: Tensor, rows: Rows) -> Tensor:
        """Softmax weights [B, H, T, S] -> the weights of the values [B, H, T, S]."""
        return weights

    def carried(self, state: State, weights: Tensor) -> State:
        """Return the state updated with sums over the weights [B, H, T, S] of all queries."""
        return state

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        weights, rows, state = self.map(x, tokens, state)
        y = self.reweighed(weights, rows).to(x.dtype) @ self.per_head(rows["v"]).transpose(1, 2)
        return self.merge_heads(y.transpose(1, 2)), state

    def map(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, Rows, State | None]:
        """Return the softmax weights [B, H, T, S] in at least float32, all rows, and the state after these tokens."""
        q, k, v = self.rotated(x, tokens)
        rows = {"k": k, "v": v, **self.facts(x, tokens)}
        places = Places.following(0, x.shape[1], x.device)
        if state is not None:
            rows, places, state = extend_rows(state, rows, self.rule, tokens.valid)
        elif tokens.valid is not None:
            rows["valid"] = tokens.valid
        visible = self.rule.mask(places.queries, places.keys, rows.get("valid"))
        visible = visible if visible.dim() == 4 else visible[None, None]
        q, k = q.transpose(1, 2), self.per_head(rows["k"]).transpose(1, 2)
        scores = (q @ k.mT).to(torch.promote_types(x.dtype, torch.float32)) / math.sqrt(self.K)
        weights = masked_softmax(scores, self.allowed(visible, rows, tokens))
        return weights, rows, None if state is None else self.carried(state, weights)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        nothing = torch.empty(batch_size, 0, self.d_model, device=device, dtype=dtype)
        facts = {name: row[:, :0] for name, row in self.facts(nothing, Tokens()).items()}
        return empty_cache(batch_size, self.G, self.K, device, dtype) | facts


def flops(module: MapAttention, T: int, S: int) -> int:
    return 4 * T * S * module.H * module.K


def pairs_reference(module: MapAttention, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
    """exp(q_i . k_j / sqrt(K)) and visible pairs, both [B, H, T, T], and values [B, H, T, K], computed plainly."""
    q, k, v = module.queries_keys_values(x)
    q, k = rotate(q, tokens), module.per_head(rotate(k, tokens))
    scores = (q.unsqueeze(2) * k.unsqueeze(1)).sum(-1).permute(0, 3, 1, 2) / math.sqrt(module.K)
    B, H, T, _ = scores.shape
    visible = torch.ones(T, T, dtype=torch.bool)
    visible = (visible.tril() if module.causal else visible).expand(B, H, T, T)
    if tokens.valid is not None:
        visible = visible & tokens.valid[:, None, None, :]
    return scores.exp(), visible, module.per_head(v).transpose(1, 2)

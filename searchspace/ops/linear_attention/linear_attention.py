"""Linear attention: softmax's kernel replaced by a product of positive features, so keys are summed once.

    o_i = phi(q_i)^T sum_j phi(k_j) v_j^T / (phi(q_i)^T sum_j phi(k_j) + eps)          phi(x) = elu(x) + 1

Katharopoulos et al., "Transformers are RNNs", arXiv:2006.16236. Causal: j <= i, a recurrence with state [G, K, V + 1];
bidirectional: one sum over all keys. Rotary positions would make features negative, so it takes none.
Shapes: B batch, T time, D model width, G groups, R heads per group, K key dim = V value dim.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import recurrence
from searchspace.primitives.activations import elu_plus_one
from searchspace.primitives.context import State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.registry import Operator

EPS = 1e-6


class LinearAttention(GroupedHeads):
    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        q, k, v = self.features(x, tokens)
        counted = F.pad(v, (0, 1), value=1.0)  # the last value column sums the weights
        if not self.causal:
            o = recurrence.sum_over_all(q, k, counted)
        else:
            o, S = recurrence.recurrence_chunked(q, k, counted, None, state["S"] if state else None)
            state = {"S": S} if state else None
        return self.merge_heads(normalized(o).flatten(2, 3)), state

    def features(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """phi(q) [B, T, G, R, K], phi(k) [B, T, G, K] (0 at padding), v [B, T, G, V]."""
        q, k, v = self.queries_keys_values(x)
        q, k = elu_plus_one(q), elu_plus_one(k)
        if tokens.valid is not None:
            k = k * tokens.valid[:, :, None, None]
        return q.unflatten(2, (self.G, self.R)), k, v

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        shape = (batch_size, self.G, self.K, self.K + 1)
        return {"S": torch.zeros(shape, device=device, dtype=recurrence.state_dtype(dtype))}


def normalized(o: Tensor) -> Tensor:
    """[..., V + 1] -> [..., V]: divided by the sum of weights in the last column."""
    return o[..., :-1] / (o[..., -1:] + EPS)


def reference(module: LinearAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """The quadratic form: a weight for each pair of tokens."""
    q, k, v = module.features(x, tokens)
    weights = torch.einsum("bigrk,bjgk->bgrij", q, k)
    if module.causal:
        weights = weights.tril()
    weights = weights / (weights.sum(-1, keepdim=True) + EPS)
    return module.merge_heads(torch.einsum("bgrij,bjgv->bigrv", weights, v).flatten(2, 3))


def flops(module: LinearAttention, T: int, S: int) -> int:
    count = recurrence.chunked_flops if module.causal else recurrence.sum_over_all_flops
    return count(T, module.H, module.G, module.K, module.K + 1)


def state_bytes(module: LinearAttention, context_len: int, bytes_per_value: int) -> int:
    return recurrence.state_bytes(module.G, module.K, module.K + 1, bytes_per_value)


OPERATOR = Operator(
    name="linear_attention",
    slot="mixer",
    paper="Katharopoulos et al. 2020, arXiv:2006.16236",
    build=LinearAttention,
    reference=reference,
    choices=HEAD_CHOICES,
    flops=flops,
    state_bytes=state_bytes,
    quantizable=("q", "k", "v", "o"),
    complexity="T H K V",
    state="G K (V + 1)",
)

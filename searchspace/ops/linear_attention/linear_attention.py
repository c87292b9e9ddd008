"""Linear attention: a product of non-negative features replaces softmax's kernel, so that keys are summed once.

    o_i = phi(q_i)^T sum_j phi(k_j) v_j^T / (phi(q_i)^T sum_j phi(k_j) + eps)

Katharopoulos et al., "Transformers are RNNs", arXiv:2006.16236, with phi(x) = elu(x) + 1; other feature maps are a
choice. Causal: j <= i, a recurrence with state [G, N, V + 1]; bidirectional: one sum over all keys. Rotary positions
after the features would make them negative, so there are none by default; where it replaces an attention that had them,
`rotary` rotates queries and keys before the features. Shapes: B batch, T time, D model width, G groups, R heads per
group, K key dim = V value dim, N features.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from searchspace import registry
from searchspace.primitives import linear, state_size
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads, rotate
from searchspace.registry import Nested, Operator
from searchspace.spec.arch import OpSpec

FEATURE_MAPS = ("elu_plus_one", "relu_features", "exp", "softmax_dim", "hedgehog", "taylor", "prf", "dpfp")


class LinearAttention(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        made = registry.build("feature_map", spec["feature_map"], context, self.G, self.K)
        self.feature_map = cast(linear.FeatureMap, made)
        self.N = self.feature_map.num_features
        self.rotary = spec.get("rotary", False)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.features(x, tokens)
        o, S = linear.normalized_read(q, k, v, self.causal, state["S"] if state else None)
        return self.merge_heads(o.flatten(2, 3)), {"S": S} if state else None

    def features(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """phi(q) [B, T, G, R, N], phi(k) [B, T, G, N] (0 at padding), v [B, T, G, V]."""
        q, k, v = self.queries_keys_values(x)
        if self.rotary:
            q, k = rotate(q, tokens), rotate(k, tokens)
        q, k = self.feature_map(q.unflatten(2, (self.G, self.R))), self.feature_map.of_keys(k)
        k = tokens.without_padding(k)
        return q, k, v

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        return linear.empty_state(batch_size, self.G, self.N, self.K + 1, device, dtype)


def reference(module: LinearAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """The quadratic form: a weight for each pair of tokens. x [B, T, D] -> [B, T, D]."""
    q, k, v = module.features(x, tokens)
    return module.merge_heads(linear.normalized_reference(q, k, v, module.causal).flatten(2, 3))


def flops(module: LinearAttention, T: int, S: int) -> int:
    mapped = module.feature_map.flops(T * (module.H + module.G))
    return mapped + linear.read_flops(module.causal, T, module.H, module.G, module.N, module.K + 1)


OPERATOR = Operator(
    name="linear_attention",
    slot="mixer",
    paper="Katharopoulos et al. 2020, arXiv:2006.16236",
    build=LinearAttention,
    reference=reference,
    choices={**HEAD_CHOICES, "feature_map": Nested("feature_map", FEATURE_MAPS)},
    fixed={"rotary": False},
    flops=flops,
    state_bytes=state_size.fixed,
    complexity="T H N V",
    state="G N (V + 1)",
)

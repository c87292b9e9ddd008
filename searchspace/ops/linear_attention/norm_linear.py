"""Norm linear attention: linear attention whose outputs are normalised by their size, not divided by the weights.

    y = W_o rms(phi(Q) (phi(K)^T V))          rms over all heads, or over each          phi = elu + 1, elu or silu

Qin et al., "The Devil in Linear Transformer" (TransNormer), arXiv:2210.10340: the divisor of linear attention makes
gradients unbounded; this has none, so features may be negative. The norm has no gain, and cancels every scale. Causal:
a recurrence with state [G, K, V]; bidirectional: one sum over all keys. Shapes: B batch, T time, D model width, G
groups, R heads per group, H = G R, K key dim = V value dim.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import linear, state_size
from searchspace.primitives.activations import elu_plus_one
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-6
FEATURES: dict[str, Callable[[Tensor], Tensor]] = {"elu_plus_one": elu_plus_one, "elu": F.elu, "silu": F.silu}


class NormLinear(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.features, self.each_head = FEATURES[spec["features"]], spec["norm_over"] == "head"

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.mapped(x, tokens)
        o, S = linear.read(q, k, v, self.causal, state["S"] if state else None)
        return self.merge_heads(self.normalize(o.flatten(2, 3))), {"S": S} if state else None

    def mapped(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """phi(q) [B, T, G, R, K], phi(k) [B, T, G, K] (0 at padding), v [B, T, G, V]."""
        q, k, v = self.queries_keys_values(x)
        q, k = self.features(q), self.features(k)
        k = tokens.without_padding(k)
        return q.unflatten(2, (self.G, self.R)), k, v

    def normalize(self, o: Tensor) -> Tensor:
        """o [B, T, H, V] -> [B, T, H, V]."""
        return F.rms_norm(o, o.shape[-1:] if self.each_head else o.shape[-2:], None, EPS)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        return linear.empty_state(batch_size, self.G, self.K, self.K, device, dtype)


def reference(module: NormLinear, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    q, k, v = module.mapped(x, tokens)
    o = linear.weigh(linear.pair_weights(q, k, module.causal), v).flatten(2, 3)
    axes = -1 if module.each_head else (-2, -1)
    o = o / (o.square().mean(axes, keepdim=True) + EPS).sqrt()
    return module.merge_heads(o)


def flops(module: NormLinear, T: int, S: int) -> int:
    return linear.read_flops(module.causal, T, module.H, module.G, module.K, module.K)


OPERATOR = Operator(
    name="norm_linear",
    slot="mixer",
    paper="Qin et al. 2022, arXiv:2210.10340",
    build=NormLinear,
    reference=reference,
    choices={**HEAD_CHOICES, "features": tuple(FEATURES), "norm_over": ("all", "head")},
    flops=flops,
    state_bytes=state_size.fixed,
    catalogue=(21, 51),
    complexity="T H K V",
    state="G K V",
)

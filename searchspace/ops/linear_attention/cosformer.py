"""cosFormer: rectified linear attention that favours near tokens, by a cosine which is a product of features.

    w_ij = relu(q_i) . relu(k_j) cos(pi (i - j) / 2 M)          o_i = sum_j w_ij v_j / sum_j w_ij
    cos(a_i - a_j) = cos a_i cos a_j + sin a_i sin a_j          a_i = pi i / 2 M

Qin et al., "cosFormer: Rethinking Softmax in Attention", arXiv:2202.08791; as the efficient candidate of a search in
Liu et al., "Neural Architecture Search on Efficient Transformers and Beyond", arXiv:2207.13955. M is the maximum length
of the network, beyond which weights would turn negative. A row's sum is at least eps. Shapes: B batch, T time, D model
width, G groups, R heads per group, H = G R, K key dim = V value dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from searchspace.primitives import linear, recurrence, state_size
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class CosFormer(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.max_len = context.layout.max_len

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.rectified(x, tokens)
        before = state["num_tokens"] if state else 0
        places = torch.arange(
            before, before + x.shape[1], device=x.device, dtype=recurrence.state_dtype(x.dtype)
        )
        angle = (math.pi / 2 / self.max_len * places).view(1, -1, 1, 1)
        turn = torch.cat((angle.cos(), angle.sin()), -1)  # [1, T, 1, 2]
        q, k = products(turn.unsqueeze(3), q.to(angle.dtype)), products(turn, k.to(angle.dtype))
        counted = torch.nn.functional.pad(v.to(angle.dtype), (0, 1), value=1.0)
        o, S = linear.read(q, k, counted, self.causal, state["S"] if state else None)
        o = (o[..., :-1] / o[..., -1:].clamp_min(linear.EPS)).to(x.dtype)
        kept = {"S": S, "num_tokens": before + x.shape[1]} if state else None
        return self.merge_heads(o.flatten(2, 3)), kept

    def rectified(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """relu(q) [B, T, G, R, K], relu(k) [B, T, G, K] (0 at padding), v [B, T, G, V]."""
        q, k, v = self.queries_keys_values(x)
        k = tokens.without_padding(k.relu())
        return q.relu().unflatten(2, (self.G, self.R)), k, v

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        return linear.empty_state(batch_size, self.G, 2 * self.K, self.K + 1, device, dtype) | {
            "num_tokens": 0
        }


def products(turn: Tensor, x: Tensor) -> Tensor:
    """turn [..., 2], x [..., K] -> [..., 2 K]."""
    return (turn.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2)


def reference(module: CosFormer, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    q, k, v = module.rectified(x, tokens)
    assert x.shape[1] <= module.max_len, f"{x.shape[1]} tokens, the formula holds for {module.max_len}"
    places = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
    nearness = torch.cos(math.pi / 2 * (places[:, None] - places[None, :]) / module.max_len)
    weights = linear.pair_weights(q, k, module.causal) * nearness
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(linear.EPS)
    return module.merge_heads(linear.weigh(weights, v).flatten(2, 3))


def flops(module: CosFormer, T: int, S: int) -> int:
    return linear.read_flops(module.causal, T, module.H, module.G, 2 * module.K, module.K + 1)


OPERATOR = Operator(
    name="cosformer",
    slot="mixer",
    paper="Qin et al. 2022, arXiv:2202.08791",
    build=CosFormer,
    reference=reference,
    choices=HEAD_CHOICES,
    flops=flops,
    state_bytes=state_size.fixed,
    fixed_length=True,
    catalogue=(9,),
    complexity="T H 2 K V",
    state="G 2 K (V + 1)",
)

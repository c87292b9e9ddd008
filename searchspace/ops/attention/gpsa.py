"""Gated positional self-attention: each head mixes attention by content with attention by place on the grid.

    A = (1 - sigmoid(l_h)) softmax_j(q_i . k_j / sqrt(K)) + sigmoid(l_h) softmax_j(w_h . r_ij)
    r_ij = (dx, dy, dx^2 + dy^2)      from query i to key j

d'Ascoli et al., "ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases", arXiv:2103.10697.
Initially l = 1 and w_h = (2 a, 2 b, -1), a Gaussian around the offset (a, b): the offsets of the first n^2 heads, n^2
the largest square of at most H, fill an n x n neighbourhood; the other heads start without a position. Values are
initialised as in other mixers, not to the identity. Shapes: B batch, T tokens on a grid, D model width, G groups, R
heads per group, H = G R, K head dim.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, ones
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.primitives.row_statistics import masked_softmax
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class GPSA(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        heads = Axis.of(G=self.G, R=self.R)
        self.declare("place_weight", (heads, Axis.of(C=3)), local_heads)
        self.declare("place_gate", (heads,), ones)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        q, k, v = self.queries_keys_values(x)
        q, k, v = q.transpose(1, 2), self.per_head(k).transpose(1, 2), self.per_head(v).transpose(1, 2)
        wide = torch.promote_types(x.dtype, torch.float32)
        by_content = (q @ k.mT).to(wide) / math.sqrt(self.K)
        visible = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=x.device)
        visible = visible if tokens.valid is None else tokens.valid[:, None, None, :]
        content = masked_softmax(by_content, visible)
        place = masked_softmax(self.by_place(tokens, x.shape[1], wide), visible)
        gate = torch.sigmoid(self.place_gate.to(wide))[:, None, None]
        weights = content + gate * (place - content)
        return self.merge_heads((weights.to(v.dtype) @ v).transpose(1, 2)), None

    def by_place(self, tokens: Tokens, T: int, dtype: torch.dtype) -> Tensor:
        """w_h . r_ij [H, T, T]."""
        places = torch.arange(T, device=self.place_weight.device)
        y, x = places // tokens.sides[1], places % tokens.sides[1]
        dx, dy = (x[None, :] - x[:, None]).to(dtype), (y[None, :] - y[:, None]).to(dtype)
        w = self.place_weight.to(dtype)[:, :, None, None]
        return w[:, 0] * dx + w[:, 1] * dy + w[:, 2] * (dx.square() + dy.square())


def local_heads(weight: Tensor) -> Tensor:
    """Fill weight [H, 3] with Gaussians around the offsets of a square neighbourhood."""
    side = math.isqrt(len(weight))
    middle = (side - 1) / 2
    rows = [(2 * (b - middle), 2 * (a - middle), -1.0) for a, b in product(range(side), repeat=2)]
    rows += [(0.0, 0.0, 0.0)] * (len(weight) - side**2)
    return weight.copy_(torch.tensor(rows))


def reference(module: GPSA, x: Tensor, tokens: Tokens) -> Tensor:
    """One query at a time. x [B, T, D] -> [B, T, D]."""
    q, k, v = module.queries_keys_values(x)
    k, v = module.per_head(k), module.per_head(v)
    B, T, H, K = q.shape
    columns, outputs = tokens.sides[1], []
    for b, i in product(range(B), range(T)):
        sees = [j for j in range(T) if tokens.is_real(b, j)]
        steps = [(j % columns - i % columns, j // columns - i // columns) for j in sees]
        r = torch.tensor([(dx, dy, dx**2 + dy**2) for dx, dy in steps], dtype=x.dtype).view(-1, 3)
        content = ((q[b, i] * k[b, sees]).sum(-1) / math.sqrt(K)).exp()  # [S, H]
        place = (r @ module.place_weight.T - (r @ module.place_weight.T).amax(0)).exp()
        gate = 1 / (1 + torch.exp(-module.place_gate))
        weights = (1 - gate) * content / content.sum(0) + gate * place / place.sum(0)
        outputs.append((weights.unsqueeze(-1) * v[b, sees]).sum(0))
    return module.merge_heads(torch.stack(outputs).view(B, T, H, K))


def flops(module: GPSA, T: int, S: int) -> int:
    return 4 * T * S * module.H * module.K


OPERATOR = Operator(
    name="gpsa",
    slot="mixer",
    paper="ConViT, d'Ascoli et al. 2021, arXiv:2103.10697",
    build=GPSA,
    reference=reference,
    choices=HEAD_CHOICES,
    flops=flops,
    causal=False,
    needs_2d=True,
    catalogue=(89,),
    complexity="T^2 H K",
)

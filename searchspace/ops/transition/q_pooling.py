"""Q-pooling: an attention whose queries are max-pooled over 2 x 2 cells, leaving a quarter of the tokens, wider.

    q = maxpool(W_q n), k = W_k n, v = W_v n with n = LN(x)
    y = maxpool(W_r n) + W_o softmax(q k^T / sqrt(K)) v

Ryali et al., "Hiera", arXiv:2306.00989; Wong et al., "TurboViT", arXiv:2308.11421. Keys and values keep every token;
the residual is mapped to the new width, then pooled over the same cells.
Shapes: x [B, rows * columns, D] -> [B, rows * columns / 4, D'], heads H of K = D' / H channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import cells
from searchspace.primitives.axes import Axis, AxisModule, ones, zeros
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-5


class QPooling(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        before, after = Axis.of(D=context.d_model), Axis.of(D=context.d_next)
        self.H, self.K = spec["num_heads"], spec["head_dim"]
        heads = Axis.of(H=self.H, K=self.K)
        self.declare("norm_weight", (before,), ones)
        self.declare("norm_bias", (before,), zeros)
        self.q_proj = context.linear("q", heads, before)
        self.k_proj = context.linear("k", heads, before)
        self.v_proj = context.linear("v", heads, before)
        self.o_proj = context.linear("o", after, heads)
        self.residual_proj = context.linear("residual", after, before)

    def forward(self, x: Tensor, tokens: Tokens, saved: None = None) -> tuple[Tensor, Tokens, None]:
        """x [B, T, D] -> [B, T / 4, D'], the facts of the cells, no state."""
        n = F.layer_norm(x, x.shape[-1:], self.norm_weight, self.norm_bias, EPS)
        q = self.split(pool_cells(self.q_proj(n), tokens.sides))
        k, v = self.split(self.k_proj(n)), self.split(self.v_proj(n))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        y = pool_cells(self.residual_proj(n), tokens.sides) + self.o_proj(attended)
        return y, tokens.replace(grid=cells.cells_of(tokens.sides), positions=None, rotary=None), None

    def split(self, x: Tensor) -> Tensor:
        """[B, T, H * K] -> [B, H, T, K]."""
        return x.unflatten(2, (self.H, self.K)).transpose(1, 2)


def pool_cells(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """x [B, rows * columns, C] -> the maximum over 2 x 2 cells [B, rows * columns / 4, C]."""
    return F.max_pool2d(x.transpose(1, 2).unflatten(2, grid), cells.CELL).flatten(2).transpose(1, 2)


def reference(module: QPooling, x: Tensor, tokens: Tokens) -> Tensor:
    """Cell by cell, with explicit weights. x [B, T, D] -> [B, T / 4, D']."""
    n = F.layer_norm(x, x.shape[-1:], module.norm_weight, module.norm_bias, EPS)
    q, k, v = (p(n).unflatten(2, (module.H, module.K)) for p in (module.q_proj, module.k_proj, module.v_proj))
    residual = module.residual_proj(n)
    outputs = []
    for cell in cells.cell_places(tokens.sides):
        scores = (q[:, cell].amax(1).unsqueeze(1) * k).sum(-1) / math.sqrt(module.K)  # [B, S, H]
        weights = scores.exp() / scores.exp().sum(1, keepdim=True)
        mixed = (weights.unsqueeze(-1) * v).sum(1).flatten(1)
        outputs.append(residual[:, cell].amax(1) + module.o_proj(mixed))
    return torch.stack(outputs, 1)


def flops(module: QPooling, T: int, S: int) -> int:
    pooled, inner = T // cells.CELL**2, module.H * module.K
    before, after = module.norm_weight.shape[0], module.residual_proj.weight.shape[0]
    projected = 2 * T * before * (3 * inner + after) + 2 * pooled * inner * after
    return projected + 4 * pooled * S * inner


OPERATOR = Operator(
    name="q_pooling",
    slot="transition",
    paper="Hiera, Ryali et al. 2023, arXiv:2306.00989; TurboViT, arXiv:2308.11421",
    build=QPooling,
    reference=reference,
    choices={"num_heads": (2, 4), "head_dim": (16,)},
    layout=cells.layout,
    flops=flops,
    counts_projections=True,
    why_invalid=cells.why_invalid,
    causal=False,
    needs_2d=True,
    complexity="T S H K / 4",
)

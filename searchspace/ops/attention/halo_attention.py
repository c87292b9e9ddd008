"""Halo attention: blocks of a 2-D grid that attend to themselves and a halo around them, with learned offsets.

    s_pt = (q_p . k_t + q_p . (r^rows_{t - p} + r^columns_{t - p})) / sqrt(K)
    o_p  = sum_t softmax_t(s_pt) v_t        over the tokens t of p's b x b block enlarged by h on every side

Vaswani et al., "Scaling Local Self-Attention for Parameter Efficient Visual Backbones" (HaloNet), arXiv:2103.12731.
Places outside the grid are not seen. The offset vectors are shared by the heads and stored nearest first, so that a
smaller window keeps the vectors of its offsets. The scale also applies to the offsets, as if they were part of the
keys. Shapes: B batch, T tokens of the grid, D model width, G groups, H = G R heads, K head dim, L offsets, b window, h
halo.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, normal
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads, rotate
from searchspace.primitives.masks import (
    attend_blocks,
    block_offsets,
    gather,
    grid_blocks,
    grid_blocks_flops,
    grid_of,
    num_blocks,
)
from searchspace.registry import COUNT, Operator
from searchspace.spec.arch import OpSpec


class HaloAttention(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.window, self.halo, self.layout = spec["window"], spec["halo"], context.layout
        self.num_offsets = 2 * (self.window + self.halo) - 1
        axes = (Axis.of(L=self.num_offsets), Axis.of(K=self.K))
        self.declare("row_offsets", axes, normal(self.K**-0.5))
        self.declare("column_offsets", axes, normal(self.K**-0.5))

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        q, k, v = self.queries_keys_values(x)
        blocks = grid_blocks(tokens.sides, self.window, self.halo, x.device)
        bias = self.bias(gather(q, blocks.queries)).unflatten(0, (x.shape[0], -1))
        q, k = rotate(q, tokens), rotate(k, tokens)
        return self.merge_heads(attend_blocks(q, k, v, blocks, tokens.valid, bias)), None

    def bias(self, q: Tensor) -> Tensor:
        """q [N, b b, H, K] -> its products with the offset vectors [N, G, R, b b, n]."""
        rows, columns = (place_of(t) for t in block_offsets(self.window, self.halo, q.device))
        q = q.transpose(1, 2) / self.K**0.5  # [N, H, b b, K]
        along_rows = (q @ self.row_offsets.mT).gather(3, rows.expand(*q.shape[:2], -1, -1))
        along_columns = (q @ self.column_offsets.mT).gather(3, columns.expand(*q.shape[:2], -1, -1))
        return (along_rows + along_columns).unflatten(1, (self.G, self.R))


def place_of(offset: Tensor) -> Tensor:
    """Return the storage index of an offset's vector, in the order 0, -1, 1, -2, 2, ...; offset and result [...]."""
    return 2 * offset.abs() - (offset < 0).int()


def reference(module: HaloAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """One query at a time. x [B, T, D] -> [B, T, D]."""
    plain, k, v = module.queries_keys_values(x)
    q, k, v = rotate(plain, tokens), module.per_head(rotate(k, tokens)), module.per_head(v)
    rows, columns = tokens.sides
    y = torch.zeros_like(q)
    for b, p in product(range(len(x)), range(x.shape[1])):
        row, column = divmod(p, columns)
        top, left = (n // module.window * module.window - module.halo for n in (row, column))
        reach = module.window + 2 * module.halo
        around = product(
            range(max(0, top), min(rows, top + reach)), range(max(0, left), min(columns, left + reach))
        )
        near = [(r, c) for r, c in around if tokens.is_real(b, r * columns + c)]
        if not near:
            continue
        at = [r * columns + c for r, c in near]
        offsets = torch.tensor([(r - row, c - column) for r, c in near])
        r_rows, r_columns = place_of(offsets).unbind(1)
        content = torch.einsum("hk,jhk->hj", q[b, p], k[b, at])
        place = torch.einsum(
            "hk,jk->hj", plain[b, p], module.row_offsets[r_rows] + module.column_offsets[r_columns]
        )
        weights = ((content + place) / module.K**0.5).softmax(-1)
        y[b, p] = torch.einsum("hj,jhk->hk", weights, v[b, at])
    return module.merge_heads(y)


def flops(module: HaloAttention, T: int, S: int) -> int:
    grid = grid_of(module.layout, T)
    slots = num_blocks(grid, module.window) * module.window**2
    on_offsets = 4 * slots * module.H * module.K * module.num_offsets
    return on_offsets + grid_blocks_flops(grid, module.window, module.halo, module.H, module.K)


OPERATOR = Operator(
    name="halo_attention",
    slot="mixer",
    paper="HaloNet, Vaswani et al. 2021, arXiv:2103.12731",
    build=HaloAttention,
    ranges={"halo": COUNT},
    reference=reference,
    choices={**HEAD_CHOICES, "window": (4, 8), "halo": (1, 2, 3)},
    flops=flops,
    causal=False,
    needs_2d=True,
    rope=True,
    catalogue=(49,),
    complexity="T (b + 2 h)^2 H K",
)

"""SEA: linear attention estimates where attention will be large, and softmax attention is computed only there.

    E_iJ   = phi(q_i) . sum_{j in cell J} phi(k_j)        phi = elu + 1, cells of c consecutive tokens
    cells(i) = the n largest E_iJ of the cells before i's own; bidirectional: of all other cells
    o_i = sigma(s1_i) sigma(s0_i) softmax attention over cells(i) and i's own cell + (1 - sigma(s1_i)) mean(v)

Lee et al., "SEA: Sparse Linear Attention with Estimated Attention Mask", arXiv:2310.01777. s0 and s1 are learned maps
of x per head; the mean is over the tokens that i may see. E is the published estimate before its decoder: linear
attention onto the positions of cells. The decoder (MLP and convolution) is left out: it learns from a teacher's map of
the same layer, which a searched network does not have, and its convolution over rows looks ahead. Cells have a fixed
length instead of a fixed number, so that none extends past the current token as the sequence grows. The choice has no
gradient. A decoder keeps all keys and values. Shapes: B batch, T time, S keys, D model width, G groups, R heads per
group, H = G R, K head dim, N cells.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import state_size
from searchspace.primitives.activations import elu_plus_one
from searchspace.primitives.axes import Axis
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, CachingHeads
from searchspace.primitives.masks import (
    attend_flops,
    extend,
    line_blocks,
    line_blocks_flops,
    sparse_reference,
)
from searchspace.primitives.merging import attend_blocks_with_sum, merge
from searchspace.primitives.selection import attend_selected
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class SEAAttention(CachingHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.cell, self.num_cells = spec["cell"], spec["num_cells"]
        self.mix_proj = context.linear("mix", Axis.of(G=self.G, R=self.R, C=2), Axis.of(D=context.d_model))

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.rotated(x, tokens)
        if state:
            state = extend(state, k=k, v=v)
            k, v = state["k"], state["v"]
        T, end = x.shape[1], k.shape[1]
        own = slice((end - T) // self.cell * self.cell, None)
        valid = None if tokens.valid is None else tokens.valid[:, own]
        blocks = line_blocks((end - T) % self.cell, T, self.cell, self.causal, x.device)
        sparse = attend_blocks_with_sum(q, k[:, own], v[:, own], blocks, valid)
        if self.candidates(end):
            sparse = merge(sparse, attend_selected(q, k, v, *self.selected(q, k, tokens.valid)))
        return self.merge_heads(self.mixed(x, sparse[0], self.mean_value(v, T, tokens))), state

    def candidates(self, num_tokens: int) -> int:
        """Number of cells from which the last token may choose, including its own if bidirectional."""
        return (num_tokens - 1) // self.cell if self.causal else -(-num_tokens // self.cell)

    @torch.no_grad()
    def selected(self, q: Tensor, k: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Places of the tokens in each query's cells [B, T, G, R, n c], and which of them count."""
        (B, T), end = q.shape[:2], k.shape[1]
        N, c = self.candidates(end), self.cell
        real = k.new_ones(B, end, dtype=torch.bool) if valid is None else valid
        missing = max(0, N * c - end)
        real = F.pad(real[:, : N * c], (0, missing))
        worth = self.estimate(q, F.pad(k[:, : N * c], (0, 0, 0, 0, 0, missing)), real)
        asking = torch.arange(end - T, end, device=q.device)[:, None, None, None] // c
        cells = torch.arange(N, device=q.device)
        allowed = (cells < asking if self.causal else cells != asking) & real.unflatten(1, (N, c)).any(-1)[
            :, None, None, None
        ]
        ranked = worth.masked_fill(~allowed, -torch.inf).sort(dim=-1, descending=True, stable=True)
        best = ranked.indices[..., : self.num_cells].unsqueeze(-1)
        places = (best * c + torch.arange(c, device=q.device)).flatten(-2)
        counts = (ranked.values[..., : self.num_cells] > -torch.inf).repeat_interleave(c, -1)
        counts = counts & real[torch.arange(B, device=q.device)[:, None, None, None, None], places]
        return places.clamp(max=end - 1), counts

    def estimate(self, q: Tensor, k: Tensor, real: Tensor) -> Tensor:
        """E [B, T, G, R, N] of q [B, T, H, K] on whole cells of k [B, N c, G, K]."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        features = elu_plus_one(k.to(dtype)) * real[:, :, None, None]
        sums = features.unflatten(1, (-1, self.cell)).sum(2).transpose(1, 2)  # [B, G, N, K]
        rows = elu_plus_one(q.to(dtype)).unflatten(2, (self.G, self.R)).transpose(1, 2)  # [B, G, T, R, K]
        return (rows.flatten(2, 3) @ sums.mT).unflatten(2, rows.shape[2:4]).transpose(1, 2)

    def mean_value(self, v: Tensor, T: int, tokens: Tokens) -> Tensor:
        """Mean of v over the tokens that each of the last T may see, [B, T or 1, H, K]."""
        real = tokens.real(v).to(torch.promote_types(v.dtype, torch.float32))
        if self.causal:
            total, count = (v * real).cumsum(1)[:, -T:], real.cumsum(1)[:, -T:]
        else:
            total, count = (v * real).sum(1, keepdim=True), real.sum(1, keepdim=True)
        return self.per_head((total / count.clamp_min(1.0)).to(v.dtype))

    def mixed(self, x: Tensor, sparse: Tensor, mean: Tensor) -> Tensor:
        """x [B, T, D], `sparse` and `mean` [B, T or 1, H, K] -> [B, T, H, K]."""
        s0, s1 = torch.sigmoid(self.mix_proj(x)).unflatten(2, (self.H, 2)).unsqueeze(-1).unbind(3)
        return s1 * s0 * sparse + (1 - s1) * mean


def reference(module: SEAAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """By a weight for each pair, choosing the cells of each query and head one at a time. x [B, T, D] -> [B, T, D]."""
    q, k, v = module.rotated(x, tokens)
    (B, T), c = x.shape[:2], module.cell
    dtype = torch.promote_types(x.dtype, torch.float32)
    phi_q, phi_k = (elu_plus_one(t.detach().to(dtype)) for t in (q, k))

    def visible(b: int, i: int) -> list[int]:
        return [j for j in range(i + 1 if module.causal else T) if tokens.is_real(b, j)]

    def sees(b: int, h: int, i: int) -> list[int]:
        cells: dict[int, list[int]] = {}
        for j in visible(b, i):
            cells.setdefault(j // c, []).append(j)
        own = cells.pop(i // c, [])
        worth = {J: float(phi_k[b, js, h // module.R].sum(0) @ phi_q[b, i, h]) for J, js in cells.items()}
        best = sorted(worth, key=lambda J: -worth[J])[: module.num_cells]
        return own + [j for J in best for j in cells[J]]

    mean = torch.zeros_like(v)
    for b, i in product(range(B), range(T)):
        if visible(b, i):
            mean[b, i] = v[b, visible(b, i)].mean(0)
    sparse = sparse_reference(module, x, tokens, sees)
    return module.merge_heads(module.mixed(x, sparse, module.per_head(mean)))


def flops(module: SEAAttention, T: int, S: int) -> int:
    H, K, c = module.H, module.K, module.cell
    N = module.candidates(S)
    chosen = attend_flops(T, 1, min(module.num_cells, N) * c, H, K)
    return line_blocks_flops((S - T) % c, T, c, H, K) + 2 * T * N * H * K + chosen


OPERATOR = Operator(
    name="sea_attention",
    slot="mixer",
    paper="SEA, Lee et al. 2023, arXiv:2310.01777",
    build=SEAAttention,
    reference=reference,
    choices={**HEAD_CHOICES, "cell": (8, 16), "num_cells": (1, 2, 4)},
    flops=flops,
    state_bytes=state_size.every_token,
    rope=True,
    catalogue=(67,),
    complexity="T (T / c + n c) H K",
    state="2 S G K",
)

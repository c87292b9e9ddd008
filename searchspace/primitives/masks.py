"""Structured masks: attention in which a query sees keys by their place alone, computed on blocks of gathered keys.

`Blocks` says, for N blocks of b queries, which n keys each block gathers and which of them each query sees. The
function `attend_blocks` then serves all such designs: blocks of a line or grid, a block enlarged by a
halo, a disk inside the halo, a separate window per query (b = 1). A row that sees nothing gives 0.
Shapes: q [B, T, H, K], k and v [B, S, G, K], H = G R heads in G key/value groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.caches import append
from searchspace.primitives.context import Layout, State, Tokens
from searchspace.primitives.heads import GroupedHeads


@dataclass(frozen=True)
class Blocks:
    """Queries in blocks and the keys that each block gathers, as places in the given tensors.

    queries  [N, b], any place where a slot is not used
    keys     [N, n] or, where it differs within a batch, [B, N, n]; any place where `seen` is False
    seen     [N, b, n] or [B, N, b, n]
    slots    [T], the flat slot of each query
    """

    queries: Tensor
    keys: Tensor
    seen: Tensor
    slots: Tensor


def attend_blocks(
    q: Tensor, k: Tensor, v: Tensor, blocks: Blocks, valid: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Softmax attention of q [B, T, H, K] in blocks; `valid` [B, S], `bias` [B, N, G, R, b, n] on scores."""
    B = q.shape[0]
    seen = visible(blocks, B, valid).flatten(0, 1)
    q, k, v = gather(q, blocks.queries), gather(k, blocks.keys), gather(v, blocks.keys)
    y = attend(q, k, v, seen, None if bias is None else bias.flatten(0, 1))
    return y.unflatten(0, (B, -1)).flatten(1, 2)[:, blocks.slots]


def visible(blocks: Blocks, B: int, valid: Tensor | None) -> Tensor:
    """Return what is seen, without keys at padding: [B, N, b, n]."""
    seen = blocks.seen.expand(B, *blocks.seen.shape[-3:])
    if valid is None:
        return seen
    real = gather(valid, blocks.keys).unflatten(0, (B, -1))
    return seen & real.unsqueeze(2)


def gather(x: Tensor, places: Tensor) -> Tensor:
    """x [B, S, ...] at places [N, n] or [B, N, n] -> [B N, n, ...]."""
    if places.dim() == 2:
        return x[:, places].flatten(0, 1)
    batch = torch.arange(x.shape[0], device=x.device)[:, None, None]
    return x[batch, places].flatten(0, 1)


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, bias: Tensor | None = None) -> Tensor:
    """q [N, b, H, K], k and v [N, n, G, K], seen [N, b, n], bias [N, G, R, b, n] -> [N, b, H, K]."""
    G, b = k.shape[2], q.shape[1]
    R = q.shape[2] // G
    q = q.unflatten(2, (G, R)).permute(0, 2, 3, 1, 4).flatten(2, 3)  # [N, G, R b, K]
    seeing = seen.any(-1)
    mask = (seen | ~seeing.unsqueeze(-1)).unsqueeze(1).repeat(1, 1, R, 1)  # [N, 1, R b, n]
    if bias is not None:
        mask = bias.flatten(2, 3).masked_fill(~mask, -torch.inf)
    y = F.scaled_dot_product_attention(q, k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask)
    y = y.unflatten(2, (R, b)).permute(0, 3, 1, 2, 4).flatten(2, 3)  # [N, b, H, K]
    return y * seeing[:, :, None, None]


def attend_flops(N: int, b: int, n: int, H: int, K: int) -> int:
    return 4 * N * b * n * H * K


def sparse_reference(
    module: GroupedHeads, x: Tensor, tokens: Tokens, sees: Callable[[int, int, int], Iterable[int]]
) -> Tensor:
    """Softmax attention by a weight for each pair of tokens, x [B, T, D] -> [B, T, H, K].

    Query i of sequence b sees, in head h, the real keys among sees(b, h, i).
    """
    q, k, v = module.rotated_per_head(x, tokens)
    B, T, H, K = q.shape
    seen = torch.zeros(B, H, T, T, dtype=torch.bool)
    for b, h, i in product(range(B), range(H), range(T)):
        seen[b, h, i, [j for j in sees(b, h, i) if tokens.is_real(b, j)]] = True
    scores = torch.einsum("bihk,bjhk->bhij", q, k) / math.sqrt(K)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num()
    return torch.einsum("bhij,bjhk->bihk", weights, v)


def line_blocks(before: int, T: int, size: int, causal: bool, device: torch.device) -> Blocks:
    """Return blocks of `size` on a line, for T queries after `before` keys; a single query is its own block."""
    end = before + T
    first = before // size if T == 1 else 0
    count = 1 if T == 1 else -(-end // size)
    places = torch.arange(count * size, device=device).view(count, size) + first * size
    asking = torch.full((1, 1), before, device=device) if T == 1 else places
    seen = (places < end).unsqueeze(1).expand(-1, asking.shape[1], -1)
    if causal:
        seen = seen & (places.unsqueeze(1) <= asking.unsqueeze(2))
    slots = torch.arange(T, device=device) + (0 if T == 1 else before)
    return Blocks((asking - before).clamp(0, T - 1), places.clamp(max=end - 1), seen, slots)


def line_blocks_flops(before: int, T: int, size: int, H: int, K: int) -> int:
    count, b = (1, 1) if T == 1 else (-(-(before + T) // size), size)
    return attend_flops(count, b, size, H, K)


def grid_blocks(grid: tuple[int, int], side: int, halo: int, device: torch.device) -> Blocks:
    """Return blocks of side x side on a grid (rows, columns), each seeing itself and `halo` tokens around it."""
    rows, columns = grid
    queries, _ = _places(grid, side, 0, device)
    keys, inside = _places(grid, side, halo, device)
    row, column = (torch.arange(n, device=device) for n in grid)
    across = -(-columns // side)
    slots = (row // side * across * side**2 + row % side * side).unsqueeze(1)
    slots = slots + (column // side * side**2 + column % side)
    return Blocks(queries, keys, inside.unsqueeze(1).expand(-1, side**2, -1), slots.flatten())


def _places(grid: tuple[int, int], side: int, halo: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Places [N, (side + 2 halo)^2] of every enlarged block, and which of them are on the grid."""
    rows, columns = grid
    near = torch.arange(-halo, side + halo, device=device)
    row, column = (
        (torch.arange(0, n, side, device=device).unsqueeze(1) + near) for n in grid
    )  # [N_rows, n], [N_columns, n]
    inside_row, inside_column = (row >= 0) & (row < rows), (column >= 0) & (column < columns)
    row, column = row.clamp(0, rows - 1), column.clamp(0, columns - 1)
    places = row[:, None, :, None] * columns + column[None, :, None, :]
    inside = inside_row[:, None, :, None] & inside_column[None, :, None, :]
    return places.flatten(2).flatten(0, 1), inside.flatten(2).flatten(0, 1)


def block_offsets(side: int, halo: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column offsets from each query of a block to each key around it, [side^2, (side + 2 halo)^2]."""
    asking = torch.arange(side, device=device)
    away = torch.arange(-halo, side + halo, device=device) - asking.unsqueeze(1)  # [side, n]
    b, n = away.shape
    rows = away[:, None, :, None].expand(b, b, n, n)
    columns = away[None, :, None, :].expand(b, b, n, n)
    return rows.reshape(b * b, n * n), columns.reshape(b * b, n * n)


def grid_blocks_flops(grid: tuple[int, int], side: int, halo: int, H: int, K: int) -> int:
    return attend_flops(num_blocks(grid, side), side**2, (side + 2 * halo) ** 2, H, K)


def num_blocks(grid: tuple[int, int], side: int) -> int:
    return -(-grid[0] // side) * -(-grid[1] // side)


def grid_of(layout: Layout, T: int) -> tuple[int, int]:
    """Return (rows, columns) of T tokens for counting: the layout's grid, or the squarest one for another T."""
    if layout.grid is not None and math.prod(layout.grid) == T:
        return layout.grid
    rows = max(r for r in range(1, math.isqrt(T) + 1) if T % r == 0)
    return rows, T // rows


def extents(valid: Tensor | None, grid: tuple[int, int], device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """First place and end of the real tokens, [B, 1] each, for rows and columns; B = 1 without padding."""
    found = []
    for axis, length in enumerate(grid):
        if valid is None:
            ends = torch.tensor([[0], [length]], device=device).split(1)
        else:
            real = valid.unflatten(1, grid).any(2 - axis).int()  # [B, length]
            ends = real.argmax(1, keepdim=True), length - real.flip(1).argmax(1, keepdim=True)
        found.append((ends[0], ends[1]))
    return found


def extend(state: State, **new: Tensor) -> State:
    """Append the new tokens' tensors [B, T, ...] to those of a state [B, S, ...]."""
    return {name: append(state[name], value) for name, value in new.items()}

"""Block masks of attention as lists: for each tile of queries the key blocks that any of its queries may see.

A tile is several blocks of queries; a bit for each of them says whether it sees the key block, so that tiles can be as
large as the matrix units like while the mask stays fine. Shapes: N masks (1, G or H of them), n blocks of b tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 64  # tokens in a tile of queries, unless one block is larger


@dataclass(frozen=True)
class Lists:
    """Tile i of mask m looks at `blocks[starts[m, i]:starts[m, i + 1]]`; bit r of `bits` belongs to its r-th block."""

    starts: Tensor  # [N, tiles + 1]
    blocks: Tensor
    bits: Tensor


@dataclass(frozen=True)
class BlockMask:
    """Which key blocks each query block sees, and for the gradient of the keys which query blocks each key block."""

    block: int
    keys: Lists
    queries: Lists

    @property
    def num_masks(self) -> int:
        return self.keys.starts.shape[0]

    @property
    def tile(self) -> int:
        return max(TILE, self.block)


def block_mask(seen: Tensor, block: int) -> BlockMask:
    """seen [N, n_queries, n_keys] in blocks of `block` tokens, a power of two from 16 on, counted from the first
    query and the first key."""
    if block < 16 or block & (block - 1):
        raise ValueError(f"block mask: block={block}; right is a power of two from 16 on")
    per_tile = max(TILE // block, 1)
    return BlockMask(block, _lists(seen, per_tile), _lists(seen.mT, per_tile))


def _lists(seen: Tensor, per_tile: int) -> Lists:
    N, rows, columns = seen.shape
    padded = torch.nn.functional.pad(seen, (0, 0, 0, -rows % per_tile)).unflatten(1, (-1, per_tile))
    weights = 1 << torch.arange(per_tile, device=seen.device, dtype=torch.int32)
    bits = (padded * weights.view(-1, 1)).sum(2, dtype=torch.int32)  # [N, tiles, columns]
    some = bits > 0
    ends = some.sum(-1).flatten().cumsum(0).view(N, -1)
    starts = torch.cat((torch.cat((ends.new_zeros(1), ends[:-1, -1])).view(N, 1), ends), 1)
    return Lists(starts.int(), some.nonzero()[:, -1].int().contiguous(), bits[some])

"""Block masks of attention as lists: for each tile of queries, the key blocks that any of its queries may see.

A tile contains several query blocks, each with a bit that says whether it sees the key block; so tiles can be as large
as tensor cores need while the mask has fine blocks. Shapes: N masks (1, G or H), n blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 64  # tokens in a tile of queries, unless a block is larger


@dataclass(frozen=True)
class Lists:
    """Tile i of mask m sees `blocks[starts[m, i]:starts[m, i + 1]]`; bit r of `bits` is for the tile's r-th block."""

    starts: Tensor  # [N, tiles + 1]
    blocks: Tensor
    bits: Tensor


@dataclass(frozen=True)
class BlockMask:
    """`keys`: the key blocks that each query tile sees; `queries`: the query blocks that see each key tile, for the
    gradient of the keys; `block`: tokens in a block."""

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
    """The lists for seen [N, n_queries, n_keys], whose blocks have `block` tokens. Raises ValueError unless `block` is
    a power of two of at least 16."""
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

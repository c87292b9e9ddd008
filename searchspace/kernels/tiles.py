"""Tile sizes of the attention kernels by head dimension, dtype and compute capability, without autotuning."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

from searchspace.kernels.products import INTERPRETED

LOG2_E = 1.4426950408889634


class Tile(NamedTuple):
    """BT queries by BS keys, with the launch's number of warps and pipeline stages."""

    BT: int
    BS: int
    num_warps: int
    num_stages: int


INTERPRETED_TILE = Tile(16, 16, 4, 1)  # small, so that tests have several tiles

# (kernel, compute capability) -> widest head of a size -> size: the largest that keep a thread's values in registers.
# Devices of capability 8.6, 8.9 and 12 use the table of 8.0, which fits their 99 KB of shared memory.
_TWO_BYTES = {
    ("forward", 80): {64: Tile(128, 64, 4, 3), 128: Tile(128, 64, 8, 3), 256: Tile(64, 32, 8, 2)},
    ("forward", 90): {64: Tile(128, 64, 4, 3), 128: Tile(128, 64, 8, 3), 256: Tile(64, 64, 8, 2)},
    ("queries", 80): {64: Tile(128, 64, 8, 2), 128: Tile(64, 64, 4, 2), 256: Tile(32, 32, 4, 2)},
    ("queries", 90): {64: Tile(128, 64, 8, 2), 128: Tile(64, 64, 4, 2), 256: Tile(64, 32, 8, 2)},
    ("keys", 80): {64: Tile(32, 128, 8, 2), 128: Tile(32, 64, 8, 2), 256: Tile(32, 32, 8, 1)},
    ("keys", 90): {64: Tile(64, 128, 8, 2), 128: Tile(32, 64, 8, 2), 256: Tile(32, 32, 8, 1)},
}
_FLOAT32 = {
    "forward": {64: Tile(32, 32, 4, 1), 128: Tile(32, 16, 4, 1)},
    "queries": {64: Tile(32, 32, 4, 1), 128: Tile(16, 16, 4, 1)},
    "keys": {64: Tile(16, 32, 4, 1), 128: Tile(16, 16, 4, 1)},
}


def widest_head(dtype: torch.dtype) -> int:
    """The most channels per head that the attention kernels support."""
    return 128 if dtype == torch.float32 else 256


def attention_tile(kind: str, K: int, dtype: torch.dtype, capability: int) -> Tile:
    """The tile of a kernel; kind: forward, queries (their gradient) or keys (theirs); K: at most `widest_head`."""
    if INTERPRETED:
        return INTERPRETED_TILE
    table = _FLOAT32[kind] if dtype == torch.float32 else _TWO_BYTES[kind, capability]
    return next(sizes for widest, sizes in table.items() if widest >= K)


@lru_cache
def capability(device: torch.device) -> int:
    """80 or 90, the capability whose table applies to the device."""
    is_large = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in (9, 10)
    return 90 if is_large else 80


@lru_cache
def num_multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4

"""Frequencies of rotary positions, and their scaling for texts longer than those of the training.

Pair i of a head of `dim` channels turns by base^(-2 i / dim) for each token (Su et al., arXiv:2104.09864).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from searchspace.primitives.constants import kept

MOST_TURNS, LEAST_TURNS = (
    32,
    1,
)  # of a pair in the texts of the training, between which YaRN goes from one to the other

LLAMA_MOST, LLAMA_LEAST = 4, 1  # the same for Llama 3


@kept(16)
def frequencies(base: float, dim: int, device: torch.device) -> Tensor:
    """[dim / 2] in float64: angles of late positions need the digits."""
    return base ** (-torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim)


@kept(16)
def scaled_frequencies(
    base: float, dim: int, scaling: str, factor: float, original_len: int, device: torch.device
) -> Tensor:
    """The same for texts `factor` times as long as `original_len`; scaling is one of rope's."""
    found = frequencies(base, dim, device)
    if scaling == "none":
        return found
    if scaling == "linear":
        return found / factor
    if scaling == "llama3":
        turns = found * original_len / (2 * math.pi)
        kept_share = ((turns - LLAMA_LEAST) / (LLAMA_MOST - LLAMA_LEAST)).clamp(0, 1)
        return found * kept_share + found / factor * (1 - kept_share)

    def index_of(turns: int) -> float:
        """The index, not a whole number, of the pair that makes this number of turns."""
        return dim * math.log(original_len / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = index_of(MOST_TURNS), index_of(LEAST_TURNS)
    if scaling == "yarn":
        first, last = math.floor(first), math.ceil(last)
    low = max(first, 0)
    high = max(min(last, dim - 1), low + 0.001)
    slowed = ((torch.arange(dim // 2, dtype=torch.float64, device=device) - low) / (high - low)).clamp(0, 1)
    return found * (1 - slowed) + found / factor * slowed

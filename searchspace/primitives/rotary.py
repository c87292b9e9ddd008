"""Frequencies of rotary positions, and their scaling for texts longer than those in training.

Pair i of a head of `dim` channels rotates by base^(-2 i / dim) per token (Su et al., arXiv:2104.09864).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from searchspace.primitives.constants import kept

MOST_TURNS, LEAST_TURNS = (
    32,
    1,
)  # turns of a pair in the training's texts, between which YaRN interpolates

LLAMA_MOST, LLAMA_LEAST = 4, 1  # as above, for Llama 3


@kept(16)
def frequencies(base: float, dim: int, device: torch.device) -> Tensor:
    """Return [dim / 2] frequencies in float64, since angles of late positions need the precision."""
    return base ** (-torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim)


@kept(16)
def scaled_frequencies(
    base: float, dim: int, scaling: str, factor: float, original_len: int, device: torch.device
) -> Tensor:
    """Return [dim / 2] frequencies for texts `factor` times `original_len`; `scaling` is a method of rope."""
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
        """The (fractional) index of the pair that makes this number of turns."""
        return dim * math.log(original_len / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = index_of(MOST_TURNS), index_of(LEAST_TURNS)
    if scaling == "yarn":
        first, last = math.floor(first), math.ceil(last)
    low = max(first, 0)
    high = max(min(last, dim - 1), low + 0.001)
    slowed = ((torch.arange(dim // 2, dtype=torch.float64, device=device) - low) / (high - low)).clamp(0, 1)
    return found * (1 - slowed) + found / factor * slowed

"""Packed sequences: the tokens of N sequences in one row [1, total, ...] without padding.

Operators on single tokens run on the packed row. Operators that mix tokens run on the padded rows [N, longest, ...] or,
where their entry declares it, on each sequence of the packed row. Zhai et al., "ByteTransformer: A High-Performance
Transformer Boosted for Variable-Length Inputs", arXiv:2210.03052.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from searchspace.primitives.context import Tokens


def lengths(offsets: tuple[int, ...]) -> list[int]:
    return [end - start for start, end in pairwise(offsets)]


def packed_positions(offsets: tuple[int, ...], device: torch.device) -> Tensor:
    """Return positions [total], which restart at 0 in every sequence."""
    return torch.cat([torch.arange(n, device=device) for n in lengths(offsets)])


def unpack(x: Tensor, tokens: Tokens) -> tuple[Tensor, Tokens]:
    """Return x [1, total, D] and the facts about its tokens as rows [N, longest, D], padded on the right."""
    assert tokens.offsets is not None
    sizes = lengths(tokens.offsets)

    def rows(t: Tensor, num_axes: int) -> Tensor:
        """Unpack [total, ...] or [1, total, ...]; the former has `num_axes` axes."""
        return pad_sequence(t.reshape(t.shape[t.dim() - num_axes :]).split(sizes), batch_first=True)

    positions, rotary, modality = tokens.positions, tokens.rotary, tokens.modality
    facts = tokens.replace(
        offsets=None,
        valid=rows(torch.ones(sum(sizes), dtype=torch.bool, device=x.device), 1),
        positions=None if positions is None else rows(positions, 1),
        rotary=None if rotary is None else (rows(rotary[0], 2), rows(rotary[1], 2)),
        modality=None if modality is None else rows(modality, 1),
    )
    return rows(x, 2), facts


def pack(x: Tensor, tokens: Tokens) -> Tensor:
    """Reverse `unpack`: [N, longest, D] -> [1, total, D]."""
    assert tokens.offsets is not None
    return torch.cat([row[:n] for row, n in zip(x, lengths(tokens.offsets), strict=True)]).unsqueeze(0)

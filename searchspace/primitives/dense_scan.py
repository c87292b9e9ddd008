"""A recurrence with a transition matrix per token, computed in parallel over the tokens of a chunk.

    h_t = A_t h_{t-1} + b_t

Within a chunk, pairs (A, b) are composed by doubling steps (Hillis and Steele), all chunks at once; then the chunks are
computed one after another. The work is T N^2 (N + V) log C, so this is for small N. Computed in at least float32, since
products of many matrices exceed the precision of bfloat16. Shapes: A [B, T, ..., N, N], b and h [B, T, ..., N, V],
first state [B, ..., N, V].
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 16


def dense_scan(A: Tensor, b: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Return all states [B, T, ..., N, V] and the last one [B, ..., N, V], from the first state h [B, ..., N, V]."""
    found = []
    T = A.shape[1]
    whole = T - T % CHUNK
    for start, length in ((0, whole), (whole, T - whole)):
        if not length:
            continue
        C = min(CHUNK, length)
        part = slice(start, start + length)
        products, sums = _composed(A[:, part].unflatten(1, (-1, C)), b[:, part].unflatten(1, (-1, C)))
        for i in range(length // C):
            states = products[:, i] @ h.unsqueeze(1) + sums[:, i]
            found.append(states)
            h = states[:, -1]
    return torch.cat(found, 1), h.clone()


def _composed(A: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """[B, n, C, ..., N, .] -> for each token the product and sum of all steps of its chunk up to it."""
    step = 1
    while step < A.shape[2]:
        later, earlier = A[:, :, step:], slice(None, -step)
        b = torch.cat((b[:, :, :step], b[:, :, step:] + later @ b[:, :, earlier]), 2)
        A = torch.cat((A[:, :, :step], later @ A[:, :, earlier]), 2)
        step *= 2
    return A, b


def dense_scan_flops(T: int, N: int, V: int) -> int:
    flops = 2 * T * N * N * V
    for C in [CHUNK] * (T // CHUNK) + [T % CHUNK]:
        step = 1
        while step < C:
            flops += (C - step) * 2 * N * N * (N + V)
            step *= 2
    return flops

"""Attention through summaries: spans of tokens as one key and value, pooled tokens, and a local branch on values.

    kappa = max over the span of k        rho = max over the span of q
    value = sum_j softmax_j(rho . k_j / sqrt(K)) v_j over the span

Ren et al., "Combiner: Full Attention Transformer with Sparse Computation Cost", arXiv:2107.05768. Summaries exclude
padding; a summary of no real token does not exist and is not seen. Shapes: B batch, N spans of c tokens, H = G R heads
in G key/value groups, K head dim.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.context import Tokens
from searchspace.primitives.masks import attend, attend_flops


def maximum(x: Tensor, real: Tensor) -> Tensor:
    """x [..., c, h, K], real [..., c] -> the largest real value of every channel [..., h, K], 0 without any."""
    x = x.masked_fill(~real[..., None, None], -torch.inf).amax(-3)
    return torch.where(real.any(-1)[..., None, None], x, 0.0)


def summarize(q: Tensor, k: Tensor, v: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Summarise spans q [B, N, c, H, K], k and v [B, N, c, G, K], real [B, N, c].

    Returns keys and values [B, N, H, K], where all heads of a group share the key, and existence [B, N].
    """
    B, N = real.shape[:2]
    kappa, rho = maximum(k, real), maximum(q, real)
    alone = real.flatten(0, 1).unsqueeze(1)
    value = attend(rho.flatten(0, 1).unsqueeze(1), k.flatten(0, 1), v.flatten(0, 1), alone)
    kappa = kappa.repeat_interleave(q.shape[3] // k.shape[3], dim=2)
    return kappa, value.view(B, N, *value.shape[2:]), real.any(-1)


def summarize_flops(N: int, c: int, H: int, K: int) -> int:
    return attend_flops(N, 1, c, H, K)


def adaptive_bins(length: int, count: int, first: Tensor, end: Tensor) -> Tensor:
    """Adaptive pooling of the places first .. end - 1 [B, 1] of an axis: [B, count, length], True inside a bin.

    Bin i spans floor(i m / count) .. ceil((i + 1) m / count) of the m places, so bins overlap where count does not
    divide m, and none is empty.
    """
    bins = torch.arange(count, device=first.device)
    m = end - first
    low, high = bins * m // count + first, -(-(bins + 1) * m // count) + first
    place = torch.arange(length, device=first.device)
    return (place >= low.unsqueeze(-1)) & (place < high.unsqueeze(-1))


def pad_grid(x: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """x [B, T, C] -> [B, C, rows, columns], both sides padded with 0 to multiples of `side`."""
    rows, columns = grid
    image = x.transpose(1, 2).unflatten(2, grid)
    return F.pad(image, (0, -columns % side, 0, -rows % side))


def local_values(v: Tensor, weight: Tensor, tokens: Tokens) -> Tensor:
    """Depthwise convolution of values v [B, T, G, K] on the grid, weight [G K, k, k], 0 at padding and outside."""
    image = tokens.without_padding(v).flatten(2).mT.unflatten(2, tokens.sides)
    y = F.conv2d(image, weight.unsqueeze(1), padding=weight.shape[-1] // 2, groups=weight.shape[0])
    return y.flatten(2).transpose(1, 2).unflatten(2, v.shape[2:])


def local_values_flops(T: int, G: int, K: int, kernel: int) -> int:
    return 2 * T * G * K * kernel**2

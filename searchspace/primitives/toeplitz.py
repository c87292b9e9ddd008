"""Products with Toeplitz matrices, whose entries depend only on the distance between row and column.

    y_i = sum_j c_{j - i} u_j          i, j = 0 .. T - 1

A Toeplitz matrix is the corner of a circulant one of twice the size, which is a convolution: T log T by Fourier
transform. The transform spreads round-off of every token to all others, so it is not for causal networks.
"""

from __future__ import annotations

import torch
from torch import Tensor


def toeplitz_product(coefficients: Tensor, u: Tensor) -> Tensor:
    """coefficients [..., 2 T - 1] of the offsets j - i = -(T - 1) .. T - 1, u [..., T] -> [..., T]; float32 or 64."""
    T = u.shape[-1]
    backward, forward = coefficients[..., :T].flip(-1), coefficients[..., T:].flip(-1)
    circulant = torch.cat((backward, torch.zeros_like(backward[..., :1]), forward), -1)  # its first column
    product = torch.fft.rfft(circulant) * torch.fft.rfft(u, n=2 * T)
    return torch.fft.irfft(product, n=2 * T)[..., :T]

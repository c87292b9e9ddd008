"""GPTQ: weights rounded column by column, with each error compensated by the columns that follow.

    H = 2 X X^T + 0.01 mean(diag) I        with U^T U = H^-1:   w_j -= e_i U_ij / U_ii   for j > i

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", arXiv:2210.17323.
Shapes: weight [N, K], gram X X^T [K, K].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.number_formats import dequantize_groups, group_codes, group_range, whole

DAMPING = 0.01


def gptq(weight: Tensor, gram: Tensor, group: int, bits: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Return (codes uint8 [N, K'], scale, offset [N, K' / group]) in the form of number_formats.quantize_groups."""
    W = whole(weight.double(), group)
    missing = W.shape[1] - weight.shape[1]
    H = 2 * F.pad(gram.double(), (0, missing, 0, missing))
    dead = H.diagonal() == 0
    W[:, dead] = 0.0
    H.diagonal()[dead] = 1.0
    H.diagonal().add_(DAMPING * H.diagonal().mean())
    U = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True)
    codes, scales, offsets = [], [], []
    for start in range(0, W.shape[1], group):
        columns = slice(start, start + group)
        scale, offset = group_range(W[:, columns].float(), bits)
        errors = torch.zeros_like(W[:, columns])
        for i in range(start, start + group):
            code = group_codes(W[:, i : i + 1].float(), scale, offset, bits)
            read = dequantize_groups(code, scale.unsqueeze(-1), offset.unsqueeze(-1), bits).double()
            error = (W[:, i : i + 1] - read) / U[i, i]
            W[:, i + 1 : start + group] -= error * U[i, i + 1 : start + group]
            errors[:, i - start] = error[:, 0]
            codes.append(code)
        W[:, start + group :] -= errors @ U[columns, start + group :]
        scales.append(scale)
        offsets.append(offset)
    return torch.cat(codes, 1), torch.stack(scales, 1), torch.stack(offsets, 1)

"""Batch normalisation: y = w * (x - m) / sqrt(s + eps) + b, one affine map per channel at inference.

    training     m, s mean and variance of each channel over the batch's valid tokens
    evaluation   the stored mean and variance

Ioffe and Szegedy, "Batch Normalization", arXiv:1502.03167. Shapes: x [B, T, D].
"""

from __future__ import annotations

from searchspace.primitives.norms import BatchNorm, batch_normalized, fold_affine
from searchspace.registry import Operator

OPERATOR = Operator(
    name="batchnorm",
    slot="norm",
    paper="Ioffe and Szegedy 2015, arXiv:1502.03167",
    build=BatchNorm,
    reference=batch_normalized,
    fold=fold_affine,
    complexity="T D",
)

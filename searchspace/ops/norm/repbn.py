"""RepBN: batch normalisation plus a scaled identity, which becomes one affine map per channel at inference.

    training     y = w * (x - m) / sqrt(s + eps) + b + eta * x        m, s over the batch's valid tokens
    evaluation   the same with the stored mean and variance, hence y = A * x + c with
                 A = w / sqrt(s + eps) + eta        c = b - w * m / sqrt(s + eps)

Guo et al., "SLAB: Efficient Transformers with Simplified Linear Attention and Progressive Re-parameterized Batch
Normalization", arXiv:2405.11582. Shapes: x [B, T, D].
"""

from __future__ import annotations

from torch import Tensor

from searchspace.primitives.context import Tokens
from searchspace.primitives.norms import RepBatchNorm, batch_normalized, fold_affine
from searchspace.registry import Operator


def reference(module: RepBatchNorm, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    return batch_normalized(module, x, tokens) + module.eta * x


OPERATOR = Operator(
    name="repbn",
    slot="norm",
    paper="SLAB, Guo et al. 2024, arXiv:2405.11582",
    build=RepBatchNorm,
    reference=reference,
    fold=fold_affine,
    catalogue=(4, 101),
    complexity="T D",
)

"""Softmax over the hidden units, then their normalisation: y = N(softmax(x)), N(z) = (z - mean) / sqrt(var + eps).

An MLP with it reads its second matrix as a memory by softmax attention; without N the weights of many units are too
similar to learn from. Shen et al., "A Study on ReLU and Softmax in Transformer", arXiv:2302.06461. Both operations are
over the units of the slice, so a narrower FFN is not a slice of the wider one's output. Shapes: x [..., F].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.activations import Weightless, weightless
from searchspace.registry import Operator

EPS = 1e-12  # the variance of F weights that sum to 1 is at most 1 / F


def softmax_ln(x: Tensor) -> Tensor:
    """Return softmax, then LayerNorm without weights, over the last axis of x [..., F]."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return F.layer_norm(torch.softmax(x, -1, dtype=wide), x.shape[-1:], eps=EPS).to(x.dtype)


def reference(module: Weightless, x: Tensor) -> Tensor:
    """x and the result [..., F]."""
    weights = (x - x.amax(-1, keepdim=True)).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    centred = weights - weights.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt()


OPERATOR = Operator(
    name="softmax_ln",
    slot="activation",
    paper="Shen et al. 2023, arXiv:2302.06461",
    build=weightless(softmax_ln),
    reference=reference,
    catalogue=(115,),
    complexity="T F",
)

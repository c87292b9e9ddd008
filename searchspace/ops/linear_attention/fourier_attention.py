"""Fourier attention: attention without a softmax, with normalised queries and keys instead.

    o_i = ln(q_i)^T sum_j ln(k_j) v_j^T / (n sqrt(K))

Cao, "Choose a Transformer: Fourier or Galerkin", arXiv:2105.14995: each head has its own layer norm. Without a softmax
the product is associative, so this costs as little as Galerkin attention. Causal (ours): j <= i, n the tokens so far.
The paper starts the projections near a small multiple of the identity; here they are initialised as everywhere.
Shapes: B batch, T time, D model width, G groups, R heads per group, H = G R, K key dim = V value dim.
"""

from __future__ import annotations

import math

from torch import Tensor

from searchspace.primitives import state_size
from searchspace.primitives.axes import Axis
from searchspace.primitives.context import BuildContext
from searchspace.primitives.heads import HEAD_CHOICES
from searchspace.primitives.linear import HeadNorm, MeanLinear, mean_reference
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class FourierAttention(MeanLinear):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.q_norm = HeadNorm(Axis.of(G=self.G, R=self.R, K=self.K))
        self.k_norm = HeadNorm(Axis.of(G=self.G, K=self.K))

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, D] -> q [B, T, H, K], k and v [B, T, G, K]."""
        q, k, v = self.queries_keys_values(x)
        return self.q_norm(q) / math.sqrt(self.K), self.k_norm(k), v


OPERATOR = Operator(
    name="fourier_attention",
    slot="mixer",
    paper="Cao 2021, arXiv:2105.14995",
    build=FourierAttention,
    reference=mean_reference,
    choices=HEAD_CHOICES,
    flops=FourierAttention.flops,
    state_bytes=state_size.fixed,
    catalogue=(110,),
    complexity="T H K V",
    state="G K V",
)

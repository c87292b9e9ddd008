"""Galerkin attention: a product of queries with normalised keys and values, divided by the number of keys.

    o_i = q_i^T sum_j ln(k_j) ln(v_j)^T / n

Cao, "Choose a Transformer: Fourier or Galerkin", arXiv:2105.14995: each head has its own layer norm; keys are test
functions for the basis of values. There is no softmax and no feature map. Causal (ours): j <= i, n the tokens so far.
The paper starts the projections near a small multiple of the identity; here they are initialised as everywhere.
Shapes: B batch, T time, D model width, G groups, R heads per group, H = G R, K key dim = V value dim.
"""

from __future__ import annotations

from torch import Tensor

from searchspace.primitives import state_size
from searchspace.primitives.axes import Axis
from searchspace.primitives.context import BuildContext
from searchspace.primitives.heads import HEAD_CHOICES
from searchspace.primitives.linear import HeadNorm, MeanLinear, mean_reference
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class Galerkin(MeanLinear):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.k_norm = HeadNorm(Axis.of(G=self.G, K=self.K))
        self.v_norm = HeadNorm(Axis.of(G=self.G, K=self.K))

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, D] -> q [B, T, H, K], k and v [B, T, G, K]."""
        q, k, v = self.queries_keys_values(x)
        return q, self.k_norm(k), self.v_norm(v)


OPERATOR = Operator(
    name="galerkin",
    slot="mixer",
    paper="Cao 2021, arXiv:2105.14995",
    build=Galerkin,
    reference=mean_reference,
    choices=HEAD_CHOICES,
    flops=Galerkin.flops,
    state_bytes=state_size.fixed,
    catalogue=(110,),
    complexity="T H K V",
    state="G K V",
)

"""Learned absolute positions under a LayerNorm: N(x_t + E[position of t]).

The embeddings of BERT, Devlin et al., arXiv:1810.04805, without segment embeddings. Shapes: x [B, T, D], E [L, D] with
L the longest sequence of the network.
"""

from __future__ import annotations

from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule, normal, ones, zeros
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.primitives.row_norms import layer_norm
from searchspace.registry import EPSILON, Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-5


class LearnedNormedPosition(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.eps = spec.get("eps", EPS)
        d_model = Axis.of(D=context.d_model)
        self.declare("weight", (Axis.of(L=context.layout.max_len), d_model), normal(0.02))
        self.declare("norm_weight", (d_model,), ones)
        self.declare("norm_bias", (d_model,), zeros)

    def forward(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tokens]:
        """x [B, T, D] -> [B, T, D] with positions added, and the tokens."""
        assert tokens.positions is not None
        placed = x + self.weight[tokens.positions]
        return layer_norm(placed, self.norm_weight, self.norm_bias, self.eps), tokens


OPERATOR = Operator(
    name="learned_norm",
    slot="position",
    paper="BERT, Devlin et al. 2018, arXiv:1810.04805",
    build=LearnedNormedPosition,
    ranges={"eps": EPSILON},
    fixed={"eps": EPS},
    fixed_length=True,
)

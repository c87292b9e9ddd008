"""Change of width: y = x W^T + b, token by token.

The factorized embedding of ALBERT, Lan et al., arXiv:1909.11942: narrow token embeddings, wider blocks.
Shapes: x [B, T, D] -> [B, T, D'].
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class ChangeWidth(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        with_bias = replace(context, projection=OpSpec.of("dense", bias=True))
        self.proj = with_bias.linear("widen", Axis.of(D=context.d_next), Axis.of(E=context.d_model))

    def forward(self, x: Tensor, tokens: Tokens, saved: None = None) -> tuple[Tensor, Tokens, None]:
        """x [B, T, D] -> [B, T, D'], the tokens, no state."""
        return self.proj(x), tokens, None


def reference(module: ChangeWidth, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D']."""
    return (x.unsqueeze(-2) * module.proj.weight).sum(-1) + module.proj.bias


OPERATOR = Operator(
    name="change_width",
    slot="transition",
    paper="ALBERT, Lan et al. 2019, arXiv:1909.11942",
    build=ChangeWidth,
    reference=reference,
    causal=False,
    complexity="T D D'",
)

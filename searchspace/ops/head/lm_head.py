"""Language-model head: logits over the vocabulary for every token. Shapes: x [B, T, D] -> [B, T, W]."""

from __future__ import annotations

from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class LMHead(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.proj = context.linear("head", Axis.of(W=spec["vocab_size"]), Axis.of(D=context.d_model))

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        return self.proj(x)


OPERATOR = Operator(
    name="lm_head",
    slot="head",
    paper="the linear readout",
    build=LMHead,
    choices={"vocab_size": (256,)},
    quantizable=("head",),
)

"""Language-model head: logits over the vocabulary for every token.

`softcap` c > 0 bounds the logits, c tanh(y / c): Gemma Team, "Gemma 2", arXiv:2408.00118. `bias` adds one number per
vocabulary entry to the logits, as in GPT-J and Phi. Shapes: x [B, T, D] -> [B, T, W].
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from searchspace.primitives.activations import capped
from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.registry import SOFTCAP, Operator
from searchspace.spec.arch import OpSpec


class LMHead(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.softcap = spec.get("softcap", 0.0)
        if spec.get("bias", False):
            context = replace(context, projection=OpSpec.of("dense", bias=True))
        self.proj = context.linear("head", Axis.of(W=spec["vocab_size"]), Axis.of(D=context.d_model))

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        """x [B, T, D] -> logits [B, T, W]."""
        return capped(self.proj(x), self.softcap)


OPERATOR = Operator(
    name="lm_head",
    slot="head",
    paper="the linear readout",
    build=LMHead,
    ranges={"softcap": SOFTCAP},
    choices={"vocab_size": (256,)},
    fixed={"softcap": 0.0, "bias": False},
    quantizable=("head",),
)

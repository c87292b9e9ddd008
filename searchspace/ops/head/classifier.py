"""Classifier: the mean over valid tokens, or the first one, then one logit for each class.

Shapes: x [B, T, D] -> [B, classes].
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class Classifier(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.pooling = spec.get("pooling", "mean")
        context = replace(context, projection=OpSpec.of("dense", bias=spec.get("bias", False)))
        self.proj = context.linear("head", Axis.of(W=spec["num_classes"]), Axis.of(D=context.d_model))

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        return self.proj(x[:, 0] if self.pooling == "first" else tokens.mean(x))


def flops(module: Classifier, T: int, S: int) -> int:
    return 2 * module.proj.weight.numel()


OPERATOR = Operator(
    name="classifier",
    slot="head",
    paper="mean pooling and a linear readout",
    build=Classifier,
    ranges={"pooling": ("mean", "first")},
    choices={"num_classes": (10,)},
    fixed={"pooling": "mean", "bias": False},
    flops=flops,
    counts_projections=True,
    causal=False,
    quantizable=("head",),
)

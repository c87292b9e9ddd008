"""Classifier: one logit for each class, y = W z, or y = W act(V z + c) with a hidden layer as wide as the network.

    pooling   z is the mean over valid tokens, the first one, or with "none" every single token
    hidden    act, or "none" without the layer; the pooler and the heads of BERT, Devlin et al., arXiv:1810.04805, and
              its descendants

Shapes: x [B, T, D] -> [B, classes], or [B, T, classes] without pooling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu_erf": F.gelu,
}


class Classifier(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.pooling = spec.get("pooling", "mean")
        context = replace(context, projection=OpSpec.of("dense", bias=spec.get("bias", False)))
        d_model, hidden = Axis.of(D=context.d_model), spec.get("hidden", "none")
        self.activation = ACTIVATIONS.get(hidden)
        if self.activation is not None:
            with_bias = replace(context, projection=OpSpec.of("dense", bias=True))
            self.hidden_proj = with_bias.linear("transform", d_model, d_model)
        self.proj = context.linear("head", Axis.of(W=spec["num_classes"]), d_model)

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        """x [B, T, D] -> logits [B, classes], or [B, T, classes] without pooling."""
        if self.pooling != "none":
            x = x[:, 0] if self.pooling == "first" else tokens.mean(x)
        return self.proj(x if self.activation is None else self.activation(self.hidden_proj(x)))


def flops(module: Classifier, T: int, S: int) -> int:
    maps = [module.proj] + ([] if module.activation is None else [module.hidden_proj])
    return sum(2 * p.weight.numel() for p in maps) * (T if module.pooling == "none" else 1)


OPERATOR = Operator(
    name="classifier",
    slot="head",
    paper="mean pooling and a linear readout",
    build=Classifier,
    ranges={"pooling": ("mean", "first", "none"), "hidden": ("none", *ACTIVATIONS)},
    choices={"num_classes": (10,)},
    fixed={"pooling": "mean", "bias": False, "hidden": "none"},
    flops=flops,
    counts_projections=True,
    causal=False,
    quantizable=("transform", "head"),
)

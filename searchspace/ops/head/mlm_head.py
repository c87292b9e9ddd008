"""Masked-language-model head: logits over the vocabulary from a hidden layer, y = W N(gelu(V x)).

Devlin et al., "BERT", arXiv:1810.04805, with N a LayerNorm; W is separate from the stem's weights here. In this
project's spaces the vocabulary excludes the mask token. The hidden layer has the width of x, or `d_hidden` as in
ALBERT, Lan et al., arXiv:1909.11942. Shapes: x [B, T, D] -> [B, T, W].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.activations import gelu_tanh
from searchspace.primitives.axes import Axis, AxisModule, ones, zeros
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.registry import COUNT, EPSILON, Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-5
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": gelu_tanh, "gelu_erf": F.gelu, "relu": F.relu}


class MLMHead(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.eps = spec.get("eps", EPS)
        context = replace(context, projection=OpSpec.of("dense", bias=spec.get("bias", False)))
        d_model, d_hidden = Axis.of(D=context.d_model), spec.get("d_hidden", 0)
        hidden = Axis.of(E=d_hidden) if d_hidden else d_model
        self.activation = ACTIVATIONS[spec.get("activation", "gelu")]
        self.transform_proj = context.linear("transform", hidden, d_model)
        self.declare("weight", (hidden,), ones)
        self.declare("bias", (hidden,), zeros)
        self.proj = context.linear("head", Axis.of(W=spec["vocab_size"]), hidden)

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        """x [B, T, D] -> logits [B, T, W]."""
        hidden = self.activation(self.transform_proj(x))
        return self.proj(F.layer_norm(hidden, hidden.shape[-1:], self.weight, self.bias, self.eps))


OPERATOR = Operator(
    name="mlm_head",
    slot="head",
    paper="BERT, Devlin et al. 2018, arXiv:1810.04805",
    build=MLMHead,
    ranges={"d_hidden": COUNT, "eps": EPSILON, "activation": tuple(ACTIVATIONS)},
    choices={"vocab_size": (256,)},
    fixed={"activation": "gelu", "bias": False, "d_hidden": 0, "eps": EPS},
    causal=False,
    packed=True,
    quantizable=("transform", "head"),
)

"""Masked-language-model head: logits over the vocabulary from a hidden layer, y = W N(gelu(V x)).

Devlin et al., "BERT", arXiv:1810.04805, with N a LayerNorm; W has weights of its own here, not those of the stem.
The vocabulary leaves out the mask. Shapes: x [B, T, D] -> [B, T, W].
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.activations import gelu_tanh
from searchspace.primitives.axes import Axis, AxisModule, ones, zeros
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-5


class MLMHead(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        d_model = Axis.of(D=context.d_model)
        self.transform_proj = context.linear("transform", d_model, d_model)
        self.declare("weight", (d_model,), ones)
        self.declare("bias", (d_model,), zeros)
        self.proj = context.linear("head", Axis.of(W=spec["vocab_size"]), d_model)

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        hidden = gelu_tanh(self.transform_proj(x))
        return self.proj(F.layer_norm(hidden, hidden.shape[-1:], self.weight, self.bias, EPS))


OPERATOR = Operator(
    name="mlm_head",
    slot="head",
    paper="BERT, Devlin et al. 2018, arXiv:1810.04805",
    build=MLMHead,
    choices={"vocab_size": (256,)},
    causal=False,
    packed=True,
    quantizable=("transform", "head"),
)

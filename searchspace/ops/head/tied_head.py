"""Language-model head with the stem's token embedding E: y = x E^T.

Press and Wolf, "Using the Output Embedding to Improve Language Models", arXiv:1608.05859. It has no weights: E travels
with the tokens. `softcap` c > 0 bounds the logits, c tanh(y / c): Gemma Team, "Gemma 2", arXiv:2408.00118. Shapes: x
[B, T, D], E [W, D] -> [B, T, W].
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.activations import capped
from searchspace.primitives.axes import AxisModule
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.registry import SOFTCAP, Operator
from searchspace.spec.arch import OpSpec


class TiedHead(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.softcap = spec.get("softcap", 0.0)
        self.shape = (spec["vocab_size"], context.d_model)

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        """x [B, T, D] -> logits [B, T, W]. Raises ValueError where the stem's embedding is missing or differs."""
        if tokens.embedding is None or tokens.embedding.shape != self.shape:
            found = None if tokens.embedding is None else tuple(tokens.embedding.shape)
            raise ValueError(f"tied_head reads with the stem's rows {self.shape}, the stem has {found}")
        return capped(F.linear(x, tokens.embedding), self.softcap)


def flops(module: TiedHead, T: int, S: int) -> int:
    return 2 * T * module.shape[0] * module.shape[1]


OPERATOR = Operator(
    name="tied_head",
    slot="head",
    paper="Press and Wolf 2016, arXiv:1608.05859",
    build=TiedHead,
    ranges={"softcap": SOFTCAP},
    choices={"vocab_size": (256,)},
    fixed={"softcap": 0.0},
    flops=flops,
    bidirectional=False,
    complexity="T D W",
)

"""Token embedding: x_t = E[id of token t]. Shapes: inputs [B, T] int, E [W, D], x [B, T, D]."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule, fan_in
from searchspace.primitives.caches import following
from searchspace.primitives.context import BuildContext, Layout, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class TokenEmbedding(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.declare("weight", (Axis.of(W=spec["vocab_size"]), Axis.of(D=context.d_model)), fan_in())

    def forward(self, inputs: Tensor, tokens: Tokens, start: int | Tensor = 0) -> tuple[Tensor, Tokens]:
        """inputs [B, T] -> x [B, T, D]; `start` is the number of earlier tokens in the sequence.

        Raises ValueError naming a token id outside the vocabulary.
        """
        if tokens.positions is None:
            tokens = tokens.replace(positions=following(start, inputs.shape[1], inputs.device))
        try:
            x = F.embedding(inputs, self.weight)
        except IndexError:
            worst = int(inputs.min()) if inputs.min() < 0 else int(inputs.max())
            raise ValueError(
                f"token id {worst}: the network has the vocabulary 0 to {len(self.weight) - 1}"
            ) from None
        return x, tokens.replace(embedding=self.weight)


def layout(spec: OpSpec, before: Layout) -> Layout:
    return Layout(max_len=spec["max_len"])


OPERATOR = Operator(
    name="token_embedding",
    slot="stem",
    paper="a row of weights for each token",
    build=TokenEmbedding,
    choices={"vocab_size": (256,), "max_len": (64,)},
    layout=layout,
)

"""MLP: y = W_down act(W_up x), nested in its hidden width.

A network with hidden width F' < F keeps the first F' rows of W_up and columns of W_down (MatFormer: Devvrit et al.,
arXiv:2310.07707). The activation is an operator in a slot of its own; all but polynorm and softmax_ln act unit by unit,
and with those the narrower network computes exactly what the wider one does without its other units.
Shapes: x [B, T, D], hidden [B, T, F].
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.registry import Nested, Operator
from searchspace.spec.arch import OpSpec


class MLP(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        d_model, hidden = Axis.of(D=context.d_model), Axis.of(F=spec["d_ff"])
        self.activation = context.nested("activation", spec["activation"])
        self.up_proj = context.linear("up", hidden, d_model)
        self.down_proj = context.linear("down", d_model, hidden)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        return self.down_proj(self.activation(self.up_proj(x))), None


def reference(module: MLP, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    hidden = module.activation(F.linear(x, module.up_proj.weight))
    return (hidden.unsqueeze(-2) * module.down_proj.weight).sum(-1)


OPERATOR = Operator(
    name="mlp",
    slot="ffn",
    paper="MatFormer nesting, arXiv:2310.07707",
    build=MLP,
    reference=reference,
    choices={"d_ff": (64, 128, 256), "activation": Nested("activation", ("gelu", "relu_squared"))},
    catalogue=(31,),
    quantizable=("up", "down"),
    complexity="T D F",
)

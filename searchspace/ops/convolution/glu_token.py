"""Token GLU: a gated linear unit over the tokens of each channel, in place of attention.

    Y = W_down (act(W_gate X) * (W_up X))        W_gate, W_up [U, L], W_down [L, U]

Activator, Abdullah and Aydin, arXiv:2405.15953, on the token axis. Every weight belongs to a place in the sequence, so
the layout's maximum length L is fixed; a shorter sequence uses the first columns and rows. Every token sees all others:
bidirectional only. Shapes: X [B, T, D], hidden [B, U, D].
"""

from __future__ import annotations

from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule, fan_in
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.registry import Nested, Operator
from searchspace.spec.arch import OpSpec


class TokenGLU(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.num_hidden = spec["num_hidden"]
        self.d_model = context.d_model
        length, hidden = Axis.of(L=context.layout.max_len), Axis.of(U=self.num_hidden)
        self.activation = context.nested("activation", spec["activation"])
        self.declare("token_gate", (hidden, length), fan_in())
        self.declare("token_up", (hidden, length), fan_in())
        self.declare("token_down", (length, hidden), fan_in())

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        T, x = x.shape[1], tokens.without_padding(x)
        gate, up = self.token_gate[:, :T] @ x, self.token_up[:, :T] @ x
        return self.token_down[:T] @ (self.activation(gate) * up), None


def reference(module: TokenGLU, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    x = tokens.without_padding(x)
    rows = [module.token_gate[:, t, None] * x[:, t, None] for t in range(x.shape[1])]
    gate = module.activation(sum(rows[1:], rows[0]))
    rows = [module.token_up[:, t, None] * x[:, t, None] for t in range(x.shape[1])]
    hidden = gate * sum(rows[1:], rows[0])
    return (hidden.unsqueeze(1) * module.token_down[: x.shape[1], :, None]).sum(2)


def flops(module: TokenGLU, T: int, S: int) -> int:
    return 6 * T * module.num_hidden * module.d_model


OPERATOR = Operator(
    name="glu_token",
    slot="mixer",
    paper="Activator, Abdullah and Aydin 2024, arXiv:2405.15953",
    build=TokenGLU,
    reference=reference,
    choices={
        "num_hidden": (16, 32, 64),
        "activation": Nested("activation", ("gelu", "silu", "logistic_sigmoid")),
    },
    flops=flops,
    causal=False,
    fixed_length=True,
    catalogue=(8, 87),
    complexity="T U D",
)

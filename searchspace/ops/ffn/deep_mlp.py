"""Deep MLP: an FFN with several hidden layers of one width, y = W_down act(W_n ... act(W_2 act(W_up x))).

FlexiBERT, Tuli et al., arXiv:2205.11656, stacks one or three hidden layers; with one this is `mlp`, whose maps it
shares. Widths are nested: a smaller network keeps the first units of every hidden layer. Shapes: x [B, T, D], hidden
[B, T, F].
"""

from __future__ import annotations

from torch import Tensor, nn

from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.registry import Nested, Operator, Range
from searchspace.spec.arch import OpSpec


class DeepMLP(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        d_model, hidden = Axis.of(D=context.d_model), Axis.of(F=spec["d_ff"])
        self.activation = context.nested("activation", spec["activation"])
        self.up_proj = context.linear("up", hidden, d_model)
        further = range(spec["num_hidden"] - 1)
        self.hidden_proj = nn.ModuleList(context.linear("hidden", hidden, hidden) for _ in further)
        self.down_proj = context.linear("down", d_model, hidden)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        hidden = self.activation(self.up_proj(x))
        for proj in self.hidden_proj:
            hidden = self.activation(proj(hidden))
        return self.down_proj(hidden), None


def reference(module: DeepMLP, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    *hidden, last = (module.up_proj, *module.hidden_proj, module.down_proj)
    for proj in hidden:
        x = module.activation((x.unsqueeze(-2) * proj.weight).sum(-1))
    return (x.unsqueeze(-2) * last.weight).sum(-1)


OPERATOR = Operator(
    name="deep_mlp",
    slot="ffn",
    paper="FlexiBERT, Tuli et al. 2022, arXiv:2205.11656",
    build=DeepMLP,
    ranges={"num_hidden": Range(1, 64)},
    reference=reference,
    choices={
        "d_ff": (64, 128, 256),
        "num_hidden": (1, 3),
        "activation": Nested("activation", ("gelu", "relu")),
    },
    catalogue=(5,),
    quantizable=("up", "hidden", "down"),
    complexity="T (D + n F) F",
)

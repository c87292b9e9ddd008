"""Gated linear unit: y = W_down (act(W_gate x) * W_up x), nested in its hidden width.

    hidden_norm  y = W_down (N(act(W_gate x)) * N(W_up x)), N one LayerNorm over the hidden units for both

Shazeer, "GLU Variants Improve Transformer", arXiv:2002.05202: act logistic_sigmoid (GLU), gelu (GEGLU), silu (SwiGLU),
identity (bilinear; the SGLU of TransNormerLLM, arXiv:2307.14995). With the norm and no mixer in the block this is the
channel form of Activator, Abdullah and Aydin, arXiv:2405.15953, which does not mix tokens. The norm is over the units
of the slice, so a narrower network with it is not a slice of the wider one's output.
Shapes: x [B, T, D], hidden [B, T, F].
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.activations import gated_activation
from searchspace.primitives.axes import Axis, AxisModule, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.registry import Nested, Operator
from searchspace.spec.arch import OpSpec

EPS = 1e-5


class GLU(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        d_model, hidden = Axis.of(D=context.d_model), Axis.of(F=spec["d_ff"])
        self.activation = context.nested("activation", spec["activation"])
        self.activation_name = spec["activation"].op
        self.gate_proj = context.linear("gate", hidden, d_model)
        self.up_proj = context.linear("up", hidden, d_model)
        self.down_proj = context.linear("down", d_model, hidden)
        self.is_normed = spec["hidden_norm"]
        if self.is_normed:
            self.declare("hidden_weight", (hidden,), ones)
            self.declare("hidden_bias", (hidden,), zeros)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        gate, up = self.gate_proj(x), self.up_proj(x)
        if not self.is_normed:
            return self.down_proj(gated_activation(gate, up, self.activation_name)), None
        gate, up = (
            F.layer_norm(h, h.shape[-1:], self.hidden_weight, self.hidden_bias, EPS)
            for h in (self.activation(gate), up)
        )
        return self.down_proj(gate * up), None


def reference(module: GLU, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    hidden = [module.activation(F.linear(x, module.gate_proj.weight)), F.linear(x, module.up_proj.weight)]
    if module.is_normed:
        centred = [h - h.mean(-1, keepdim=True) for h in hidden]
        hidden = [c / (c.square().mean(-1, keepdim=True) + EPS).sqrt() for c in centred]
        hidden = [module.hidden_weight * h + module.hidden_bias for h in hidden]
    return ((hidden[0] * hidden[1]).unsqueeze(-2) * module.down_proj.weight).sum(-1)


OPERATOR = Operator(
    name="glu",
    slot="ffn",
    paper="Shazeer 2020, arXiv:2002.05202; Activator, arXiv:2405.15953",
    build=GLU,
    reference=reference,
    choices={
        "d_ff": (64, 128, 256),
        "activation": Nested("activation", ("logistic_sigmoid", "gelu", "silu", "identity")),
        "hidden_norm": (False, True),
    },
    catalogue=(8, 87),
    quantizable=("gate", "up", "down"),
    complexity="T D F",
)

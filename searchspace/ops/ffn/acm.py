"""Adaptive computation module: an FFN whose hidden width each token chooses, in N blocks of E units.

    y_t = sum_{n <= k_t} W_down^(n) act(W_up^(n) x_t)        k_t in 0 .. N

Wojcik et al., "Adaptive Computation Modules: Granular Conditional Computation for Efficient Inference",
arXiv:2312.10193. A gate gives each token a probability for each width, p = softmax(W_choice x), and the likeliest width
is used, k_t = argmax p. In training, gradients pass straight through p; the published Gumbel noise is left to the
trainer, so a forward pass stays a function of its input. All units are computed and then masked: the counted cost is
the dense one. Shapes: x [B, T, D], hidden [B, T, N, E], p [B, T, N + 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule, fan_in
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.registry import Nested, Operator
from searchspace.spec.arch import OpSpec


class AdaptiveComputation(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.N, self.d_model = spec["num_learners"], context.d_model
        d_model = Axis.of(D=context.d_model)
        hidden = Axis.of(N=self.N, E=spec["learner_width"])
        self.activation = context.nested("activation", spec["activation"])
        self.learner_up = context.linear("up", hidden, d_model)
        self.learner_down = context.linear("down", d_model, hidden)
        self.declare("choice", (Axis.of(choices=self.N + 1), d_model), fan_in())

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        hidden = self.activation(self.learner_up(x)).unflatten(-1, (self.N, -1))
        return self.learner_down((hidden * self.is_run(x).unsqueeze(-1)).flatten(-2)), None

    def is_run(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> [B, T, N], 1 where the token runs the learner; gradients are those of the probabilities."""
        p = torch.softmax(x @ self.choice.T, -1)
        chosen = torch.zeros_like(p).scatter(-1, p.argmax(-1, keepdim=True), 1.0)
        if self.training:
            chosen = chosen + p - p.detach()
        return (
            chosen.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        )  # learner n runs where the chosen width is n or more


def reference(module: AdaptiveComputation, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    width = (x @ module.choice.T).argmax(-1)
    up = module.learner_up.weight.unflatten(0, (module.N, -1))
    down = module.learner_down.weight.unflatten(1, (module.N, -1))
    y = torch.zeros_like(x)
    for n in range(module.N):
        learner = module.activation(x @ up[n].T) @ down[:, n].T
        y = y + torch.where((width > n).unsqueeze(-1), learner, 0.0)
    return y


def flops(module: AdaptiveComputation, T: int, S: int) -> int:
    return 2 * T * module.d_model * (module.N + 1)


OPERATOR = Operator(
    name="acm",
    slot="ffn",
    paper="Wojcik et al. 2023, arXiv:2312.10193",
    build=AdaptiveComputation,
    reference=reference,
    choices={
        "num_learners": (2, 4, 8),
        "learner_width": (16, 32),
        "activation": Nested("activation", ("gelu", "relu_squared")),
    },
    flops=flops,
    catalogue=(85,),
    quantizable=("up", "down"),
    complexity="T D N E",
)

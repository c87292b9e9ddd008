"""Max-pooling in the hidden layer of an FFN, as the mixer: y = W_down gelu(max over w of gelu(W_up x)).

Han et al., "Learning Features with Parameter-Free Layers", arXiv:2202.02777: the maximum of each hidden unit over the
w x w window around a token of an image, or (ours) over the last w tokens of a sequence. Positions outside and padding
are ignored: they are set to -1, below every value of gelu. Shapes: x [B, T, D], hidden [B, T, E D].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import state_size
from searchspace.primitives.activations import gelu_tanh
from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.registry import ODD, Operator, Range
from searchspace.spec.arch import OpSpec

BELOW = -1.0  # gelu is at least -0.17


class MaxPoolEff(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.window, self.causal = spec["window"], context.causal
        d_model, hidden = Axis.of(D=context.d_model), Axis.of(E=spec["expansion"], D=context.d_model)
        self.num_hidden = hidden.size
        self.pool_up = context.linear("up", hidden, d_model)
        self.pool_down = context.linear("down", d_model, hidden)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        hidden = gelu_tanh(self.pool_up(x))
        if tokens.valid is not None:
            hidden = hidden.masked_fill(~tokens.valid.unsqueeze(-1), BELOW)
        if not self.causal:
            image = hidden.transpose(1, 2).unflatten(2, tokens.sides)
            largest = F.max_pool2d(image, self.window, 1, self.window // 2).flatten(2)
            return self.pool_down(gelu_tanh(largest.transpose(1, 2))), None
        earlier = state["hidden"] if state else self.nothing(x.shape[0], x.device, x.dtype)
        seen = torch.cat((earlier, hidden), 1)
        largest = F.max_pool1d(seen.transpose(1, 2), self.window, 1).transpose(1, 2)
        kept = {"hidden": seen[:, seen.shape[1] - self.window + 1 :].clone()} if state else None
        return self.pool_down(gelu_tanh(largest)), kept

    def nothing(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return the state before the first token, BELOW everywhere [B, w - 1, E D]."""
        return torch.full((batch_size, self.window - 1, self.num_hidden), BELOW, device=device, dtype=dtype)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        return {"hidden": self.nothing(batch_size, device, dtype)}


def reference(module: MaxPoolEff, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    hidden = gelu_tanh(F.linear(x, module.pool_up.weight))
    B, T, _ = x.shape
    columns, half = (tokens.sides[1] if tokens.grid else T), module.window // 2
    y = torch.zeros_like(x)
    for b in range(B):
        for t in range(T):
            row, column = divmod(t, columns)
            near = [
                s
                for s in range(T)
                if (t - module.window < s <= t if module.causal else True)
                and (module.causal or max(abs(s // columns - row), abs(s % columns - column)) <= half)
            ]
            rows = [hidden[b, s] for s in near if tokens.is_real(b, s)]
            if rows:
                y[b, t] = module.pool_down.weight @ gelu_tanh(torch.stack(rows).amax(0))
    return y


OPERATOR = Operator(
    name="maxpool_eff",
    slot="mixer",
    paper="Han et al. 2022, arXiv:2202.02777",
    build=MaxPoolEff,
    ranges={"window": ODD, "expansion": Range(1, 16)},
    reference=reference,
    choices={"window": (3, 5, 7), "expansion": (1, 2, 3)},
    state_bytes=state_size.fixed,
    needs_2d=True,
    catalogue=(36,),
    quantizable=("up", "down"),
    complexity="T E D^2",
    state="(w - 1) E D",
)

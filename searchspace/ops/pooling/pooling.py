"""Pooling: the mean over a neighbourhood minus the token itself. No parameters.

    2-D grid     y_p = mean(x over the w x w window around p) - x_p, without positions outside the grid
    causal 1-D   y_t = mean(x_{t-w+1} .. x_t) - x_t, without positions before the first

Yu et al., "MetaFormer Is Actually What You Need for Vision", arXiv:2111.11418; the causal form is ours. The token is
subtracted because the residual adds it back. Shapes: x [B, T, D], grid T = rows * columns.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import state_size
from searchspace.primitives.axes import AxisModule
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.convolution import WINDOW, why_no_middle
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class Pooling(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.window, self.causal, self.d_model = spec["window"], context.causal, context.d_model

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        real = tokens.real(x)
        if not self.causal:
            return self.mean_2d(x * real, real, tokens) - x, None
        earlier, earlier_real = (state["x"], state["real"]) if state else (x[:, :0], real[:, :0])
        seen, seen_real = torch.cat((earlier, x * real), 1), torch.cat((earlier_real, real), 1)
        mean = (self.sum_1d(seen) / self.sum_1d(seen_real).clamp_min(1.0))[:, -x.shape[1] :]
        keep = slice(max(0, seen.shape[1] - self.window + 1), None)
        return mean - x, {"x": seen[:, keep].clone(), "real": seen_real[:, keep].clone()} if state else None

    def sum_1d(self, x: Tensor) -> Tensor:
        """x [B, S, C] -> sums over the last `window` tokens [B, S, C].

        Uses shifted additions, since the first token must sum to itself exactly: a norm would amplify rounding errors
        in mean - x.
        """
        padded = F.pad(x, (0, 0, self.window - 1, 0))
        total = padded[:, : x.shape[1]]
        for i in range(1, self.window):
            total = total + padded[:, i : i + x.shape[1]]
        return total

    def mean_2d(self, x: Tensor, real: Tensor, tokens: Tokens) -> Tensor:
        """x [B, T, D] -> the mean over each window [B, T, D]; `real` [B, T, 1] is 0 at padding."""
        total, count = (self.sum_2d(t.transpose(1, 2).unflatten(2, tokens.sides)) for t in (x, real))
        return (total / count.clamp_min(1.0)).flatten(2).transpose(1, 2)

    def sum_2d(self, x: Tensor) -> Tensor:
        """x [B, C, rows, columns] -> sums over windows [B, C, rows, columns]."""
        return F.avg_pool2d(x, self.window, 1, self.window // 2, count_include_pad=True) * self.window**2

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        nothing = torch.empty(batch_size, 0, self.d_model, device=device, dtype=dtype)
        return {"x": nothing, "real": nothing[..., :1]}


def reference(module: Pooling, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    B, T, _ = x.shape
    columns = tokens.sides[1] if tokens.grid else T
    half = module.window // 2
    y = -x
    for b in range(B):
        for t in range(T):
            if module.causal:
                near = list(range(max(0, t - module.window + 1), t + 1))
            else:
                row, column = divmod(t, columns)
                near = [
                    s
                    for s in range(T)
                    if abs(s // columns - row) <= half and abs(s % columns - column) <= half
                ]
            rows = [x[b, s] for s in near if tokens.is_real(b, s)]
            if rows:
                y[b, t] = y[b, t] + torch.stack(rows).mean(0)
    return y


OPERATOR = Operator(
    name="pooling",
    slot="mixer",
    paper="Yu et al. 2021, arXiv:2111.11418",
    build=Pooling,
    ranges={"window": WINDOW},
    why_invalid=why_no_middle,
    reference=reference,
    choices={"window": (3, 5, 7)},
    state_bytes=state_size.tokens(lambda module, n: min(n, module.window - 1)),
    needs_2d=True,
    catalogue=(30,),
    complexity="T w D",
    state="(w - 1) D",
)

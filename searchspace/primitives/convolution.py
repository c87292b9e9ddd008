"""Depthwise convolution over the tokens: over the past of a sequence, or around each token of a 2-D grid.

    causal 1-D   y_t[c] = sum_i w[c, i] x_{t - i delta}[c]                    i = 0 .. k - 1
    2-D          y_p[c] = sum_{i, j} w[c, i, j] x_{p + delta (o_i, o_j)}[c]   o = 0, 1, -1, 2, -2, ...

delta is the dilation; positions outside and padding are 0. Taps are stored from the token outwards, so a smaller
kernel, a prefix, is the middle of a larger one: the last tokens, or the central square.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.kernels import dispatch
from searchspace.primitives.axes import Axis, AxisModule, normal
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.registry import Range
from searchspace.spec.arch import OpSpec

WINDOW = Range(1, 2**20)  # of tokens


def why_no_middle(spec: OpSpec, context: BuildContext) -> str | None:
    """Require an odd window around a token; a window over the last tokens may have any size."""
    if context.causal or spec["window"] % 2:
        return None
    return f"{spec.op}: window = {spec['window']} must be odd where it lies around a token, since it has a middle"


class DepthwiseConv(AxisModule):
    """x [B, T, C] -> [B, T, C], and the last (k - 1) delta tokens of x where a state is given."""

    def __init__(self, channels: Axis, kernel_size: int, causal: bool, dilation: int = 1) -> None:
        super().__init__()
        self.kernel_size, self.causal, self.dilation = kernel_size, causal, dilation
        self.channels, self.past = channels.size, (kernel_size - 1) * dilation
        taps = (
            (Axis.of(taps=kernel_size),)
            if causal
            else (Axis.of(rows=kernel_size), Axis.of(columns=kernel_size))
        )
        std = 1 / math.sqrt(math.prod(axis.size for axis in taps))
        self.declare("weight", (channels, *taps), normal(std))

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        x = tokens.without_padding(x)
        if not self.causal:
            return self.around(x, tokens), None
        y, kept = causal_convolution(x, self.weight, state["x"] if state else None, self.dilation)
        return y, None if kept is None else {"x": kept}

    def around(self, x: Tensor, tokens: Tokens) -> Tensor:
        """The 2-D form. x [B, T, C] -> [B, T, C]."""
        order = [tap_of(o) for o in offsets(self.kernel_size)]
        kernel = self.weight[:, order][:, :, order].unsqueeze(1)
        image = x.transpose(1, 2).unflatten(2, tokens.sides)
        margin = self.dilation * (self.kernel_size // 2)
        y = F.conv2d(image, kernel, padding=margin, dilation=self.dilation, groups=self.channels)
        return y.flatten(2).transpose(1, 2)

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        return {"x": torch.zeros(batch_size, self.past, self.channels, device=device, dtype=dtype)}

    def flops(self, T: int) -> int:
        return 2 * T * self.weight.numel()


def causal_convolution(
    x: Tensor, weight: Tensor, earlier: Tensor | None, dilation: int = 1, silu: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The 1-D form, with or without SiLU after it: x [B, T, C], weight [C, k] -> y [B, T, C].

    If `earlier` [B, (k - 1) delta, C], the tokens before x, is given, the value for the following tokens is returned
    too.
    """
    kernel = dispatch.kernel("short_convolution", x.device, x)
    if kernel is not None:
        return kernel(x, weight, earlier, dilation, silu)
    past = (weight.shape[1] - 1) * dilation
    seen = torch.cat((x.new_zeros(x.shape[0], past, x.shape[2]) if earlier is None else earlier, x), 1)
    taps = weight.flip(1).unsqueeze(1)
    y = F.conv1d(seen.transpose(1, 2), taps, dilation=dilation, groups=x.shape[2]).transpose(1, 2)
    kept = None if earlier is None else seen[:, seen.shape[1] - past :].clone()
    return F.silu(y) if silu else y, kept


def offsets(kernel_size: int) -> list[int]:
    """Return -(k // 2) .. k // 2 in the order of storage."""
    return list(range(-(kernel_size // 2), kernel_size // 2 + 1))


def tap_of(offset: int) -> int:
    """Return the storage index of an offset's tap, in the order 0, 1, -1, 2, -2, ..."""
    return 2 * offset - 1 if offset > 0 else -2 * offset


def convolved(module: DepthwiseConv, x: Tensor, tokens: Tokens) -> Tensor:
    """Reference: token by token, tap by tap. x [B, T, C] -> [B, T, C]."""
    x = tokens.without_padding(x)
    T, steps = x.shape[1], [i * module.dilation for i in range(module.kernel_size)]
    rows = []
    for t in range(T):
        y = torch.zeros_like(x[:, 0])
        if module.causal:
            for i, step in enumerate(steps):
                y = y + module.weight[:, i] * x[:, t - step] if t >= step else y
        else:
            for down, right, s in _neighbours(module, t, tokens):
                y = y + module.weight[:, tap_of(down), tap_of(right)] * x[:, s]
        rows.append(y)
    return torch.stack(rows, 1)


def _neighbours(module: DepthwiseConv, t: int, tokens: Tokens) -> list[tuple[int, int, int]]:
    """(row offset, column offset, token) of every tap on the grid."""
    rows, columns = tokens.sides
    row, column = divmod(t, columns)
    found = []
    for i in offsets(module.kernel_size):
        for j in offsets(module.kernel_size):
            r, c = row + module.dilation * i, column + module.dilation * j
            if 0 <= r < rows and 0 <= c < columns:
                found.append((i, j, r * columns + c))
    return found

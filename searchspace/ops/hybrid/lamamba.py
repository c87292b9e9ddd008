"""LaMamba: a scan of the whole image for distant tokens, then softmax attention in windows for near ones.

    s = cross_scan(x)          y = s + attention_in_windows(w * rms(x + s))

Windows of `window` x `window` tokens are shifted by half in every second layer; scores get a learned bias per offset
inside the window. Fu et al., "LaMamba-Diff: Linear-Time High-Fidelity Diffusion Models Based on Local Attention and
Mamba", arXiv:2408.02615. There each half has its own residual and is conditioned on a time step; here they form one
mixer without conditions. Windows are a mask on all pairs, which costs T^2. Shapes: B batch, T = rows * columns, D model
width, G groups, R heads per group, H = G R, K head dim, w window.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import cross_scan
from searchspace.primitives.axes import Axis, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.cross_scan import CrossScan
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec

EPS = 1e-6


class LaMamba(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.window = spec["window"]
        self.shift = self.window // 2 if context.layer % 2 else 0
        self.cross_scan = CrossScan(context, spec["expand"], spec["num_states"], spec["directions"])
        self.declare("window_norm_weight", (Axis.of(D=context.d_model),), ones)
        side = 2 * self.window - 1
        axes = (Axis.of(G=self.G, R=self.R), Axis.of(rows=side), Axis.of(columns=side))
        self.declare("window_bias", axes, zeros)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        s = self.cross_scan(x, tokens)
        q, k, v = self.queries_keys_values(self.between(x, s))
        q, k, v = q.transpose(1, 2), self.per_head(k).transpose(1, 2), self.per_head(v).transpose(1, 2)
        seen, bias = self.windows(tokens, x.device)
        seen = seen if tokens.valid is None else seen & tokens.valid[:, None, None]
        scores = (q @ k.mT / math.sqrt(self.K) + bias).masked_fill(~seen, torch.finfo(q.dtype).min)
        weights = scores.softmax(-1) * seen
        return s + self.merge_heads((weights @ v).transpose(1, 2)), None

    def between(self, x: Tensor, s: Tensor) -> Tensor:
        """x and the scan's output s, [B, T, D] -> the input of the windows [B, T, D]."""
        return F.rms_norm(x + s, x.shape[-1:], self.window_norm_weight, EPS)

    def windows(self, tokens: Tokens, device: torch.device) -> tuple[Tensor, Tensor]:
        """Which pairs share a window [T, T], and the bias of their offset [H, T, T], arbitrary for other pairs."""
        rows, columns = tokens.sides
        places = torch.arange(rows * columns, device=device)
        together, taps = torch.ones(1, dtype=torch.bool, device=device), []
        for at in (places // columns, places % columns):
            number = (at + self.shift) // self.window
            together = together & (number.unsqueeze(1) == number)
            offset = (at.unsqueeze(1) - at).clamp(1 - self.window, self.window - 1)
            taps.append(torch.where(offset > 0, 2 * offset - 1, -2 * offset))  # a smaller window is a prefix
        return together, self.window_bias[:, taps[0], taps[1]]


def reference(module: LaMamba, x: Tensor, tokens: Tokens) -> Tensor:
    """Window by window. x [B, T, D] -> [B, T, D]."""
    s = cross_scan.cross_scan_reference(module.cross_scan, x, tokens)
    q, k, v = module.queries_keys_values(module.between(x, s))
    k, v = module.per_head(k), module.per_head(v)
    members: dict[tuple[int, int], list[int]] = {}
    for t in range(x.shape[1]):
        row, column = divmod(t, tokens.sides[1])
        key = ((row + module.shift) // module.window, (column + module.shift) // module.window)
        members.setdefault(key, []).append(t)
    _, bias = module.windows(tokens, x.device)
    o = torch.zeros_like(q)
    for b in range(len(x)):
        for window in members.values():
            keys = [t for t in window if tokens.is_real(b, t)]
            for t in window if keys else []:
                scores = (k[b, keys] * q[b, t]).sum(-1) / math.sqrt(module.K) + bias[:, t, keys].T  # [S, H]
                o[b, t] = (scores.softmax(0).unsqueeze(-1) * v[b, keys]).sum(0)
    return s + module.merge_heads(o)


def flops(module: LaMamba, T: int, S: int) -> int:
    return module.cross_scan.flops(T) + 4 * T * T * module.H * module.K


OPERATOR = Operator(
    name="lamamba",
    slot="mixer",
    paper="Fu et al. 2024, arXiv:2408.02615",
    build=LaMamba,
    ranges={"directions": cross_scan.DIRECTIONS, "expand": Range(1, 16)},
    reference=reference,
    choices={**HEAD_CHOICES, **cross_scan.CHOICES, "window": (4, 8)},
    flops=flops,
    causal=False,
    needs_2d=True,
    quantizable=("q", "k", "v", "o", "up", "gate", "down"),
    catalogue=(69,),
    complexity="4 T C N + T^2 H K",
)

"""Entmax: A_ij = max(0, (alpha - 1) s_ij - tau_i)^(1 / (alpha - 1)), tau_i such that row i sums to 1.

alpha = 2 is sparsemax, alpha towards 1 softmax; between them weights far below the largest are exactly 0. `learned`
gives every head its own alpha = 1 + sigmoid(a) in (1, 2), initially 1.5. Peters et al., "Sparse
Sequence-to-Sequence Models", arXiv:1905.05702; Correia et al., "Adaptively Sparse Transformers", arXiv:1909.00015; for
speech Zhao et al., "Adaptive Sparse and Monotonic Attention for Transformer-based ASR", arXiv:2209.15176. tau is found
by bisection; the last step is Newton's and carries the gradient of tau as an implicit function of scores and alpha.
Shapes: scores [B, H, T, S], visible broadcastable to them; a row that sees nothing is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import AxisModule, zeros
from searchspace.primitives.context import BuildContext
from searchspace.primitives.scores import ONE_HEAD, HeadSizes
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec

HALVINGS = 30  # bisection steps; Newton's step then squares the remaining error
NEWTON_STEPS = 60  # of the reference


class Entmax(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, heads: HeadSizes = ONE_HEAD) -> None:
        super().__init__()
        self.is_learned = spec["alpha"] == "learned"
        if self.is_learned:
            self.declare("raw_alpha", (heads.axis,), zeros)
        else:
            self.fixed = float(spec["alpha"])

    def steepness(self, scores: Tensor) -> Tensor:
        """alpha - 1, [H, 1, 1] or [], in at least float32."""
        dtype = torch.promote_types(scores.dtype, torch.float32)
        if self.is_learned:
            return torch.sigmoid(self.raw_alpha.to(dtype))[:, None, None]
        return torch.tensor(self.fixed - 1.0, dtype=dtype, device=scores.device)

    def forward(self, scores: Tensor, visible: Tensor) -> Tensor:
        """scores [B, H, T, S] -> weights [B, H, T, S]."""
        slope = self.steepness(scores)
        z = (slope * scores).masked_fill(~visible, torch.finfo(slope.dtype).min)
        z = z - z.detach().amax(-1, keepdim=True)
        z = torch.where(visible, z, -2.0)  # below tau, which is in [-1, 0]
        tau = threshold(z.detach(), slope.detach())
        base = (z - tau).clamp_min(0.0)
        over = (base ** (1 / slope)).sum(-1, keepdim=True) - 1
        steep = (base.detach() ** (1 / slope.detach() - 1) * (base > 0)).sum(-1, keepdim=True)
        tau = tau + over * slope.detach() / torch.where(steep > 0, steep, 1.0)
        return ((z - tau).clamp_min(0.0) ** (1 / slope) * visible).to(scores.dtype)


def threshold(z: Tensor, slope: Tensor) -> Tensor:
    """tau [.., T, 1] by bisection, for rows z [.., T, S] with maximum 0."""
    low, high = torch.full_like(z[..., :1], -1.0), torch.zeros_like(z[..., :1])
    for _ in range(HALVINGS):
        tau = (low + high) / 2
        is_low = ((z - tau).clamp_min(0.0) ** (1 / slope)).sum(-1, keepdim=True) >= 1
        low, high = torch.where(is_low, tau, low), torch.where(is_low, high, tau)
    return low


def reference(module: Entmax, scores: Tensor, visible: Tensor) -> Tensor:
    """By sorting for alpha = 1.5 and 2, where tau is known for each support size; else by Newton's method.

    scores [B, H, T, S] -> weights [B, H, T, S].
    """
    slope = module.steepness(scores)
    z = (slope * scores).masked_fill(~visible, -torch.inf)
    z = torch.where(visible.any(-1, keepdim=True), z, 0.0)
    if module.is_learned:
        tau = z.amax(-1, keepdim=True) - 1
        for _ in range(NEWTON_STEPS):
            base = torch.where(z > tau, z - tau, 1.0)
            total = (base ** (1 / slope) * (z > tau)).sum(-1, keepdim=True)
            tau = tau + (total - 1) * slope / (base ** (1 / slope - 1) * (z > tau)).sum(-1, keepdim=True)
        return torch.where((z > tau) & visible, z - tau, 0.0) ** (1 / slope)
    return ((z - sorted_threshold(z, module.fixed)).clamp_min(0.0) ** (1 / slope)) * visible


def sorted_threshold(z: Tensor, alpha: float) -> Tensor:
    """tau [..., 1] of the largest support whose smallest entry is above its tau, for z [..., S]."""
    ordered = z.sort(-1, descending=True).values
    size = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype, device=z.device)
    held = ordered.isfinite()
    mean = torch.where(held, ordered, 0.0).cumsum(-1) / size
    if alpha == 2.0:
        tau = mean - 1 / size
    else:
        spread = torch.where(held, ordered, 0.0).square().cumsum(-1) - size * mean.square()
        inner = (1 - spread) / size
        tau = mean - torch.where(inner > 0, inner, 1.0).sqrt() * (inner > 0)
    supported = (tau <= ordered) & held
    return tau.gather(-1, supported.sum(-1, keepdim=True) - 1)


OPERATOR = Operator(
    name="entmax",
    slot="normalizer",
    paper="Peters et al. 2019, arXiv:1905.05702; arXiv:1909.00015; arXiv:2209.15176",
    build=Entmax,
    ranges={"alpha": Range(1.01, 2, "it tends to softmax at 1 and is sparsemax at 2")},
    reference=reference,
    choices={"alpha": (1.5, 2.0, "learned")},
    catalogue=(106,),
)

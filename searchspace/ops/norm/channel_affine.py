"""Channel affine: y = scale * x + shift, which equals a batch normalisation with fixed statistics.

Created by folding at extraction (RepBN: arXiv:2405.11582), one for each run of a repeated stage; used as a norm it
normalises nothing. Shapes: x [B, T, D].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.norms import of_run
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class ChannelAffine(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        channels = (Axis.of(D=context.d_model),)
        for repeat in range(context.repeats):
            self.declare(of_run("scale", repeat), channels, ones)
            self.declare(of_run("shift", repeat), channels, zeros)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        scale, shift = (getattr(self, of_run(n, tokens.repeat)) for n in ("scale", "shift"))
        return torch.addcmul(shift, x, scale), None


def reference(module: ChannelAffine, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    return module.scale * x + module.shift


OPERATOR = Operator(
    name="channel_affine",
    slot="norm",
    paper="the folded form of RepBN, arXiv:2405.11582",
    build=ChannelAffine,
    reference=reference,
    catalogue=(4,),
    complexity="T D",
)

"""Token-parameter FFN: one attention over S parameter slots in place of both maps of an MLP and its activation.

    y = V theta(K x)        theta: l2_gelu or gelu_l2, see the projection pattention

Wang et al., "TokenFormer: Rethinking Transformer Scaling with Tokenized Model Parameters", arXiv:2410.23168, with four
slots per channel. Slots may be added or removed as in the projection. It does not depend on the block's projection
kind. Shapes: x [B, T, D], K [S, D], V [D, S].
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace import registry
from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class PattentionFFN(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        d_model = Axis.of(D=context.d_model)
        ratio = spec["num_slots"] / context.d_model
        slots = OpSpec.of("pattention", slot_ratio=ratio, scores=spec["scores"])
        found = registry.build("projection", slots, context, "down", d_model, d_model)
        self.slots_proj = cast(AxisModule, found)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        return self.slots_proj(x), None


def reference(module: PattentionFFN, x: Tensor, tokens: Tokens) -> Tensor:
    """Slot by slot. x [B, T, D] -> [B, T, D]."""
    slots = module.slots_proj
    scores = torch.stack([(x * key).sum(-1) for key in slots.keys], -1)
    is_unit_first = slots.scores == "l2_gelu"
    scores = scores if is_unit_first else F.gelu(scores, approximate="tanh")
    scores = slots.tau * scores / torch.sqrt(scores.square().sum(-1, keepdim=True) + 1e-12)
    scores = F.gelu(scores, approximate="tanh") if is_unit_first else scores
    y = torch.zeros_like(x)
    for i, value in enumerate(slots.values.unbind(1)):
        y = y + scores[..., i : i + 1] * value
    return y


OPERATOR = Operator(
    name="pattention_ffn",
    slot="ffn",
    paper="TokenFormer, Wang et al. 2024, arXiv:2410.23168",
    build=PattentionFFN,
    reference=reference,
    choices={"num_slots": (64, 128, 256), "scores": ("l2_gelu", "gelu_l2")},
    catalogue=(6,),
    complexity="T D S",
)

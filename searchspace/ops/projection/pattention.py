"""Token-parameter attention: a projection as attention over S parameter slots, each a key and a value.

    a = K x        l2_gelu  y = V gelu(tau a / |a|)        gelu_l2  y = V tau gelu(a) / |gelu(a)|

Wang et al., "TokenFormer: Rethinking Transformer Scaling with Tokenized Model Parameters", arXiv:2410.23168. tau starts
at sqrt(S) and is stored with the weights: slots with keys of 0 may then be added, and slots removed from a smaller
network, without a change of scale (a tau that follows S breaks both). Shapes: x [..., in], K [S, in], V [out, S].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.activations import gelu_tanh
from searchspace.primitives.axes import Axis, AxisModule, constant, fan_in
from searchspace.primitives.context import BuildContext
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec

EPS = 1e-12


class Pattention(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, role: str, out: Axis, inp: Axis) -> None:
        super().__init__()
        self.role, self.kind, self.scores = role, "pattention", spec["scores"]
        num_slots = max(1, round(spec["slot_ratio"] * inp.size))
        slots = Axis.of(slots=num_slots)
        gain = 1.0 / math.sqrt(2 * context.num_layers) if role in ("o", "down") else 1.0
        self.declare("keys", (slots, inp), fan_in())
        self.declare("values", (out, slots), fan_in(gain))
        self.declare("tau", (Axis.of(one=1),), constant(math.sqrt(num_slots)))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        a = F.linear(x, self.keys)
        wide = a.to(torch.promote_types(a.dtype, torch.float32))
        is_unit_first = self.scores == "l2_gelu"
        weights = gelu_tanh(self.tau * unit(wide)) if is_unit_first else self.tau * unit(gelu_tanh(wide))
        return F.linear(weights.to(a.dtype), self.values)


def unit(a: Tensor) -> Tensor:
    """a [..., S] -> a / |a| [..., S]; 0 stays 0."""
    return a * torch.rsqrt(a.square().sum(-1, keepdim=True) + EPS)


def reference(module: Pattention, x: Tensor) -> Tensor:
    """x [..., in] -> [..., out]."""
    a = (x.unsqueeze(-2) * module.keys).sum(-1)
    a = a if module.scores == "l2_gelu" else gelu_tanh(a)
    scaled = module.tau * a / torch.sqrt((a * a).sum(-1, keepdim=True) + EPS)
    weights = gelu_tanh(scaled) if module.scores == "l2_gelu" else scaled
    slots = zip(weights.unbind(-1), module.values.unbind(-1), strict=True)
    return torch.stack([w.unsqueeze(-1) * value for w, value in slots]).sum(0)


def flops(module: Pattention, T: int, S: int) -> int:
    return 2 * T * (module.keys.numel() + module.values.numel())


OPERATOR = Operator(
    name="pattention",
    slot="projection",
    paper="TokenFormer, Wang et al. 2024, arXiv:2410.23168",
    build=Pattention,
    ranges={"slot_ratio": Range(0, 16, above=True)},
    reference=reference,
    choices={"slot_ratio": (0.5, 1.0, 2.0), "scores": ("l2_gelu", "gelu_l2")},
    flops=flops,
    catalogue=(6,),
    complexity="T S (in + out)",
)

"""Hedgehog features: a learned map of each group, exponentiated with both signs; N = 2 K.

    y = W x + b      halves: [softmax(y), softmax(-y)]      joint: softmax([y, -y])      none: [exp(y), exp(-y)]

Zhang et al., "The Hedgehog & the Porcupine: Expressive Linear Attentions with Softmax Mimicry", arXiv:2402.04347. The
published form is `none`; `halves` and `joint` divide by sums so that nothing overflows. `none` clips |y| at 30, so that
sums of products stay within float32. W starts as the identity and b as 0, so the initial features are those of x
itself. `maps` = "separate" gives the keys their own W and b, as published; otherwise queries and keys of a group share
one. Shapes: x [B, T, G, R, K] -> [B, T, G, R, 2 K].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, zeros
from searchspace.primitives.context import BuildContext
from searchspace.primitives.linear import FeatureMap
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

LARGEST = 30.0  # exponent of a feature


class Hedgehog(FeatureMap):
    def __init__(self, spec: OpSpec, context: BuildContext, G: int, K: int) -> None:
        super().__init__(spec, 2 * K)
        self.softmax = spec["softmax"]
        self.is_separate = spec.get("maps", "shared") == "separate"
        for name in ("hedgehog", "hedgehog_key") if self.is_separate else ("hedgehog",):
            self.declare(f"{name}_weight", (Axis.of(G=G), Axis.of(K=K), Axis.of(K=K)), identities)
            self.declare(f"{name}_bias", (Axis.of(G=G), Axis.of(K=K)), zeros)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, G, R, K] -> features [B, T, G, R, 2 K]."""
        return self.mapped(x, self.hedgehog_weight, self.hedgehog_bias)

    def of_keys(self, x: Tensor) -> Tensor:
        """x [B, T, G, K] -> [B, T, G, 2 K]."""
        if not self.is_separate:
            return super().of_keys(x)
        return self.mapped(x.unsqueeze(3), self.hedgehog_key_weight, self.hedgehog_key_bias).squeeze(3)

    def mapped(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """x [B, T, G, R, K], weight [G, K, K], bias [G, K] -> [B, T, G, R, 2 K]."""
        y = torch.einsum("btgrk,gnk->btgrn", x, weight) + bias.unsqueeze(1)
        if self.softmax == "halves":
            return torch.cat((y.softmax(-1), (-y).softmax(-1)), -1)
        both = torch.cat((y, -y), -1)
        if self.softmax == "joint":
            return both.softmax(-1)
        return both.to(torch.promote_types(both.dtype, torch.float32)).clamp(-LARGEST, LARGEST).exp()

    def flops(self, num_vectors: int) -> int:
        return num_vectors * self.num_features * self.num_features // 2


def identities(tensor: Tensor) -> None:
    """Fill tensor [..., N, N] with identity matrices."""
    tensor.copy_(torch.eye(tensor.shape[-1]).expand_as(tensor))


def reference(module: Hedgehog, x: Tensor) -> Tensor:
    """x [B, T, G, R, K] -> features [B, T, G, R, 2 K]."""
    found = []
    for g in range(x.shape[2]):
        y = torch.einsum("btrk,ck->btrc", x[:, :, g], module.hedgehog_weight[g]) + module.hedgehog_bias[g]
        up, down = y.exp(), 1 / y.exp()
        total_up, total_down = up.sum(-1, keepdim=True), down.sum(-1, keepdim=True)
        if module.softmax != "halves":
            total_up = total_down = (
                total_up + total_down if module.softmax == "joint" else torch.ones_like(total_up)
            )
        found.append(torch.cat((up / total_up, down / total_down), -1))
    return torch.stack(found, 2)


OPERATOR = Operator(
    name="hedgehog",
    slot="feature_map",
    paper="Zhang et al. 2024, arXiv:2402.04347",
    build=Hedgehog,
    reference=reference,
    ranges={"softmax": ("halves", "joint", "none")},
    choices={"softmax": ("halves", "joint")},
    options={"maps": ("shared", "separate")},
    catalogue=(48,),
    complexity="K^2",
)

"""Hedgehog features: a learned map of each group, exponentiated with both signs; N = 2 K.

    y = W x + b          halves: [softmax(y), softmax(-y)]          joint: softmax([y, -y])

Zhang et al., "The Hedgehog & the Porcupine: Expressive Linear Attentions with Softmax Mimicry", arXiv:2402.04347:
[exp(y), exp(-y)], here divided by sums so that nothing overflows. W starts as the identity and b as 0, so at the start
the features are those of x itself; queries and keys of a group share them.
Shapes: x [B, T, G, R, K] -> [B, T, G, R, 2 K].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, zeros
from searchspace.primitives.context import BuildContext
from searchspace.primitives.linear import FeatureMap
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class Hedgehog(FeatureMap):
    def __init__(self, spec: OpSpec, context: BuildContext, G: int, K: int) -> None:
        super().__init__(spec, 2 * K)
        self.joint = spec["softmax"] == "joint"
        self.declare("hedgehog_weight", (Axis.of(G=G), Axis.of(K=K), Axis.of(K=K)), identities)
        self.declare("hedgehog_bias", (Axis.of(G=G), Axis.of(K=K)), zeros)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("btgrk,gnk->btgrn", x, self.hedgehog_weight) + self.hedgehog_bias.unsqueeze(1)
        if self.joint:
            return torch.cat((y, -y), -1).softmax(-1)
        return torch.cat((y.softmax(-1), (-y).softmax(-1)), -1)

    def flops(self, num_vectors: int) -> int:
        return num_vectors * self.num_features * self.num_features // 2


def identities(tensor: Tensor) -> None:
    tensor.copy_(torch.eye(tensor.shape[-1]).expand_as(tensor))


def reference(module: Hedgehog, x: Tensor) -> Tensor:
    found = []
    for g in range(x.shape[2]):
        y = torch.einsum("btrk,ck->btrc", x[:, :, g], module.hedgehog_weight[g]) + module.hedgehog_bias[g]
        up, down = y.exp(), 1 / y.exp()
        total_up, total_down = up.sum(-1, keepdim=True), down.sum(-1, keepdim=True)
        if module.joint:
            total_up = total_down = total_up + total_down
        found.append(torch.cat((up / total_up, down / total_down), -1))
    return torch.stack(found, 2)


OPERATOR = Operator(
    name="hedgehog",
    slot="feature_map",
    paper="Zhang et al. 2024, arXiv:2402.04347",
    build=Hedgehog,
    reference=reference,
    choices={"softmax": ("halves", "joint")},
    catalogue=(48,),
    complexity="K^2",
)

"""Simplified linear attention: rectified linear attention plus a depthwise convolution of the values.

    o_i = sum_j w_ij v_j / (sum_j w_ij + eps) + conv(v)_i          w_ij = relu(q_i) . relu(k_j)

Guo et al., "SLAB: Efficient Transformers with Simplified Linear Attention and Progressive Re-parameterized Batch
Normalization", arXiv:2405.11582. All groups share one kernel per channel of a head. The paper adds learned positions to
the keys; here positions are the network's. On a grid the convolution is 2-D; the causal form, over the last tokens, is
ours. Shapes: B batch, T time, D model width, G groups, R heads per group, H = G R, K key dim = V value dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives import state_size
from searchspace.primitives.axes import Axis
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.primitives.convolution import DepthwiseConv, convolved
from searchspace.primitives.heads import HEAD_CHOICES
from searchspace.primitives.linear import ConvolvedLinear, normalized_reference
from searchspace.registry import ODD, Operator
from searchspace.spec.arch import OpSpec


class SLA(ConvolvedLinear):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.shared_local = DepthwiseConv(Axis.of(K=self.K), spec["kernel_size"], self.causal)
        self.copies = self.G

    def local(self) -> DepthwiseConv:
        return self.shared_local


def reference(module: SLA, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    q, k, v = module.rectified(x, tokens)
    near = [convolved(module.shared_local, v[:, :, g], tokens) for g in range(module.G)]
    o = normalized_reference(q, k, v, module.causal) + torch.stack(near, 2).unsqueeze(3)
    return module.merge_heads(o.flatten(2, 3))


OPERATOR = Operator(
    name="sla",
    slot="mixer",
    paper="Guo et al. 2024, arXiv:2405.11582",
    build=SLA,
    ranges={"kernel_size": ODD},
    reference=reference,
    choices={**HEAD_CHOICES, "kernel_size": (3, 5)},
    flops=ConvolvedLinear.flops,
    state_bytes=state_size.fixed,
    needs_2d=True,
    catalogue=(4,),
    complexity="T H K V + T w^2 G V",
    state="G (K (V + 1) + (w - 1) V)",
)

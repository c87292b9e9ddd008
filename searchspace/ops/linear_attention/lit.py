"""LiT's linear attention: few wide heads of rectified linear attention, and a depthwise convolution of the values.

    o_i = sum_j w_ij v_j / (sum_j w_ij + eps) + conv(v)_i          w_ij = relu(q_i) . relu(k_j)

Wang et al., "LiT: Delving into a Simplified Linear Diffusion Transformer for Image Generation", arXiv:2501.12976: two
to four heads cost hardly more time than sixteen. Every channel of every group has its own kernel. On a grid the
convolution is 2-D; the causal form, over the last tokens, is ours.
Shapes: B batch, T time, D model width, G groups, R heads per group, H = G R, K key dim = V value dim.
"""

from __future__ import annotations

from torch import Tensor

from searchspace.primitives import state_size
from searchspace.primitives.axes import Axis
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.primitives.convolution import DepthwiseConv, convolved
from searchspace.primitives.linear import ConvolvedLinear, normalized_reference
from searchspace.registry import ODD, Operator
from searchspace.spec.arch import OpSpec


class LiT(ConvolvedLinear):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.value_conv = DepthwiseConv(Axis.of(G=self.G, K=self.K), spec["kernel_size"], self.causal)

    def local(self) -> DepthwiseConv:
        return self.value_conv


def reference(module: LiT, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    q, k, v = module.rectified(x, tokens)
    near = convolved(module.value_conv, v.flatten(2), tokens).view_as(v)
    o = normalized_reference(q, k, v, module.causal) + near.unsqueeze(3)
    return module.merge_heads(o.flatten(2, 3))


OPERATOR = Operator(
    name="lit",
    slot="mixer",
    paper="Wang et al. 2025, arXiv:2501.12976",
    build=LiT,
    ranges={"kernel_size": ODD},
    reference=reference,
    choices={"num_groups": (1, 2), "heads_per_group": (1,), "head_dim": (16, 32), "kernel_size": (3, 5)},
    flops=ConvolvedLinear.flops,
    state_bytes=state_size.fixed,
    needs_2d=True,
    catalogue=(79,),
    complexity="T H K V + T w^2 G V",
    state="G (K (V + 1) + (w - 1) V)",
)

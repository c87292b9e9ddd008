"""Patch embedding with a bias after a class token: x = [c, e_1 .. e_n, W p_1 + b, W p_2 + b, ...].

Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv:2010.11929. `extra_tokens` n more learned tokens follow the
class token: one for distillation in DeiT, Touvron et al., arXiv:2012.12877. The sequence is not a grid.
Shapes: inputs [B, C, S, S], T = 1 + n + (S / patch)^2, c [D], e [n, D], x [B, T, D].
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule, normal
from searchspace.primitives.context import BuildContext, Layout, Tokens
from searchspace.registry import COUNT, Operator
from searchspace.spec.arch import OpSpec


class ClassPatchEmbedding(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.patch, d_model = spec["patch_size"], Axis.of(D=context.d_model)
        pixels = Axis.of(C=spec["channels"], Y=self.patch, X=self.patch)
        with_bias = replace(context, projection=OpSpec.of("dense", bias=True))
        self.proj = with_bias.linear("patch", d_model, pixels)
        self.declare("class_token", (d_model,), normal(0.02))
        self.num_extra = spec.get("extra_tokens", 0)
        if self.num_extra:
            self.declare("extra_tokens", (Axis.of(N=self.num_extra), d_model), normal(0.02))

    def forward(self, inputs: Tensor, tokens: Tokens, start: int = 0) -> tuple[Tensor, Tokens]:
        """inputs [B, C, S, S] -> x [B, T, D], and tokens with positions [T]."""
        p = self.patch
        patches = inputs.unfold(2, p, p).unfold(3, p, p)  # [B, C, rows, columns, p, p]
        patches = self.proj(patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2))
        first = [self.class_token.expand(inputs.shape[0], 1, -1)]
        if self.num_extra:
            first.append(self.extra_tokens.expand(inputs.shape[0], -1, -1))
        x = torch.cat((*first, patches), 1)
        return x, tokens.replace(positions=torch.arange(x.shape[1], device=inputs.device))


def layout(spec: OpSpec, before: Layout) -> Layout:
    return Layout(1 + spec.get("extra_tokens", 0) + (spec["image_size"] // spec["patch_size"]) ** 2)


def why_invalid(spec: OpSpec, context: BuildContext) -> str | None:
    image, patch = spec["image_size"], spec["patch_size"]
    return (
        f"class_patch_embedding: image_size {image} is no multiple of patch_size {patch}"
        if image % patch
        else None
    )


def flops(module: ClassPatchEmbedding, T: int, S: int) -> int:
    return 2 * (T - 1 - module.num_extra) * module.proj.weight.numel()


OPERATOR = Operator(
    name="class_patch_embedding",
    slot="stem",
    paper="Dosovitskiy et al. 2020, arXiv:2010.11929",
    build=ClassPatchEmbedding,
    ranges={"extra_tokens": COUNT},
    choices={"image_size": (8,), "patch_size": (1, 2), "channels": (1,)},
    fixed={"extra_tokens": 0},
    layout=layout,
    flops=flops,
    counts_projections=True,
    why_invalid=why_invalid,
    causal=False,
)

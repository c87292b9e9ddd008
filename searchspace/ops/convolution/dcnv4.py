"""Deformable convolution without a softmax: each token reads w x w points, and computes their offsets and weights.

    y_p = W_o sum_n m_pn u(p + o_n + d_pn)        u = W_v x        d = W_d x (rows, columns)        m = W_m x

Xiong et al., "Efficient Deformable ConvNets" (DCNv4), arXiv:2401.06197. u is read between tokens by bilinear
interpolation and is 0 outside the image and at padding. Each of G groups of K channels has its own points. The weights
m are neither bounded nor normalised, which is the change in DCNv4. The authors start d and m at 0, so that the layer
initially returns 0; here they are initialised like other projections. Points are stored from the token outwards, so
that a smaller window is the middle of a larger one. Bidirectional only, on a 2-D grid.
Shapes: x [B, T, D], u [B, T, G, K], m [B, T, G, N], d [B, T, G, N, 2], N = w w points.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.convolution import offsets, tap_of
from searchspace.registry import ODD, Operator
from searchspace.spec.arch import OpSpec


class DCNv4(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.G, self.K, self.window = spec["num_groups"], spec["head_dim"], spec["window"]
        d_model, points = Axis.of(D=context.d_model), {"rows": self.window, "columns": self.window}
        self.v_proj = context.linear("v", Axis.of(G=self.G, K=self.K), d_model)
        self.move_proj = context.linear("move", Axis.of(G=self.G, **points, plane=2), d_model)
        self.weigh_proj = context.linear("weigh", Axis.of(G=self.G, **points), d_model)
        self.o_proj = context.linear("o", d_model, Axis.of(G=self.G, R=1, K=self.K))

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        values = tokens.without_padding(self.v_proj(x)).unflatten(2, (self.G, self.K))
        gathered = sampled(values, self.points(x, tokens), tokens.sides)  # [B, T, G, N, K]
        weights = self.weigh_proj(x).unflatten(2, (self.G, -1)).to(gathered.dtype)
        y = (gathered * weights.unsqueeze(-1)).sum(3)
        return self.o_proj(y.to(x.dtype).flatten(2)), None

    def points(self, x: Tensor, tokens: Tokens) -> Tensor:
        """Row and column of every point in at least float32, [B, T, G, N, 2]."""
        wide = torch.promote_types(x.dtype, torch.float32)
        places = torch.arange(x.shape[1], device=x.device)
        places = torch.stack((places // tokens.sides[1], places % tokens.sides[1]), -1)  # [T, 2]
        steps = torch.tensor(sorted(offsets(self.window), key=tap_of), device=x.device)
        square = torch.cartesian_prod(steps, steps)  # [N, 2]
        moved = self.move_proj(x).unflatten(2, (self.G, -1, 2)).to(wide)
        return moved + (places[:, None, None] + square)


def sampled(values: Tensor, points: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """values [B, T, G, K] read bilinearly at points [B, T, G, N, 2] -> [B, T, G, N, K], in the points' dtype."""
    assert grid is not None
    B, _, G, _ = values.shape
    images = values.to(points.dtype).permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, grid)
    sizes = torch.tensor(grid, device=points.device, dtype=points.dtype)
    where = (
        ((2 * points + 1) / sizes - 1).flip(-1).transpose(1, 2).flatten(0, 1)
    )  # columns first, in the coordinates of grid_sample
    read = F.grid_sample(images, where, padding_mode="zeros", align_corners=False)  # [B G, K, T, N]
    return read.unflatten(0, (B, G)).permute(0, 3, 1, 4, 2)


def reference(module: DCNv4, x: Tensor, tokens: Tokens) -> Tensor:
    """By the weight of every token at every point, a product of two hat functions. x [B, T, D] -> [B, T, D]."""
    values = tokens.without_padding(module.v_proj(x)).unflatten(2, (module.G, module.K))
    places = torch.arange(x.shape[1])
    places = torch.stack((places // tokens.sides[1], places % tokens.sides[1]), -1)
    away = (module.points(x, tokens).unsqueeze(-2) - places).abs()  # [B, T, G, N, S, 2]
    hats = (1 - away).clamp_min(0).prod(-1).to(x.dtype)
    share = (module.weigh_proj(x).unflatten(2, (module.G, -1)).unsqueeze(-1) * hats).sum(3)  # [B, T, G, S]
    return module.o_proj((share.unsqueeze(-1) * values.transpose(1, 2).unsqueeze(1)).sum(3).flatten(2))


OPERATOR = Operator(
    name="dcnv4",
    slot="mixer",
    paper="DCNv4, Xiong et al. 2024, arXiv:2401.06197",
    build=DCNv4,
    ranges={"window": ODD},
    reference=reference,
    choices={"num_groups": (1, 2, 4), "head_dim": (16, 32), "window": (3, 5)},
    causal=False,
    needs_2d=True,
    catalogue=(103,),
    quantizable=("v", "o"),
    complexity="T G (w^2 (D + K) + K D)",
)

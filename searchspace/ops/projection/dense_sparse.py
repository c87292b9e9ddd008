"""Dense times sparse: y = S (A x), A [P, in] dense, S [out, P] with the same few non-zeros in every row.

    P = max(1, round(rank_ratio * min(in, out)))        max(1, round(density * P)) non-zeros in a row

Chand et al., "DSFormer: Effective Compression of Text-Transformers by Dense-Sparse Weight Factorization",
arXiv:2312.13211: every output is a combination of a few of P shared features. S keeps the largest entries of each row
of a dense shadow, and its gradient goes to the whole shadow (straight-through), so entries can come back. With density
1 this is the low-rank projection. It is computed, stored and counted densely, including the shadow; a sparse kernel
would take P in + density P out multiply-adds. Shapes: x [..., in], shadow [out, P].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule, fan_in
from searchspace.primitives.context import BuildContext
from searchspace.registry import SHARE, Operator
from searchspace.spec.arch import OpSpec


class DenseSparse(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, role: str, out: Axis, inp: Axis) -> None:
        super().__init__()
        self.role, self.kind = role, "dense_sparse"
        P = max(1, round(spec["rank_ratio"] * min(out.size, inp.size)))
        self.num_kept = max(1, round(spec["density"] * P))
        gain = 1.0 / math.sqrt(2 * context.num_layers) if role in ("o", "down") else 1.0
        self.declare("reduce", (Axis.of(P=P), inp), fan_in())
        self.declare("shadow", (out, Axis.of(P=P)), fan_in(gain))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return F.linear(F.linear(x, self.reduce), self.sparse())

    def sparse(self) -> Tensor:
        """[out, P], each row with its `num_kept` largest entries; the gradient is that of the whole shadow."""
        kept = self.shadow.abs().topk(self.num_kept, dim=-1).indices
        dropped = torch.ones_like(self.shadow, dtype=torch.bool).scatter(-1, kept, False)
        return self.shadow - (self.shadow * dropped).detach()


def reference(module: DenseSparse, x: Tensor) -> Tensor:
    """x [..., in] -> [..., out]."""
    rows = []
    for row in module.shadow:
        threshold = sorted(row.abs().tolist())[-module.num_kept]
        value = torch.where(row.abs() >= threshold, row, 0.0)
        rows.append(row + (value - row).detach())
    return (x.unsqueeze(-2) * (torch.stack(rows) @ module.reduce)).sum(-1)


def flops(module: DenseSparse, T: int, S: int) -> int:
    return 2 * T * (module.reduce.numel() + module.shadow.numel())


OPERATOR = Operator(
    name="dense_sparse",
    slot="projection",
    paper="DSFormer, Chand et al. 2023, arXiv:2312.13211",
    build=DenseSparse,
    ranges={"rank_ratio": SHARE, "density": SHARE},
    reference=reference,
    choices={"rank_ratio": (0.5, 1.0), "density": (0.125, 0.25, 0.5)},
    flops=flops,
    catalogue=(26,),
    complexity="T P (in + out)",
)

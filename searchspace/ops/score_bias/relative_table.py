"""Relative table: b_ij = t_h[bucket(i - j)], a learned number for each head and bucket of distances.

    causal          bucket(n) = n up to N / 2, then logarithmic up to distance 128, larger ones in the last bucket
    bidirectional   as causal, with N / 2 buckets for keys before the query and N / 2 for those after it

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (T5),
arXiv:1910.10683. Shapes: distance [T, S] -> [H, T, S], table [H, N].
"""

from __future__ import annotations

import math
from bisect import bisect_right

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule, normal
from searchspace.primitives.context import BuildContext
from searchspace.primitives.scores import ONE_HEAD, HeadSizes
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec

FARTHEST = 128


class RelativeTable(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, heads: HeadSizes = ONE_HEAD) -> None:
        super().__init__()
        self.causal, self.num_buckets = context.causal, spec["num_buckets"]
        self.borders = borders(self.num_buckets if self.causal else self.num_buckets // 2)
        self.declare("table", (heads.axis, Axis.of(N=self.num_buckets)), normal(0.02))

    def forward(self, distance: Tensor) -> Tensor:
        """distance [T, S] -> bias [H, T, S]."""
        edges = torch.tensor(self.borders, device=distance.device)
        bucket = torch.bucketize(distance.abs(), edges, right=True)
        if not self.causal:
            bucket = bucket + (distance < 0) * (self.num_buckets // 2)
        return self.table[:, bucket]


def borders(count: int) -> tuple[int, ...]:
    """Return the smallest distance of each of `count` buckets except the first."""
    exact = count // 2
    ratio = math.log(FARTHEST / exact)
    far = (exact * math.exp(ratio * step / (count - exact)) for step in range(1, count - exact))
    return (*range(1, exact + 1), *(math.ceil(edge - 1e-9) for edge in far))


def reference(module: RelativeTable, distance: Tensor) -> Tensor:
    """distance [T, S] -> bias [H, T, S]."""
    half = 0 if module.causal else module.num_buckets // 2

    def bias(n: int) -> Tensor:
        return module.table[:, bisect_right(module.borders, abs(n)) + (half if n < 0 else 0)]

    return torch.stack([torch.stack([bias(n) for n in row], -1) for row in distance.tolist()], 1)


OPERATOR = Operator(
    name="relative_table",
    slot="score_bias",
    paper="Raffel et al. 2019, arXiv:1910.10683",
    build=RelativeTable,
    ranges={
        "num_buckets": Range(
            4, 128, "one half of each direction's buckets are single distances up to 128", step=2
        )
    },
    reference=reference,
    choices={"num_buckets": (16, 32)},
    complexity="H T S",
)

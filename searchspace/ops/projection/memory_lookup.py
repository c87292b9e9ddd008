"""Memory lookup: a projection as a sum of table rows, each selected by the signs of a chunk of b input channels.

    y = sum_c p_c Table_c[id_c]        id_c = sum_i [z_ci >= 0] 2^i        p_c = prod_i sigmoid(2 |z_ci|)

Ding et al., "MemoryFormer: Minimize Transformer Computation by Removing Fully-Connected Layers", arXiv:2411.12992. p_c
is the probability of the selected row under softmax over all 2^b sign patterns; the selection itself has no gradient,
so x learns through p alone. The published kernel also multiplies by sum_i |z_ci|; this is the formula of the paper. An
incomplete last chunk is filled with channels whose sign is surely positive. Shapes: x [..., in] in ceil(in / b) chunks
z, tables [chunks 2^b, out].
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis, AxisModule, normal
from searchspace.primitives.context import BuildContext
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec

SURE = 32.0  # sigmoid(2 * 32) is 1 in double precision
SQUARED_CONFIDENCE = 0.627  # mean of sigmoid(2 |z|)^2 for a standard normal z


class MemoryLookup(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext, role: str, out: Axis, inp: Axis) -> None:
        super().__init__()
        self.role, self.kind, self.bits = role, "memory_lookup", spec["bits"]
        self.num_chunks = -(-inp.size // self.bits)
        self.num_missing = self.num_chunks * self.bits - inp.size
        gain = 1.0 / math.sqrt(2 * context.num_layers) if role in ("o", "down") else 1.0
        std = gain / math.sqrt(self.num_chunks * SQUARED_CONFIDENCE**self.bits)
        self.declare("tables", (Axis.of(rows=self.num_chunks << self.bits), out), normal(std))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        z = self.chunks(x)
        wide = z.abs().to(torch.promote_types(z.dtype, torch.float32))
        p = F.logsigmoid(2 * wide).sum(-1).exp().to(x.dtype)  # [..., chunks]
        rows = F.embedding(self.picked(z), self.tables)  # [..., chunks, out]
        return (p.unsqueeze(-2) @ rows).squeeze(-2)

    def chunks(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., chunks, b]."""
        return F.pad(x, (0, self.num_missing), value=SURE).unflatten(-1, (self.num_chunks, self.bits))

    def picked(self, z: Tensor) -> Tensor:
        """z [..., chunks, b] -> row indices of the tables [..., chunks], in integers, since bfloat16 is too coarse."""
        powers = 2 ** torch.arange(self.bits, device=z.device)
        first = torch.arange(self.num_chunks, device=z.device) << self.bits
        return ((z >= 0) * powers).sum(-1) + first


def reference(module: MemoryLookup, x: Tensor) -> Tensor:
    """Softmax over all sign patterns, of which only the likeliest counts. x [..., in] -> [..., out]."""
    signs = list(product((-1.0, 1.0), repeat=module.bits))
    patterns = x.new_tensor([pattern[::-1] for pattern in signs])  # the first channel is the lowest bit
    p = torch.softmax(module.chunks(x) @ patterns.T, -1)
    likeliest = F.one_hot(p.argmax(-1), len(signs)).to(x.dtype)
    tables = module.tables.unflatten(0, (module.num_chunks, -1))
    return ((p * likeliest).unsqueeze(-1) * tables).sum((-3, -2))


def flops(module: MemoryLookup, T: int, S: int) -> int:
    return 2 * T * module.num_chunks * module.tables.shape[1]


OPERATOR = Operator(
    name="memory_lookup",
    slot="projection",
    paper="MemoryFormer, Ding et al. 2024, arXiv:2411.12992",
    build=MemoryLookup,
    ranges={"bits": Range(1, 16, "a table has 2^bits rows")},
    reference=reference,
    choices={"bits": (4, 6, 8)},
    flops=flops,
    catalogue=(18,),
    complexity="T (in / b) out",
)

"""Memory FFN: two table lookups with a norm between them and no activation, the FFN of MemoryFormer.

    y = lookup(layernorm(lookup(x; b)); b + e)        lookup: the projection memory_lookup, by the signs of chunks

Ding et al., "MemoryFormer: Minimize Transformer Computation by Removing Fully-Connected Layers", arXiv:2411.12992. Its
second lookup has e = `extra_bits` = 2 more signs per chunk than the first and as many chunks: F = ceil(D / b) (b + e).
Here the width F between them, `d_ff`, is free, so that a narrower network is a slice. The lookups do not depend on the
block's projection kind. Shapes: x [B, T, D], hidden [B, T, F].
"""

from __future__ import annotations

from itertools import product
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace import registry
from searchspace.primitives.axes import Axis, AxisModule, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec

EPS = 1e-5


class MemoryFFN(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        d_model, hidden = Axis.of(D=context.d_model), Axis.of(F=spec["d_ff"])
        wider = spec["bits"] + spec["extra_bits"]
        self.declare("memory_weight", (hidden,), ones)
        self.declare("memory_bias", (hidden,), zeros)
        up, down = (OpSpec.of("memory_lookup", bits=n) for n in (spec["bits"], wider))
        self.up_lookup = cast(AxisModule, registry.build("projection", up, context, "up", hidden, d_model))
        self.down_lookup = cast(
            AxisModule, registry.build("projection", down, context, "down", d_model, hidden)
        )

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        """x [B, T, D] -> [B, T, D], without a state."""
        hidden = self.up_lookup(x)
        hidden = F.layer_norm(hidden, hidden.shape[-1:], self.memory_weight, self.memory_bias, EPS)
        return self.down_lookup(hidden), None


def reference(module: MemoryFFN, x: Tensor, tokens: Tokens) -> Tensor:
    """Both lookups from the probabilities of all sign patterns. x [B, T, D] -> [B, T, D]."""
    hidden = _likeliest_rows(x, module.up_lookup.tables, module.up_lookup.bits)
    centred = hidden - hidden.mean(-1, keepdim=True)
    hidden = centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt()
    hidden = module.memory_weight * hidden + module.memory_bias
    return _likeliest_rows(hidden, module.down_lookup.tables, module.down_lookup.bits)


def _likeliest_rows(x: Tensor, tables: Tensor, bits: int) -> Tensor:
    """x [..., in], tables [chunks 2^bits, out] -> [..., out]; a missing channel is positive with probability 1."""
    missing = -x.shape[-1] % bits
    z = F.pad(x, (0, missing), value=32.0).unflatten(-1, (-1, bits))
    patterns = x.new_tensor([signs[::-1] for signs in product((-1.0, 1.0), repeat=bits)])
    p = torch.softmax(z @ patterns.T, -1)  # [..., chunks, 2^bits]
    best = p.max(-1, keepdim=True)
    weights = torch.zeros_like(p).scatter(-1, best.indices, best.values)
    return weights.flatten(-2) @ tables


OPERATOR = Operator(
    name="memory_ffn",
    slot="ffn",
    paper="MemoryFormer, Ding et al. 2024, arXiv:2411.12992",
    build=MemoryFFN,
    ranges={
        "bits": Range(1, 12, "a table has 2^bits rows"),
        "extra_bits": Range(0, 2, "a table has 2^(bits + extra_bits) rows"),
    },
    reference=reference,
    choices={"d_ff": (32, 64, 128), "bits": (4, 6), "extra_bits": (0, 2)},
    catalogue=(18,),
    complexity="T (F D / b + D F / (b + e))",
)

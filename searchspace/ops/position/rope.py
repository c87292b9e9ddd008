"""Rotary positions: each pair of adjacent channels of a query or key is rotated by position * base^(-2 i / dim).

Su et al., "RoFormer", arXiv:2104.09864. `dim` is the width of the space's widest head: a narrower head keeps the first
pairs with the same frequencies, so that heads of every width share weights. The angles travel with the tokens; mixers
whose scores are dot products rotate their queries and keys by them, other mixers ignore them.

    local_base   a second base for blocks with rotary = "local" (Gemma Team, "Gemma 3", arXiv:2503.19786); 0 is none
    scaling      of the frequencies f_i of the first base, for texts `factor` times as long as `original_len`:
        linear   f_i / factor (Chen et al., "Position Interpolation", arXiv:2306.15595)
        llama3   f_i where a pair makes more than 4 turns in original_len tokens, f_i / factor where it makes less than
                 one, in between a mean of both by its turns (Llama 3.1, Grattafiori et al., arXiv:2407.21783)
        yarn     f_i where a pair makes more than 32 turns in original_len tokens, f_i / factor where it makes less than
                 one, in between a mean of both by its index; cos and sin times 0.1 ln(factor) + 1
                 (Peng et al., "YaRN", arXiv:2309.00071)
        yarn_unrounded   as yarn, with limits between pairs not rounded to whole ones (gpt-oss, arXiv:2508.10925)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from searchspace.primitives.axes import AxisModule
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.primitives.rotary import frequencies, scaled_frequencies
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec

OPTIONS = {
    "local_base": (0, 1000),
    "scaling": ("none", "linear", "llama3", "yarn", "yarn_unrounded"),
    "factor": (1.0, 4.0),
    "original_len": (4096, 64),
}


class Rope(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.base, self.dim = spec["base"], spec["dim"]
        self.local_base, self.scaling, self.factor, self.original_len = (
            spec.get(name, values[0]) for name, values in OPTIONS.items()
        )
        self.scale = 0.1 * math.log(self.factor) + 1 if self.scaling.startswith("yarn") else 1.0

    def forward(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tokens]:
        """Return x [B, T, D], and tokens with rotary angles [.., T, dim / 2], twice as wide with a local base."""
        assert tokens.positions is not None
        turns = scaled_frequencies(
            self.base, self.dim, self.scaling, self.factor, self.original_len, x.device
        )
        angles = tokens.positions.unsqueeze(-1) * turns
        cos, sin = angles.cos() * self.scale, angles.sin() * self.scale
        if self.local_base:
            local = tokens.positions.unsqueeze(-1) * frequencies(self.local_base, self.dim, x.device)
            cos, sin = torch.cat((cos, local.cos()), -1), torch.cat((sin, local.sin()), -1)
        return x, tokens.replace(rotary=(cos, sin))


OPERATOR = Operator(
    name="rope",
    slot="position",
    paper="Su et al. 2021, arXiv:2104.09864; YaRN, Peng et al. 2023, arXiv:2309.00071; local base, Gemma 3, "
    "arXiv:2503.19786",
    build=Rope,
    ranges={
        "base": Range(2, 1e9, fractions=True),
        "dim": Range(2, 2**20, "channels turn in pairs", step=2),
        "local_base": Range(0, 1e9, fractions=True),
        "factor": Range(1, 2**20, fractions=True),
    },
    choices={"base": (10000,), "dim": (32,)},
    options=OPTIONS,
    why_invalid=lambda spec, context: (
        f"rope: local_base = {spec['local_base']} must be 0, for none, or at least 2"
        if 0 < spec.get("local_base", 0) < 2
        else None
    ),
)

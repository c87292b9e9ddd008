"""Heads in key/value groups: projections of [B, T, D] to queries, keys and values, and rotary positions.

G key/value groups, R query heads per group, H = G R heads, K head dim. Multi-head attention is R = 1, multi-query
attention G = 1, grouped-query attention in between; sparse-query attention has fewer heads than D / K. A smaller
network keeps a prefix of the groups and a prefix of the heads within each group, so a query head keeps the keys that it
was trained with.
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.registry import Range
from searchspace.spec.arch import OpSpec

HEAD_CHOICES = {"num_groups": (1, 2, 4), "heads_per_group": (1, 2), "head_dim": (16, 32)}
ROTARY_OPTIONS = {"rotary": ("global", "local", "none"), "rotary_share": (1.0, 0.5)}
ROTARY_RANGES = {"rotary_share": Range(0, 1, "it is a share of the head", above=True, fractions=True)}


class GroupedHeads(AxisModule):
    """Projections q, k, v and o of a mixer with grouped heads; their names are shared by the mixers of a slot."""

    quantizable = ("q", "k", "v", "o")

    def __init__(self, spec: OpSpec, context: BuildContext, roles: str = "qkvo") -> None:
        super().__init__()
        self.G, self.R, self.K = spec["num_groups"], spec["heads_per_group"], spec["head_dim"]
        self.H = self.G * self.R
        self.causal = context.causal
        d_model = Axis.of(D=context.d_model)
        group = Axis.of(G=self.G, K=self.K)
        heads = Axis.of(G=self.G, R=self.R, K=self.K)
        sides = {"q": (heads, d_model), "k": (group, d_model), "v": (group, d_model), "o": (d_model, heads)}
        for role in roles:
            self.add_module(f"{role}_proj", context.linear(role, *sides[role]))

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, D] -> q [B, T, H, K], k and v [B, T, G, K]."""
        B, T, _ = x.shape
        q = self.q_proj(x).view(B, T, self.H, self.K)
        k = self.k_proj(x).view(B, T, self.G, self.K)
        v = self.v_proj(x).view(B, T, self.G, self.K)
        return q, k, v

    def rotated(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, D] -> q [B, T, H, K] and k [B, T, G, K] with rotary positions, and v [B, T, G, K]."""
        q, k, v = self.queries_keys_values(x)
        return rotate(q, tokens), rotate(k, tokens), v

    def rotated_per_head(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """As `rotated`, with keys and values repeated for each head, [B, T, H, K] all three."""
        q, k, v = self.rotated(x, tokens)
        return q, self.per_head(k), self.per_head(v)

    def per_head(self, grouped: Tensor) -> Tensor:
        """[B, T, G, ...] -> [B, T, H, ...], repeated for every head of a group."""
        return grouped.repeat_interleave(self.R, dim=2) if self.R > 1 else grouped

    def merge_heads(self, y: Tensor) -> Tensor:
        """y [B, T, H, K] -> [B, T, D]."""
        return self.o_proj(y.flatten(2))


class CachingHeads(GroupedHeads):
    """Grouped heads of a mixer that decodes from keys and values [B, S, G, K]."""

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        nothing = torch.empty(batch_size, 0, self.G, self.K, device=device, dtype=dtype)
        return {"k": nothing, "v": nothing}


def rotate(x: Tensor, tokens: Tokens, kind: str = "global", share: float = 1.0) -> Tensor:
    """Rotate adjacent channel pairs of x [B, T, H, K] by their positions; returns x itself where there are none.

    kind     "global" and "local" are the two bases of a network, "none" rotates nothing: a layer without positions, as
    in
             Kazemnejad et al., arXiv:2305.19466
    share    share of the channels to rotate, the first ones of the head, by every int(1 / share)-th frequency, which is
             the whole range from 1 to 1 / base where 1 / share is an integer: partial rotary positions, Black et al.,
             "GPT-NeoX-20B", arXiv:2204.06745

    The frequencies belong to the widest head of the space, so a narrower head keeps the first of them.
    """
    if tokens.rotary is None or kind == "none":
        return x
    width, step = round(x.shape[-1] * share), frequency_step(share)
    first = tokens.rotary[0].shape[-1] // 2 if kind == "local" else 0
    cos, sin = (
        t[..., first::step][..., : width // 2].to(x.dtype).unsqueeze(-2) for t in tokens.rotary
    )  # [.., T, 1, width / 2]
    even, odd = x[..., 0:width:2], x[..., 1:width:2]
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
    return turned if width == x.shape[-1] else torch.cat((turned, x[..., width:]), -1)


def frequency_step(share: float) -> int:
    """Return n, where a head that rotates `share` of its channels uses every n-th of a whole head's frequencies."""
    return int(1 / share + 1e-6)


def why_not_rotary(spec: OpSpec, width: str = "head_dim") -> str | None:
    """Return why a head can't rotate the spec's share of its channels, whose number is the item `width`; else None."""
    share = spec.get("rotary_share", 1.0)
    turned = spec[width] * share
    if abs(turned - round(turned)) > 1e-6 or round(turned) % 2:
        return (
            f"{spec.op}: rotary_share = {share} must leave an even number of the {spec[width]} channels ({width}), "
            "which turn in pairs"
        )
    return None

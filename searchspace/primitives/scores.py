"""Masked score attention: which keys a query sees, and which keys a decoder has to store.

Positions are integers; query i sees key j if

    causal          j <= i
    window w > 0    causal: i - j < w          bidirectional: |i - j| <= w // 2
    sinks s         j < s is always allowed (causal), whatever the window
    valid           key j is not padding

Xiao et al., "Efficient Streaming Language Models with Attention Sinks", arXiv:2309.17453; Beltagy et al.,
"Longformer", arXiv:2004.05150. The output of a query that sees no key is 0, not NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import Axis
from searchspace.primitives.caches import append, following, latest
from searchspace.primitives.context import State


class HeadSizes(NamedTuple):
    """The heads of the attention that a normalizer, QK norm or score bias is part of; one head by default."""

    G: int = 1
    R: int = 1
    K: int = 16

    @property
    def H(self) -> int:
        return self.G * self.R

    @property
    def axis(self) -> Axis:
        return Axis.of(G=self.G, R=self.R)


ONE_HEAD = HeadSizes()


@dataclass(frozen=True)
class Visibility:
    """The visibility rule of one attention layer; `window` and `sinks` in tokens, 0 for none."""

    causal: bool
    window: int = 0
    sinks: int = 0

    def mask(self, queries: Tensor, keys: Tensor, valid: Tensor | None = None) -> Tensor:
        """Mask [T, S] or, with `valid`, [B, 1, T, S], True where a query sees a key.

        queries [T] and keys [S] are positions in the sequence; valid [B, S] is False at padding.
        """
        seen = self.sees(queries[:, None], keys[None, :])
        return seen if valid is None else seen & valid[:, None, None, :]

    def sees(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Whether queries at given positions see keys at given positions; the two are broadcast."""
        distance = queries - keys
        seen = distance >= 0 if self.causal else torch.ones_like(distance, dtype=torch.bool)
        if self.window:
            near = distance < self.window if self.causal else distance.abs() <= self.window // 2
            seen = seen & (near | (keys < self.sinks))
        return seen

    def num_kept(self, num_tokens: int) -> int:
        """The number of keys that later queries can still see after `num_tokens` tokens."""
        if not self.window:
            return num_tokens
        sinks = torch.sym_min(self.sinks, num_tokens)  # num_tokens is symbolic in a trace
        return sinks + torch.sym_min(self.window - 1, num_tokens - sinks)

    def kept_positions(self, num_tokens: int, device: torch.device) -> Tensor:
        """Positions [num_kept] of the stored keys, sinks first."""
        kept = self.num_kept(num_tokens)
        sinks = torch.sym_min(self.sinks, num_tokens) if self.window else 0
        recent = torch.arange(num_tokens - (kept - sinks), num_tokens, device=device)
        return torch.cat((torch.arange(sinks, device=device), recent))


@dataclass(frozen=True, eq=False)
class Places:
    """Positions of the queries [T] and the keys [S]; `is_last` says that the queries are the last keys."""

    queries: Tensor
    keys: Tensor
    is_last: bool = True

    @classmethod
    def following(cls, start: int | Tensor, T: int, device: torch.device) -> Places:
        """Places of T tokens after `start` others, with these T tokens as the only keys."""
        own = following(start, T, device)
        return cls(own, own)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention, heads first: q [B, H, T, K], k and v [B, H, S, K], bias [H, T, S] -> [B, H, T, K].

    visible: a mask of Visibility. With padding (4 axes) a query may see no key; its output is 0 instead of NaN.
    """
    may_be_blind = visible.dim() == 4
    seeing = visible | ~visible.any(-1, keepdim=True) if may_be_blind else visible
    mask = seeing if bias is None else bias.to(q.dtype).masked_fill(~seeing, -torch.inf)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return y * visible.any(-1, keepdim=True) if may_be_blind else y


def empty_cache(batch_size: int, G: int, K: int, device: torch.device, dtype: torch.dtype) -> State:
    """The cache before the first token: keys and values [B, 0, G, K]."""
    nothing = torch.empty(batch_size, 0, G, K, device=device, dtype=dtype)
    return {"k": nothing, "v": nothing, "num_tokens": 0}


def extend_rows(
    cache: State, new: Mapping[str, Tensor], rule: Visibility, valid: Tensor | None = None
) -> tuple[dict[str, Tensor], Places, State]:
    """Append the rows of new tokens, tensors [B, T, ...] by name, to a cache.

    Returns (rows [B, S, ...] that the new queries may see, their places, the cache for later queries). With a window
    that cache holds the sinks and the last w - 1 tokens. Once `valid` [B, T] was given, the cache stores it under that
    name. Raises ValueError if a sink is padding, or for padding in a cache of fixed length.
    """
    if isinstance(cache["num_tokens"], Tensor):
        return _written(cache, new, valid)
    some = next(iter(new.values()))
    before, after = cache["num_tokens"], cache["num_tokens"] + some.shape[1]
    rows = dict(new)
    if valid is not None or "valid" in cache:
        _refuse_padded_sinks(rule, before, valid)
        held = next(iter(cache[name] for name in new)).shape[:2]
        cache = {"valid": torch.ones(held, dtype=torch.bool, device=some.device)} | cache
        if valid is None:
            valid = torch.ones(some.shape[:2], dtype=torch.bool, device=some.device)
        rows["valid"] = valid
    rows = {name: append(cache[name], row) for name, row in rows.items()}
    own = torch.arange(before, after, device=some.device)
    places = Places(own, torch.cat((rule.kept_positions(before, some.device), own)))
    kept = rule.num_kept(after)
    sinks = torch.sym_min(rule.sinks, after) if rule.window else 0

    def cut(x: Tensor) -> Tensor:
        whole = x.shape[1]
        if kept == whole:
            return x
        # Sinks and the last tokens are not adjacent, so they are copied; these are at most w - 1 + sinks rows.
        return torch.cat((x[:, :sinks], x[:, whole - kept + sinks :]), 1) if rule.sinks else latest(x, kept)

    return rows, places, {name: cut(row) for name, row in rows.items()} | {"num_tokens": after}


def _written(
    cache: State, new: Mapping[str, Tensor], valid: Tensor | None
) -> tuple[dict[str, Tensor], Places, State]:
    """`extend_rows` for a cache of fixed length: rows are written in place; future rows are 0 and not visible."""
    if valid is not None:
        raise ValueError(
            "a state with max_len takes no padding: decode these sequences from init_state without it"
        )
    some = next(iter(new.values()))
    places = Places.following(cache["num_tokens"], some.shape[1], some.device)
    rows = {name: cache[name].index_copy_(1, places.queries, row) for name, row in new.items()}
    keys = torch.arange(rows[next(iter(rows))].shape[1], device=some.device)
    after = cache | {"num_tokens": cache["num_tokens"] + some.shape[1]}
    return rows, Places(places.queries, keys, is_last=False), after


def _refuse_padded_sinks(rule: Visibility, before: int, valid: Tensor | None) -> None:
    if rule.sinks > before and valid is not None and not valid[:, : rule.sinks - before].all():
        raise ValueError(
            f"sinks={rule.sinks} keep the first tokens of the cache, but some of them are padding: "
            "decode these sequences without padding on the left"
        )

"""Content-dependent choice of keys, by clusters or tree search; without gradients and without later tokens.

Ties are broken by place, so the choice is deterministic. A choice is a tensor of places and a mask of those that count;
`attend_selected` is exact softmax attention on it, with the log-sum-exp for merging it with other keys.
Shapes: B batch, T queries, S keys, G key/value groups, R heads per group, H = G R, K head dim, M clusters, n chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.masks import Blocks
from searchspace.primitives.merging import attend_with_sum

KMEANS_STEPS = 8


def by_group(x: Tensor, places: Tensor) -> Tensor:
    """x [B, S, G, K] at places [B, G, n] -> [B, G, n, K]."""
    return x.transpose(1, 2).gather(2, places.unsqueeze(-1).expand(-1, -1, -1, x.shape[-1]))


def attend_selected(q: Tensor, k: Tensor, v: Tensor, places: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """q [B, T, H, K], k and v [B, S, G, K], places and seen [B, T, G, r, n]; r = R, or 1 where a group's heads share.

    Returns [B, T, H, K] and the log-sum-exp [B, T, H].
    """
    B, T, G, r, n = places.shape
    flat = places.transpose(1, 2).flatten(2)  # [B, G, T r n]
    keys, values = (by_group(x, flat).reshape(B * G * T * r, n, 1, x.shape[-1]) for x in (k, v))
    rows = q.unflatten(2, (G, -1)).transpose(1, 2).reshape(B * G * T * r, 1, -1, q.shape[-1])
    mask = seen.transpose(1, 2).reshape(B * G * T * r, 1, n)
    y, total = attend_with_sum(rows, keys, values, mask)
    y = y.view(B, G, T, -1, q.shape[-1]).transpose(1, 2).flatten(2, 3)
    return y, total.view(B, G, T, -1).transpose(1, 2).flatten(2)


def near_and_sinks(before: int, T: int, window: int, sinks: int, device: torch.device) -> Blocks:
    """Return blocks of the last `window` places up to each of T queries after `before` keys, and the first `sinks`."""
    asking = torch.arange(before, before + T, device=device).unsqueeze(1)
    near = asking - torch.arange(window, device=device)
    first = torch.arange(sinks, device=device).expand(T, -1)
    seen = torch.cat((near >= 0, first <= asking - window), 1)
    each = torch.arange(T, device=device)
    return Blocks(
        each.unsqueeze(1), torch.cat((near, first), 1).clamp(0, before + T - 1), seen.unsqueeze(1), each
    )


@torch.no_grad()
def tree_select(
    q: Tensor, k: Tensor, asking: Tensor, count: int, valid: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Choose up to `count` places for each query and group by tree search: places and existence [B, T, G, count].

    q [B, T, H, K], k [B, S, G, K]; query t is at place asking[t], [T], and may choose from 0 .. asking[t]. That range
    is cut into `count` spans; each round halves them and keeps the best `count` halves, until a span is one token. A
    half's score is the largest product of its first key with a head of the group; below any other if that key is
    padding.
    """
    B, S, G, _ = k.shape
    T = q.shape[1]
    dtype = torch.promote_types(q.dtype, torch.float32)
    heads = q.unflatten(2, (G, -1)).transpose(1, 2).to(dtype)  # [B, G, T, R, K]
    cut = torch.arange(count + 1, device=q.device) * (asking + 1).unsqueeze(1) // count
    low, high = (t.expand(B, G, T, count) for t in (cut[:, :-1], cut[:, 1:]))
    for _ in range(num_rounds(S, count)):
        middle = (low + high + 1) // 2
        low, high = torch.cat((low, middle), -1), torch.cat((middle, high), -1)
        first = low.clamp(max=S - 1)
        keys = by_group(k, first.flatten(2)).unflatten(2, (T, 2 * count)).to(dtype)
        worth = (heads @ keys.mT).amax(3)
        if valid is not None:
            real = valid[torch.arange(B, device=q.device)[:, None, None, None], first]
            worth = worth.masked_fill(~real, torch.finfo(dtype).min)
        worth = worth.masked_fill(high <= low, -torch.inf)
        best = worth.sort(dim=-1, descending=True, stable=True).indices[..., :count]
        low, high = low.gather(-1, best), high.gather(-1, best)
    return low.clamp(max=S - 1).transpose(1, 2), (high > low).transpose(1, 2)


def num_rounds(S: int, count: int) -> int:
    """Return the number of halvings until the longest of `count` spans of S tokens is one token."""
    return (-(-S // count) - 1).bit_length()


def tree_select_flops(T: int, S: int, count: int, H: int, K: int) -> int:
    return num_rounds(S, count) * 2 * T * 2 * count * H * K


@torch.no_grad()
def nearest(x: Tensor, centroids: Tensor) -> Tensor:
    """x [B, T, G, R, K], centroids [G, M, K] -> index of the largest product [B, T, G, R], the first of equals."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    products = x.to(dtype).transpose(1, 2).flatten(2, 3) @ centroids.to(dtype).mT  # [B, G, T R, M]
    return products.argmax(-1).unflatten(2, x.shape[1:4:2]).transpose(1, 2)


@torch.no_grad()
def latest_members(
    of_keys: Tensor, wanted: Tensor, until: Tensor, count: int, M: int
) -> tuple[Tensor, Tensor]:
    """Find the `count` latest places of a cluster before a limit: places and existence [B, T, G, R, count].

    of_keys [B, S, G] is each key's cluster, M for none; wanted [B, T, G, R] each query's; until [T] the limit.
    """
    S = of_keys.shape[1]
    member = F.one_hot(of_keys, M + 1).transpose(1, 2)  # [B, G, S, M + 1]
    num_before = F.pad(member.cumsum(2), (0, 0, 1, 0))[:, :, until.clamp_min(0)]  # [B, G, T, M + 1]
    wanted = wanted.transpose(1, 2)
    start = member.sum(2).cumsum(-1).roll(1, -1)  # [B, G, M + 1], wrong only for cluster 0
    start[..., 0] = 0
    rank = num_before.gather(-1, wanted).unsqueeze(-1) - 1 - torch.arange(count, device=wanted.device)
    slot = start.unsqueeze(2).expand_as(num_before).gather(-1, wanted).unsqueeze(-1) + rank
    order = of_keys.transpose(1, 2).argsort(dim=-1, stable=True)
    places = order.gather(-1, slot.clamp(0, S - 1).flatten(2)).view(slot.shape)
    return places.transpose(1, 2), (rank >= 0).transpose(1, 2)


@torch.no_grad()
def spherical_kmeans(points: Tensor, M: int) -> Tensor:
    """points [n, K] -> M unit vectors [M, K], starting from distant points; deterministic."""
    points = F.normalize(points, dim=-1)
    centroids = points[:1]
    while len(centroids) < M:
        farthest = (points @ centroids.mT).amax(-1).argmin()
        centroids = torch.cat((centroids, points[farthest].unsqueeze(0)))
    for _ in range(KMEANS_STEPS):
        members = F.one_hot((points @ centroids.mT).argmax(-1), M).to(points.dtype)
        total = members.mT @ points
        moved = F.normalize(total, dim=-1)
        centroids = torch.where(total.norm(dim=-1, keepdim=True) > 0, moved, centroids)
    return centroids

"""Strided attention: near blocks of keys for every head, and far blocks at a stride whose offset depends on the group.

    query block I sees key block J <= I if  I - J < l  or  (J + f_g + 1) mod sigma = 0

S2-Attention, Lin et al., arXiv:2407.17678; the mask as published with Phi-3-small, arXiv:2404.14219, f_g = g sigma / G,
with the groups in another order: f_g is number g mod sigma of 0 .. sigma - 1 sorted by their reversed bits. For powers
of two the set of offsets is the same, and a group keeps its offset in a network with fewer groups. Heads that share
keys share the offset, otherwise a decoder could drop no keys; together the groups see every key if G >= sigma. The near
part, on gathered blocks, and the far part, on the group's own keys, are merged exactly. A decoder keeps, for each
group, the far blocks of its stride and the l near blocks. Shapes: B batch, T time, D model width, G groups, R heads per
group, H = G R, K head dim, w = 16 l window in tokens.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from searchspace.kernels import block_lists, dispatch
from searchspace.primitives import state_size
from searchspace.primitives.caches import append, latest
from searchspace.primitives.constants import kept
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.primitives.masks import Blocks, attend_flops, sparse_reference
from searchspace.primitives.merging import attend_blocks_with_sum, attend_with_sum, merge
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec

BLOCK = 16  # tokens; every size below is a multiple of it


class StridedAttention(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.window, self.stride = spec["window"], spec["stride"]

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.rotated(x, tokens)
        start = state["num_tokens"] if state else 0
        end = start + x.shape[1]
        base = self.near_start(start)
        if state:
            k, v = append(state["k"], k), append(state["v"], v)
        kernel = dispatch.kernel("attention", x.device, q)
        if kernel is not None and start == 0:
            blocks = block_mask(self.G, self.window // BLOCK, self.stride, -(-end // BLOCK), x.device)
            y, _ = kernel(q, k, v, valid=tokens.valid, blocks=blocks)
            return self.merge_heads(y), self.next_state(state, k, v, base, end) if state else None
        near = attend_blocks_with_sum(q, k, v, self.near_blocks(start, end, x.device), tokens.valid)
        places = [self.far_places(g, 0, self.near_start(end - 1), x.device) for g in range(self.G)]
        far = [
            self.far_attention(g, q, k, v, places[g], base, start, tokens.valid, state) for g in range(self.G)
        ]
        y, _ = merge(near, (torch.cat([f[0] for f in far], 2), torch.cat([f[1] for f in far], 2)))
        return self.merge_heads(y), self.next_state(state, k, v, base, end) if state else None

    def near_start(self, num_tokens: int) -> int:
        """The first token that is near to a query at this place."""
        return max(0, (num_tokens // BLOCK + 1) * BLOCK - self.window)

    def near_blocks(self, start: int, end: int, device: torch.device) -> Blocks:
        """Blocks whose key places count from `near_start(start)`; a single query is a block of its own."""
        base, single = self.near_start(start), end - start == 1
        blocks = torch.arange(start // BLOCK, (end - 1) // BLOCK + 1, device=device).unsqueeze(1)
        asking = blocks * BLOCK + torch.arange(BLOCK, device=device)
        asking = torch.full((1, 1), start, device=device) if single else asking
        keys = (blocks + 1) * BLOCK - self.window + torch.arange(self.window, device=device)
        seen = (
            (keys >= 0).unsqueeze(1) & (keys.unsqueeze(1) <= asking.unsqueeze(2)) & (keys < end).unsqueeze(1)
        )
        slots = torch.arange(end - start, device=device) + (0 if single else start % BLOCK)
        queries = (asking - start).clamp(0, end - start - 1)
        return Blocks(queries, (keys - base).clamp(0, end - base - 1), seen, slots)

    def far_places(self, g: int, first: int, last: int, device: torch.device) -> Tensor:
        """Return the places [n] with first <= j < last in the stride of group g; both ends are multiples of BLOCK."""
        offset = offsets(self.stride)[g % self.stride]
        chosen = [J for J in range(first // BLOCK, last // BLOCK) if (J + offset + 1) % self.stride == 0]
        inside = torch.arange(BLOCK, device=device)
        return (torch.tensor(chosen, dtype=torch.long, device=device).unsqueeze(1) * BLOCK + inside).flatten()

    def far_attention(
        self,
        g: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        places: Tensor,
        base: int,
        start: int,
        valid: Tensor | None,
        state: State | None,
    ) -> tuple[Tensor, Tensor]:
        """Attention of group g's heads [B, T, R, K] to the far keys of its stride, and the log-sum-exp."""
        B, T = q.shape[:2]
        k, v = (self.far_keys(g, name, t, places, base, state) for name, t in (("k", k), ("v", v)))
        q_places = torch.arange(start, start + T, device=q.device)
        far = places // BLOCK <= (q_places // BLOCK).unsqueeze(1) - self.window // BLOCK
        seen = far.expand(B, -1, -1) if valid is None else far & valid[:, places].unsqueeze(1)
        return attend_with_sum(q[:, :, g * self.R : (g + 1) * self.R], k.unsqueeze(2), v.unsqueeze(2), seen)

    def far_keys(
        self, g: int, name: str, t: Tensor, places: Tensor, base: int, state: State | None
    ) -> Tensor:
        """Keys or values [B, n, K] of group g at `places`, from the state before place `base` and from `t` after it."""
        if state is None:
            return t[:, places, g]
        kept: Tensor = state["far"][f"{name}{g}"]
        return append(kept, t[:, places[kept.shape[1] :] - base, g])

    def next_state(self, state: State, k: Tensor, v: Tensor, base: int, end: int) -> State:
        """The state after the keys and values [B, n, G, K] of places base .. end - 1."""
        first = self.near_start(end)
        far = {}
        for g, (name, t) in product(range(self.G), (("k", k), ("v", v))):
            far[f"{name}{g}"] = self.far_keys(g, name, t, self.far_places(g, 0, first, t.device), base, state)
        return {
            "k": latest(k, end - first),
            "v": latest(v, end - first),
            "far": far,
            "num_tokens": end,
        }

    def num_far(self, g: int, num_tokens: int) -> int:
        """Number of group g's keys that are in its stride and not near to the query at place `num_tokens`."""
        return len(self.far_places(g, 0, self.near_start(num_tokens), torch.device("cpu")))

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        nothing = torch.empty(batch_size, 0, self.G, self.K, device=device, dtype=dtype)
        far = {f"{name}{g}": nothing[:, :, 0] for name in "kv" for g in range(self.G)}
        return {"k": nothing, "v": nothing, "far": far, "num_tokens": 0}


@lru_cache
def offsets(stride: int) -> tuple[int, ...]:
    """Offsets of the groups, repeating after `stride` of them, each as far as possible from the earlier ones."""
    bits = (stride - 1).bit_length()
    return tuple(sorted(range(stride), key=lambda n: f"{n:0{bits}b}"[::-1]))


@kept(128)
def block_mask(G: int, near: int, stride: int, n: int, device: torch.device) -> block_lists.BlockMask:
    """What each group sees of n blocks, for the kernel; every block but the last `near` ones is far."""
    of_groups = torch.tensor([offsets(stride)[g % stride] for g in range(G)], device=device)
    keys = torch.arange(n, device=device)
    queries = keys.unsqueeze(1)
    far = (keys + of_groups.view(-1, 1, 1) + 1) % stride == 0
    return block_lists.block_mask((keys <= queries) & ((queries - keys < near) | far), BLOCK)


def reference(module: StridedAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """By a weight for each pair of tokens. x [B, T, D] -> [B, T, D]."""
    order = sorted(range(module.stride), key=lambda n: [n >> bit & 1 for bit in range(32)])

    def sees(b: int, h: int, i: int) -> list[int]:
        near = i // BLOCK - module.window // BLOCK  # the last far block
        strides = order[h // module.R % module.stride] + 1
        return [j for j in range(i + 1) if j // BLOCK > near or (j // BLOCK + strides) % module.stride == 0]

    return module.merge_heads(sparse_reference(module, x, tokens, sees))


def flops(module: StridedAttention, T: int, S: int) -> int:
    start = S - T
    count, b = (1, 1) if T == 1 else ((S - 1) // BLOCK - start // BLOCK + 1, BLOCK)
    far = sum(module.num_far(g, S - 1) for g in range(module.G))
    near = attend_flops(count, b, module.window, module.H, module.K)
    return near + attend_flops(1, T, far, module.R, module.K)


def num_kept(module: StridedAttention, context_len: int) -> dict[str, int]:
    far = {f"{name}{g}": module.num_far(g, context_len) for name in "kv" for g in range(module.G)}
    return far | dict.fromkeys("kv", context_len - module.near_start(context_len))


OPERATOR = Operator(
    name="strided_attention",
    slot="mixer",
    paper="S2-Attention, Lin et al. 2024, arXiv:2407.17678",
    build=StridedAttention,
    ranges={"window": Range(BLOCK, 2**20, "a window is made of blocks of keys", step=BLOCK)},
    reference=reference,
    choices={**HEAD_CHOICES, "window": (16, 32, 64), "stride": (2, 4)},
    flops=flops,
    state_bytes=state_size.tokens(num_kept),
    bidirectional=False,
    rope=True,
    catalogue=(99,),
    complexity="T (w + T / sigma) H K",
    state="2 (w + S / sigma) G K",
)

"""Mixture of block attention: a query sees its own block of keys and a few earlier blocks that match it best.

    e_r = mean of the keys of block r    blocks of i = its own, and of those before the n - 1 with the largest q_i . e_r
    o_i = sum_j softmax_j(q_i . k_j / sqrt(K)) v_j        over the tokens j <= i of these blocks

Lu et al., "MoBA: Mixture of Block Attention for Long-Context LLMs", arXiv:2502.13189. Every head chooses separately,
without a gradient; ties are broken by place. A block's mean is over its real tokens; a block without any is never
chosen. A decoder keeps all keys and values. Shapes: q [B, T, H, K], k and v [B, S, G, K], blocks of b tokens, H = G R
heads.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import state_size
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.primitives.masks import sparse_reference
from searchspace.primitives.scores import Visibility, empty_cache, extend_rows
from searchspace.primitives.selection import attend_selected
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class MixtureOfBlocks(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.block, self.count = spec["block"], spec["num_blocks"]
        self.rule = Visibility(context.causal)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.rotated(x, tokens)
        valid = tokens.valid
        if state is not None:
            rows, _, state = extend_rows(state, {"k": k, "v": v}, self.rule, valid)
            k, v, valid = rows["k"], rows["v"], rows.get("valid")
        T, S = x.shape[1], k.shape[1]
        asking = torch.arange(S - T, S, device=x.device)
        blocks, exists = self.choose(q, k, asking, valid)
        places = blocks.unsqueeze(-1) * self.block + torch.arange(self.block, device=x.device)
        seen = exists.unsqueeze(-1) & (places <= asking.view(1, T, 1, 1, 1, 1))
        places, seen = places.clamp(max=S - 1).flatten(4), seen.flatten(4)
        if valid is not None:
            seen = seen & valid[torch.arange(len(x), device=x.device).view(-1, 1, 1, 1, 1), places]
        return self.merge_heads(attend_selected(q, k, v, places, seen)[0]), state

    @torch.no_grad()
    def choose(self, q: Tensor, k: Tensor, asking: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Which blocks each query sees, its own first, and which of them exist: [B, T, G, R, n] both."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        T, S, own = q.shape[1], k.shape[1], asking // self.block
        total = num_blocks(S, self.block)
        missing = total * self.block - S
        real = k.new_ones(k.shape[:2], dtype=dtype) if valid is None else valid.to(dtype)
        real = F.pad(real, (0, missing)).unflatten(1, (total, self.block))
        keys = F.pad(k.to(dtype), (0, 0, 0, 0, 0, missing)).unflatten(1, (total, self.block))
        size = real.sum(2)  # [B, N]
        means = (keys * real[..., None, None]).sum(2) / size.clamp_min(1)[..., None, None]  # [B, N, G, K]
        heads = q.to(dtype).unflatten(2, (self.G, self.R)).permute(0, 2, 1, 3, 4).flatten(2, 3)
        scores = heads @ means.permute(0, 2, 3, 1)  # [B, G, T R, N]
        scores = scores.unflatten(2, (T, self.R)).transpose(1, 2)  # [B, T, G, R, N]
        earlier = torch.arange(total, device=q.device) < own.unsqueeze(1)  # [T, N]
        may = earlier.view(1, T, 1, 1, total) & (size > 0).view(-1, 1, 1, 1, total)
        scores = scores.masked_fill(~may, -torch.inf)
        best, order = scores.sort(dim=-1, descending=True, stable=True)
        chosen = order[..., : min(self.count, total) - 1]
        itself = own.view(1, T, 1, 1, 1).expand(*scores.shape[:4], 1)
        exists = best[..., : chosen.shape[-1]] > -torch.inf
        return torch.cat((itself, chosen), -1), torch.cat(
            (torch.ones_like(itself, dtype=torch.bool), exists), -1
        )

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        return empty_cache(batch_size, self.G, self.K, device, dtype)


def num_blocks(S: int, block: int) -> int:
    return -(-S // block)


@torch.no_grad()
def _chosen(module: MixtureOfBlocks, q: Tensor, k: Tensor, real: list[int], i: int) -> list[int]:
    """The blocks of query q [K] at place i, with keys k [T, K]."""
    own, scores = i // module.block, []
    for r in range(own):
        members = [j for j in real if j // module.block == r]
        if members:
            scores.append((-float(q.double() @ k[members].double().mean(0)), r))
    return [own] + [r for _, r in sorted(scores)[: module.count - 1]]


def reference(module: MixtureOfBlocks, x: Tensor, tokens: Tokens) -> Tensor:
    """By a weight for each pair of tokens, with blocks chosen query by query. x [B, T, D] -> [B, T, D]."""
    q, k, _ = module.rotated_per_head(x, tokens)

    def sees(b: int, h: int, i: int) -> list[int]:
        real = [j for j in range(x.shape[1]) if tokens.is_real(b, j)]
        blocks = _chosen(module, q[b, i, h], k[b, :, h], real, i)
        return [j for j in range(i + 1) if j // module.block in blocks]

    return module.merge_heads(sparse_reference(module, x, tokens, sees))


def flops(module: MixtureOfBlocks, T: int, S: int) -> int:
    total = num_blocks(S, module.block)
    seen = min(module.count, total) * module.block
    return 2 * T * module.H * module.K * (total + 2 * seen)


OPERATOR = Operator(
    name="moba",
    slot="mixer",
    paper="MoBA, Lu et al. 2025, arXiv:2502.13189",
    build=MixtureOfBlocks,
    reference=reference,
    choices={**HEAD_CHOICES, "block": (8, 16), "num_blocks": (2, 3)},
    flops=flops,
    state_bytes=state_size.every_token,
    bidirectional=False,
    rope=True,
    catalogue=(136,),
    complexity="T (n b + S / b) H K",
    state="2 S G K",
)

"""HiP attention: each query finds keys by halving spans of the sequence, and sees them, a window and the sinks.

    selected(i) = the n keys at which a tree search over 0 .. i ends (`tree_select`)
    o_i = sum_j softmax_j(q_i . k_j / sqrt(K)) v_j        over selected(i), the last w tokens and the first s tokens

Lee et al., "A Training-free Sub-quadratic Cost Transformer Model Serving Framework with Hierarchically Pruned
Attention" (HiP), arXiv:2406.09827. The search assumes that neighbouring keys have similar scores: it is exact where
scores are smooth, and where n covers the sequence. The published form searches once per block of queries, so that a
later query affects what an earlier one sees; here every query searches separately, the heads of a group together.
Shapes: B batch, T time, D model width, G groups, R heads per group, H = G R, K head dim, n num_keys.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from searchspace.primitives import state_size
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, CachingHeads
from searchspace.primitives.masks import attend_flops, extend, sparse_reference
from searchspace.primitives.merging import attend_blocks_with_sum, merge
from searchspace.primitives.selection import attend_selected, near_and_sinks, tree_select, tree_select_flops
from searchspace.registry import COUNT, Operator
from searchspace.spec.arch import OpSpec


class HiPAttention(CachingHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.num_keys, self.window, self.sinks = spec["num_keys"], spec["window"], spec["sinks"]

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.rotated(x, tokens)
        if state:
            state = extend(state, k=k, v=v)
            k, v = state["k"], state["v"]
        T, end = x.shape[1], k.shape[1]
        near = attend_blocks_with_sum(
            q, k, v, near_and_sinks(end - T, T, self.window, self.sinks, x.device), tokens.valid
        )
        places, seen = self.selected(q, k, tokens.valid)
        y, _ = merge(near, attend_selected(q, k, v, places.unsqueeze(3), seen.unsqueeze(3)))
        return self.merge_heads(y), state

    def selected(self, q: Tensor, k: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Places [B, T, G, n], and which of them count in addition to the window and the sinks."""
        T, end = q.shape[1], k.shape[1]
        asking = torch.arange(end - T, end, device=q.device)
        places, seen = tree_select(q, k, asking, self.num_keys, valid)
        seen = seen & (places >= self.sinks) & (places <= (asking - self.window)[:, None, None])
        if valid is not None:
            seen = seen & valid[torch.arange(q.shape[0], device=q.device)[:, None, None, None], places]
        return places, seen


def reference(module: HiPAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """By a weight for each pair, walking each query's tree span by span. x [B, T, D] -> [B, T, D]."""
    q, k, _ = (t.detach() for t in module.rotated(x, tokens))

    @cache
    def sees(b: int, g: int, i: int) -> set[int]:
        real = [t for t in range(x.shape[1]) if tokens.is_real(b, t)]
        kept = _tree(q[b, i].unflatten(0, (module.G, -1))[g], k[b, :, g], i, module.num_keys, real)
        return kept | {j for j in range(i + 1) if i - module.window < j or j < module.sinks}

    by_group = sparse_reference(module, x, tokens, lambda b, h, i: sees(b, h // module.R, i))
    return module.merge_heads(by_group)


def _tree(q: Tensor, k: Tensor, i: int, n: int, real: list[int]) -> set[int]:
    """q [R, K], k [S, K] -> the places at which the search of the query at place i ends."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    spans = [range(a * (i + 1) // n, (a + 1) * (i + 1) // n) for a in range(n)]
    spans = [span for span in spans if span]
    while any(len(span) > 1 for span in spans):
        left = [span[: (len(span) + 1) // 2] for span in spans]
        right = [span[(len(span) + 1) // 2 :] for span in spans]
        halves = [half for half in left + right if half]
        worth = [float((q.to(dtype) @ k[h[0]].to(dtype)).max()) if h[0] in real else -3e38 for h in halves]
        best = sorted(range(len(halves)), key=lambda h: -worth[h])[:n]
        spans = [halves[h] for h in best]
    return {span[0] for span in spans}


def flops(module: HiPAttention, T: int, S: int) -> int:
    attended = module.num_keys + module.window + module.sinks
    search = tree_select_flops(T, S, module.num_keys, module.H, module.K)
    return search + attend_flops(T, 1, attended, module.H, module.K)


OPERATOR = Operator(
    name="hip_attention",
    slot="mixer",
    paper="HiP Attention, Lee et al. 2024, arXiv:2406.09827",
    build=HiPAttention,
    ranges={"sinks": COUNT},
    reference=reference,
    choices={**HEAD_CHOICES, "num_keys": (8, 32), "window": (8, 32), "sinks": (0, 4)},
    flops=flops,
    state_bytes=state_size.every_token,
    bidirectional=False,
    rope=True,
    catalogue=(83,),
    complexity="T n log(T / n) H K",
    state="2 S G K",
)

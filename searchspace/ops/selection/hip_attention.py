"""HiP attention: each query finds its keys by halving spans of the sequence, and sees them, a window and the sinks.

    selected(i) = the n keys that a tree search over 0 .. i ends at (`tree_select`)
    o_i = sum_j softmax_j(q_i . k_j / sqrt(K)) v_j        over selected(i), the last w tokens and the first s tokens

Lee et al., "A Training-free Sub-quadratic Cost Transformer Model Serving Framework with Hierarchically Pruned
Attention" (HiP), arXiv:2406.09827. The search assumes that neighbouring keys have similar scores: it is exact where
scores are smooth, and where n covers the sequence. The published form searches once for a block of queries; then a
later query decides what an earlier one sees, so here every query searches for itself, the heads of a group together.
Shapes: B batch, T time, D model width, G groups, R heads per group, H = G R, K head dim, n num_keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads, rotate
from searchspace.primitives.masks import attend_flops, extend
from searchspace.primitives.merging import attend_blocks_with_sum, merge
from searchspace.primitives.selection import attend_selected, near_and_sinks, tree_select, tree_select_flops
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class HiPAttention(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.num_keys, self.window, self.sinks = spec["num_keys"], spec["window"], spec["sinks"]

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        q, k, v = self.queries_keys_values(x)
        q, k = rotate(q, tokens), rotate(k, tokens)
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
        """Places [B, T, G, n], and which of them count beside the window and the sinks."""
        T, end = q.shape[1], k.shape[1]
        asking = torch.arange(end - T, end, device=q.device)
        places, seen = tree_select(q, k, asking, self.num_keys, valid)
        seen = seen & (places >= self.sinks) & (places <= (asking - self.window)[:, None, None])
        if valid is not None:
            seen = seen & valid[torch.arange(len(q), device=q.device)[:, None, None, None], places]
        return places, seen

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        nothing = torch.empty(batch_size, 0, self.G, self.K, device=device, dtype=dtype)
        return {"k": nothing, "v": nothing}


def reference(module: HiPAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """One query at a time, its tree walked span by span."""
    q, k, v = module.queries_keys_values(x)
    q, k = rotate(q, tokens), rotate(k, tokens)
    y = torch.zeros_like(q)
    for b in range(len(x)):
        real = [t for t in range(x.shape[1]) if tokens.valid is None or tokens.valid[b, t]]
        for i in range(x.shape[1]):
            for g in range(module.G):
                heads = slice(g * module.R, (g + 1) * module.R)
                kept = _tree(q[b, i, heads].detach(), k[b, :, g].detach(), i, module.num_keys, real)
                kept |= {j for j in real if i - module.window < j <= i or j < min(module.sinks, i + 1)}
                sees = sorted(kept & set(real))
                if sees:
                    weights = (q[b, i, heads] @ k[b, sees, g].mT / module.K**0.5).softmax(-1)
                    y[b, i, heads] = weights @ v[b, sees, g]
    return module.merge_heads(y)


def _tree(q: Tensor, k: Tensor, i: int, n: int, real: list[int]) -> set[int]:
    """q [R, K], k [S, K] -> the places that the search of the query at place i ends at."""
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


def state_bytes(module: HiPAttention, context_len: int, bytes_per_value: int) -> int:
    return 2 * context_len * module.G * module.K * bytes_per_value


OPERATOR = Operator(
    name="hip_attention",
    slot="mixer",
    paper="HiP Attention, Lee et al. 2024, arXiv:2406.09827",
    build=HiPAttention,
    reference=reference,
    choices={**HEAD_CHOICES, "num_keys": (8, 32), "window": (8, 32), "sinks": (0, 4)},
    flops=flops,
    state_bytes=state_bytes,
    bidirectional=False,
    rope=True,
    quantizable=("q", "k", "v", "o"),
    catalogue=(83,),
    complexity="T n log(T / n) H K",
    state="2 S G K",
)

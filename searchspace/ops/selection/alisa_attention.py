"""ALISA: a cache of a share of the tokens: the latest ones, and those that recent queries attended to most.

    k(n) = ceil(r n)  of the n tokens so far are kept, including the last l(n) = ceil(f k(n))
    u_j  = the mean, over those of the last w queries that could see key j, of sum_h A_hj      h: the heads of a group
    o_i  = softmax attention over the tokens kept before i and i itself

Zhao et al., "ALISA: Accelerating Large Language Model Inference via Sparsity-Aware KV Caching", arXiv:2403.17312: its
sparse window attention. With r = 1 it is full attention, with f = 1 a window that grows with the sequence. Tokens over
the budget are deleted for good, smallest u_j first, except the last ones; the authors move them to another device's
memory, from which they may return. The mean (the authors use the sum) doesn't favour keys that many queries could see.
Each key/value group chooses separately; the choice has no gradient, and padding is ignored.

A whole sequence is computed under the same policy: what each query sees is determined query by query, without a
gradient, and then attended to in one pass, so it takes one small step per token and the arithmetic of full attention.
Shapes: B batch, T queries, S rows (kept ones, then the T new), G groups, R heads per group, H = G R, K head dim.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import state_size
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, CachingHeads
from searchspace.primitives.masks import extend, sparse_reference
from searchspace.primitives.row_statistics import masked_softmax
from searchspace.primitives.scores import fused_attention
from searchspace.primitives.selection import by_group
from searchspace.registry import SHARE, Operator
from searchspace.spec.arch import OpSpec

UNSEEN = -1.0  # in the history, marks a weight that no query could give
SLACK = 1e-9  # 0.1 * 30 is slightly more than 3 in floating point


class ALISAAttention(CachingHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.keep_ratio, self.local_share, self.window = (
            spec[item] for item in ("keep_ratio", "local_share", "window")
        )

    def num_kept(self, num_tokens: int) -> int:
        return math.ceil(self.keep_ratio * num_tokens - SLACK)

    def num_latest(self, num_kept: int) -> int:
        return math.ceil(self.local_share * num_kept - SLACK)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        B, T, _ = x.shape
        q, k, v = self.rotated(x, tokens)
        before = self.init_state(B, x.device, x.dtype) if state is None else state
        wide = before["history"].dtype
        unseen = torch.full((B, T, self.G, self.window, 1), UNSEEN, dtype=wide, device=x.device)
        rows = extend({n: before[n] for n in ("k", "v", "history")}, k=k, v=v, history=unseen)
        seen, history, num_real = self.selected(
            q, rows["k"], rows["history"], tokens.valid, before["num_real"]
        )
        queries, keys, values = (
            t.transpose(1, 2) for t in (q, self.per_head(rows["k"]), self.per_head(rows["v"]))
        )
        y = fused_attention(queries, keys, values, seen.repeat_interleave(self.R, 1))
        if state is not None:
            num_tokens = state["num_tokens"] + T
            state = self.kept(rows, history, self.num_kept(num_tokens))
            state |= {"num_tokens": num_tokens, "num_real": num_real}
        return self.merge_heads(y.transpose(1, 2)), state

    @torch.no_grad()
    def selected(
        self, q: Tensor, k: Tensor, history: Tensor, valid: Tensor | None, num_real: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What each query sees [B, G, T, S], the history [B, G, S, w] after the last, and real tokens so far [B, 1].

        history [B, S, G, w, 1] has the weight that each of the last w queries gave to a row; rows that are deleted or
        not yet added are marked unseen by the last query.
        """
        (B, T), S = q.shape[:2], k.shape[1]
        past = history.squeeze(-1).transpose(1, 2)
        keys = self.per_head(k).to(past.dtype).transpose(1, 2)
        scores = (q.to(past.dtype).transpose(1, 2) @ keys.mT / math.sqrt(self.K)).unflatten(
            1, (self.G, self.R)
        )
        real = torch.ones(B, T, dtype=torch.bool, device=q.device) if valid is None else valid
        num_real = num_real + real.cumsum(1)  # [B, T]
        kept = torch.ceil(self.keep_ratio * num_real.double() - SLACK)
        latest = torch.ceil(self.local_share * kept - SLACK)
        arriving = F.pad(torch.eye(T, dtype=torch.bool, device=q.device), (S - T, 0))
        alive, seen = past[..., -1] >= 0, []
        for t in range(T):
            alive = alive | (arriving[t] & real[:, t, None, None])
            seen.append(alive)
            weights = masked_softmax(scores[:, :, :, t], alive.unsqueeze(2)).sum(2)
            asked = torch.cat((past[..., 1:], weights.unsqueeze(-1)), -1)
            past = torch.where(real[:, t, None, None, None], asked, past)
            alive = alive & ~self.evicted(alive, past, kept[:, t], latest[:, t])
            past = past.masked_fill(~alive.unsqueeze(-1), UNSEEN)
        return torch.stack(seen, 2), past, num_real[:, -1:].int()

    def evicted(self, alive: Tensor, past: Tensor, kept: Tensor, latest: Tensor) -> Tensor:
        """alive [B, G, S], past [B, G, S, w], kept and latest [B] -> True at the row to delete, where one is."""
        count = alive.sum(-1, keepdim=True)
        num_later = count - alive.cumsum(-1)
        worth = mean_weight(past).masked_fill(~alive | (num_later < latest[:, None, None]), torch.inf)
        return F.one_hot(worth.argmin(-1), alive.shape[-1]).bool() & (count > kept[:, None, None])

    def kept(self, rows: State, history: Tensor, count: int) -> State:
        """Return the kept rows [B, count, G, .] in order, then unseen ones where padding left fewer than `count`."""
        places = (history[..., -1] >= 0).int().argsort(dim=-1, descending=True, stable=True)[..., :count]
        k, v = (by_group(rows[name], places).transpose(1, 2) for name in ("k", "v"))
        history = history.gather(2, places.unsqueeze(-1).expand(-1, -1, -1, self.window))
        return {"k": k, "v": v, "history": history.transpose(1, 2).unsqueeze(-1)}

    def importance(self, state: State) -> Tensor:
        """[B, S, G], for number formats that store rows by the attention they receive."""
        return mean_weight(state["history"].squeeze(-1))

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        state = super().init_state(batch_size, device, dtype)
        history = state["k"].new_empty(
            batch_size, 0, self.G, self.window, 1, dtype=torch.promote_types(dtype, torch.float32)
        )
        num_real = torch.zeros(batch_size, 1, dtype=torch.int32, device=device)
        return state | {"history": history, "num_tokens": 0, "num_real": num_real}


def mean_weight(past: Tensor) -> Tensor:
    """Mean over the queries that saw a row: past [..., w] -> [...], 0 where there are none."""
    exposed = past >= 0
    return (past * exposed).sum(-1) / exposed.sum(-1).clamp_min(1)


def reference(module: ALISAAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """By a weight for each pair of tokens, with kept tokens as a list of places. x [B, T, D] -> [B, T, D]."""
    q, k, _ = (t.detach() for t in module.rotated(x, tokens))
    q, k = (t.to(torch.promote_types(x.dtype, torch.float32)) for t in (q, k))
    seen: dict[tuple[int, int, int], list[int]] = {}
    for b, g in product(range(len(x)), range(module.G)):
        kept: list[int] = []
        past: list[dict[int, float]] = []
        for i in range(x.shape[1]):
            seen[b, g, i] = [*kept, i]
            if not tokens.is_real(b, i):
                continue
            kept.append(i)
            asked = q[b, i].unflatten(0, (module.G, module.R))[g]
            weights = (asked @ k[b, kept, g].mT / math.sqrt(module.K)).softmax(-1).sum(0)
            past.append(dict(zip(kept, weights.tolist(), strict=True)))
            budget = module.num_kept(len(past))
            if len(kept) > budget:
                given = {j: [p[j] for p in past[-module.window :] if j in p] for j in kept}
                old = kept[: -module.num_latest(budget)]
                kept.remove(min(old, key=lambda j: sum(given[j]) / len(given[j])))
    return module.merge_heads(sparse_reference(module, x, tokens, lambda b, h, i: seen[b, h // module.R, i]))


def flops(module: ALISAAttention, T: int, S: int) -> int:
    """Return the FLOPs; scores count twice, since fused attention does not return them."""
    return 6 * T * (module.num_kept(S - T) + T) * module.H * module.K


OPERATOR = Operator(
    name="alisa_attention",
    slot="mixer",
    paper="ALISA, Zhao et al. 2024, arXiv:2403.17312",
    build=ALISAAttention,
    ranges={"keep_ratio": SHARE, "local_share": SHARE},
    reference=reference,
    choices={
        **HEAD_CHOICES,
        "keep_ratio": (0.2, 0.5),
        "local_share": (0.25, 0.5, 0.75),
        "window": (1, 8),
    },
    flops=flops,
    state_bytes=state_size.tokens(lambda module, n: module.num_kept(n)),
    bidirectional=False,
    rope=True,
    catalogue=(39,),
    complexity="T S H K, and T S w for the choice",
    state="r S G (2 K + w)",
)

"""Combiner with fixed segments: a token sees its own segment directly and every other one as a single key.

    o_i = softmax over { q_i . k_j, j in i's segment } and { q_i . kappa_r, r another segment }, of v_j and V_r
    kappa_r = max_{j in r} k_j        rho_r = max_{j in r} q_j        V_r = sum_{j in r} softmax_j(rho_r . k_j) v_j

with all scores divided by sqrt(K) and one joint softmax, so every allowed token has a weight above 0 and the weights of
a row sum to 1. Causal: j <= i in the own segment, and earlier segments. Ren et al., arXiv:2107.05768. A segment counts
as one key regardless of its length, as published. A decoder keeps a key and a value per complete segment, and the
tokens of the incomplete one. Shapes: B batch, T time, D model width, G groups, R heads per group, H = G R, K head dim,
m segment.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import state_size
from searchspace.primitives.caches import append, latest
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, CachingHeads
from searchspace.primitives.latent import summarize, summarize_flops
from searchspace.primitives.masks import attend_flops, extend, line_blocks, line_blocks_flops
from searchspace.primitives.merging import attend_blocks_with_sum, attend_with_sum, merge
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class CombinerFixed(CachingHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.segment = spec["segment"]

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.rotated(x, tokens)
        B, T = x.shape[:2]
        before, first = (state["k"].shape[1], state["kappa"].shape[1]) if state else (0, 0)
        seen = {"q": q, "k": k, "v": v}
        if state:
            seen = extend({name: state[name] for name in seen}, **seen)
        near = attend_blocks_with_sum(
            q, seen["k"], seen["v"], line_blocks(before, T, self.segment, self.causal, x.device), tokens.valid
        )
        full = (before + T) // self.segment if self.causal else -(-T // self.segment)
        kappa, value, exists = self.summaries(seen, full, tokens.valid)
        if state:
            kappa, value = append(state["kappa"], kappa), append(state["value"], value)
            exists = F.pad(exists, (first, 0), value=True)
        own = (torch.arange(T, device=x.device) + before).unsqueeze(1) // self.segment + first
        others = torch.arange(kappa.shape[1], device=x.device)
        allowed = (others < own if self.causal else others != own) & exists.unsqueeze(1)
        y, _ = merge(near, attend_with_sum(q, kappa, value, allowed))
        if state:
            state = {n: latest(t, t.shape[1] - full * self.segment) for n, t in seen.items()}
            state |= {"kappa": kappa, "value": value}
        return self.merge_heads(y), state

    def summaries(self, seen: State, count: int, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Summaries of the first `count` segments, of which the last one may lack tokens.

        Returns keys and values [B, count, H, K], existence [B, count].
        """
        k = seen["k"]
        real = k.new_ones(k.shape[:2], dtype=torch.bool) if valid is None else valid
        missing = max(0, count * self.segment - k.shape[1])
        places = slice(0, count * self.segment)

        def spans(t: Tensor) -> Tensor:
            t = F.pad(t[:, places], (0, 0) * (t.dim() - 2) + (0, missing))
            return t.unflatten(1, (count, self.segment))

        return summarize(spans(seen["q"]), spans(seen["k"]), spans(seen["v"]), spans(real))

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        state = super().init_state(batch_size, device, dtype)
        return state | dict.fromkeys(("q", "kappa", "value"), self.per_head(state["k"]))


def reference(module: CombinerFixed, x: Tensor, tokens: Tokens) -> Tensor:
    """The weight of every pair of tokens: the segment's share times the token's share of the segment.

    x [B, T, D] -> [B, T, D].
    """
    q, k, v = module.rotated_per_head(x, tokens)
    T, m = x.shape[1], module.segment
    weights = x.new_zeros(len(x), T, T, module.H)
    for b in range(len(x)):
        real = [t for t in range(T) if tokens.is_real(b, t)]
        segments = [[t for t in real if t // m == r] for r in range(-(-T // m))]
        spans = {}
        for r, span in enumerate(segments):
            if span:
                rho, kappa = q[b, span].amax(0), k[b, span].amax(0)
                spans[r] = (kappa, ((rho * k[b, span]).sum(-1) / module.K**0.5).softmax(0))  # shares [c, H]
        for i in range(T):
            direct = [j for j in segments[i // m] if j <= i or not module.causal]
            others = [r for r in spans if (r < i // m if module.causal else r != i // m)]
            keys = [k[b, j] for j in direct] + [spans[r][0] for r in others]
            if keys:
                joint = ((q[b, i] * torch.stack(keys)).sum(-1) / module.K**0.5).softmax(0)  # [n, H]
                weights[b, i, direct] = joint[: len(direct)]
                for r, share in zip(others, joint[len(direct) :], strict=True):
                    weights[b, i, segments[r]] = share * spans[r][1]
    return module.merge_heads(torch.einsum("bijh,bjhk->bihk", weights, v))


def flops(module: CombinerFixed, T: int, S: int) -> int:
    m, H, K = module.segment, module.H, module.K
    known = (S - T) // m
    total = S // m if module.causal else -(-T // m)
    near = line_blocks_flops((S - T) % m, T, m, H, K)
    return near + summarize_flops(total - known, m, H, K) + attend_flops(1, T, total, H, K)


def num_kept(module: CombinerFixed, context_len: int) -> dict[str, int]:
    full, rest = divmod(context_len, module.segment)
    return dict.fromkeys("qkv", rest) | {"kappa": full, "value": full}


OPERATOR = Operator(
    name="combiner_fixed",
    slot="mixer",
    paper="Combiner, Ren et al. 2021, arXiv:2107.05768",
    build=CombinerFixed,
    reference=reference,
    choices={**HEAD_CHOICES, "segment": (8, 16, 32)},
    flops=flops,
    state_bytes=state_size.tokens(num_kept),
    rope=True,
    catalogue=(16, 76),
    complexity="T (m + T / m) H K",
    state="2 (S / m) H K + at most (m - 1) (H + 2 G) K",
)

"""Combiner with spans of powers of two: a token sees itself, and the tokens before it as at most log2 T spans.

Span floor(i / c) - 1 of length c = 2^l is seen by token i where floor(i / c) is odd. With i itself these cover 0 .. i
exactly once, one span for each 1 in the binary digits of i.

    o_i = softmax over { q_i . k_i } and { q_i . kappa_s, s a span of i }, of v_i and V_s
    kappa_s = max_{j in s} k_j        rho_s = max_{j in s} q_j        V_s = sum_{j in s} softmax_j(rho_s . k_j) v_j

with all scores divided by sqrt(K) and one joint softmax. Ren et al., arXiv:2107.05768. A span's value can't be computed
from those of its halves, whose rho differ, so a decoder keeps every token's q, k and v and computes the spans that the
next token sees. Shapes: B batch, T time, D model width, G groups, R heads per group, H = G R, K head dim, L levels in
use.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from searchspace.primitives import state_size
from searchspace.primitives.context import State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, CachingHeads
from searchspace.primitives.latent import summarize, summarize_flops
from searchspace.primitives.masks import attend, attend_flops, extend
from searchspace.registry import Operator


class CombinerLog(CachingHeads):
    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.rotated(x, tokens)
        seen = {"q": q, "k": k, "v": v}
        seen = extend(state, **seen) if state else seen
        B, T = x.shape[:2]
        end = seen["k"].shape[1]
        real = k.new_ones(B, end, dtype=torch.bool) if tokens.valid is None else tokens.valid
        asking = torch.arange(end - T, end, device=x.device)
        keys, values, allowed = [self.per_head(k)], [self.per_head(v)], [real[:, end - T :]]
        for c, first, count in levels(end - T, end):
            spans = first + 2 * torch.arange(count, device=x.device)
            places = spans.unsqueeze(1) * c + torch.arange(c, device=x.device)
            kappa, value, exists = summarize(
                seen["q"][:, places], seen["k"][:, places], seen["v"][:, places], real[:, places]
            )
            mine = (asking // c - 1 - first).clamp(0, 2 * count - 2) // 2
            keys.append(kappa[:, mine])
            values.append(value[:, mine])
            allowed.append(exists[:, mine] & (asking // c % 2 == 1))
        kappa, value, counts = (torch.stack(t, 2).flatten(0, 1) for t in (keys, values, allowed))
        y = attend(q.reshape(B * T, 1, self.H, self.K), kappa, value, counts.unsqueeze(1))
        return self.merge_heads(y.view(B, T, self.H, self.K)), seen if state else None

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        state = super().init_state(batch_size, device, dtype)
        return state | {"q": self.per_head(state["k"])}


def levels(start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (length c, first span, count) of the even spans seen by tokens start .. end - 1, for each length used."""
    c = 1
    while c < end:
        first, last = start // c | 1, ((end - 1) // c - 1) | 1
        if first <= last:
            yield c, first - 1, (last - first) // 2 + 1
        c *= 2


def reference(module: CombinerLog, x: Tensor, tokens: Tokens) -> Tensor:
    """A weight for each pair of tokens, span by span from the binary digits of the query's place.

    x [B, T, D] -> [B, T, D].
    """
    q, k, v = module.rotated_per_head(x, tokens)
    B, T = x.shape[:2]
    weights = x.new_zeros(B, T, T, module.H)
    for b in range(B):
        real = [t for t in range(T) if tokens.is_real(b, t)]
        for i in range(T):
            spans, stop = [[t for t in [i] if t in real]], i
            while stop:
                length = stop & -stop  # the lowest 1 bit of the rest
                spans.append([t for t in range(stop - length, stop) if t in real])
                stop -= length
            spans = [span for span in spans if span]
            if spans:
                keys = torch.stack([k[b, span].amax(0) for span in spans])
                joint = ((q[b, i] * keys).sum(-1) / module.K**0.5).softmax(0)  # [n, H]
                for share, span in zip(joint, spans, strict=True):
                    rho = q[b, span].amax(0)
                    weights[b, i, span] = share * ((rho * k[b, span]).sum(-1) / module.K**0.5).softmax(0)
    return module.merge_heads(torch.einsum("bijh,bjhk->bihk", weights, v))


def flops(module: CombinerLog, T: int, S: int) -> int:
    used = list(levels(S - T, S))
    spans = sum(summarize_flops(count, c, module.H, module.K) for c, _, count in used)
    return spans + attend_flops(T, 1, 1 + len(used), module.H, module.K)


OPERATOR = Operator(
    name="combiner_log",
    slot="mixer",
    paper="Combiner, Ren et al. 2021, arXiv:2107.05768",
    build=CombinerLog,
    reference=reference,
    choices=HEAD_CHOICES,
    flops=flops,
    state_bytes=state_size.every_token,
    bidirectional=False,
    rope=True,
    catalogue=(16, 76),
    complexity="T log(T) H K",
    state="S (H + 2 G) K",
)

"""Combiner on rows and columns: a token sees its own row directly and each column above it as a single key.

The sequence is arranged in rows of m tokens. Token i in row s sees the tokens of its row up to itself, and one span for
each of the m columns c, the tokens (0, c) .. (s - 1, c). Together these cover 0 .. i exactly once.

    o_i = softmax over { q_i . k_j, j in i's row, j <= i } and { q_i . kappa_sc }, of v_j and V_sc
    kappa_sc = max k        rho_sc = max q        V_sc = sum_j softmax_j(rho_sc . k_j) v_j        over rows above s

with all scores divided by sqrt(K) and one joint softmax. Ren et al., arXiv:2107.05768 (axial, vertical), with the
published running maximum instead of the running sum of one implementation. The axial mixture, which also sees its own
column directly and rows above in two parts, is left out. A decoder keeps every token's q, k, v.
Shapes: B batch, T time, D model width, G groups, R heads per group, H = G R, K head dim, m segment, A rows above.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives import state_size
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, CachingHeads
from searchspace.primitives.masks import attend, attend_flops, extend, gather, line_blocks, line_blocks_flops
from searchspace.primitives.merging import attend_blocks_with_sum, attend_with_sum, merge
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class CombinerAxial(CachingHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.segment = spec["segment"]

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and the state after these tokens."""
        q, k, v = self.rotated(x, tokens)
        seen = {"q": q, "k": k, "v": v}
        seen = extend(state, **seen) if state else seen
        B, T = x.shape[:2]
        end = seen["k"].shape[1]
        first, last = (end - T) // self.segment, (end - 1) // self.segment
        rows = slice(first * self.segment, None)
        valid = None if tokens.valid is None else tokens.valid[:, rows]
        blocks = line_blocks((end - T) % self.segment, T, self.segment, True, x.device)
        y = attend_blocks_with_sum(q, seen["k"][:, rows], seen["v"][:, rows], blocks, valid)
        if last:
            kappa, value, exists = self.columns(seen, first, last, tokens.valid)
            allowed = exists.flatten(0, 1).unsqueeze(1).expand(-1, blocks.queries.shape[1], -1)
            parts = attend_with_sum(
                gather(q, blocks.queries), kappa.flatten(0, 1), value.flatten(0, 1), allowed
            )
            above, total = (t.unflatten(0, (B, -1)).flatten(1, 2)[:, blocks.slots] for t in parts)
            y = merge(y, (above, total))
        return self.merge_heads(y[0]), seen if state else None

    def columns(
        self, seen: State, first: int, last: int, valid: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Summaries of columns above rows first .. last: keys, values [B, rows, m, H, K], existence [B, rows, m]."""
        m = self.segment
        B = seen["k"].shape[0]
        above = {name: t[:, : last * m].unflatten(1, (last, m)) for name, t in seen.items()}
        real = (
            seen["k"].new_ones(B, last, m, dtype=torch.bool)
            if valid is None
            else valid[:, : last * m].unflatten(1, (last, m))
        )
        exists = F.pad(real.cumsum(1) > 0, (0, 0, 1, 0))[:, first:]  # [B, rows, m]

        def running_maximum(t: Tensor) -> Tensor:
            t = F.pad(
                t.masked_fill(~real[..., None, None], -torch.inf), (0, 0, 0, 0, 0, 0, 1, 0), value=-torch.inf
            )
            return torch.where(exists[..., None, None], t.cummax(1).values[:, first:], 0.0)

        rho, kappa = running_maximum(above["q"]), running_maximum(above["k"])
        is_above = torch.arange(last, device=real.device) < torch.arange(
            first, last + 1, device=real.device
        ).unsqueeze(1)
        allowed = is_above & real.permute(0, 2, 1).flatten(0, 1).unsqueeze(1)  # [B m, rows, A]
        rho, k, v = (t.transpose(1, 2).flatten(0, 1) for t in (rho, above["k"], above["v"]))
        value = attend(rho, k, v, allowed).unflatten(0, (B, m)).transpose(1, 2)
        return kappa.repeat_interleave(self.R, dim=3), value, exists

    def init_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        state = super().init_state(batch_size, device, dtype)
        return state | {"q": self.per_head(state["k"])}


def reference(module: CombinerAxial, x: Tensor, tokens: Tokens) -> Tensor:
    """The weight of every pair of tokens: the column's share times the token's share of the column.

    x [B, T, D] -> [B, T, D].
    """
    q, k, v = module.rotated_per_head(x, tokens)
    (B, T), m = x.shape[:2], module.segment
    weights = x.new_zeros(B, T, T, module.H)
    for b in range(B):
        real = [t for t in range(T) if tokens.is_real(b, t)]
        for i in range(T):
            row = i // m * m
            direct = [j for j in real if row <= j <= i]
            spans = [[j for j in real if j < row and j % m == c] for c in range(m)]
            spans = [[j] for j in direct] + [span for span in spans if span]
            if spans:
                keys = torch.stack([k[b, span].amax(0) for span in spans])
                joint = ((q[b, i] * keys).sum(-1) / module.K**0.5).softmax(0)  # [n, H]
                for share, span in zip(joint, spans, strict=True):
                    rho = q[b, span].amax(0)
                    weights[b, i, span] = share * ((rho * k[b, span]).sum(-1) / module.K**0.5).softmax(0)
    return module.merge_heads(torch.einsum("bijh,bjhk->bihk", weights, v))


def flops(module: CombinerAxial, T: int, S: int) -> int:
    m, H, K = module.segment, module.H, module.K
    near = line_blocks_flops((S - T) % m, T, m, H, K)
    first, last = (S - T) // m, (S - 1) // m
    if not last:
        return near
    return 2 * near + attend_flops(m, last + 1 - first, last, H, K)  # a row has as many columns as tokens


OPERATOR = Operator(
    name="combiner_axial",
    slot="mixer",
    paper="Combiner, Ren et al. 2021, arXiv:2107.05768",
    build=CombinerAxial,
    reference=reference,
    choices={**HEAD_CHOICES, "segment": (8, 16, 32)},
    flops=flops,
    state_bytes=state_size.every_token,
    bidirectional=False,
    rope=True,
    catalogue=(16, 76),
    complexity="T (m + T / m) H K",
    state="S (H + 2 G) K",
)

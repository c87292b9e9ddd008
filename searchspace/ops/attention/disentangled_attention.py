"""Disentangled attention: scores between contents of tokens, and between a token's content and the distance.

    s_ij = (q_i . k_j + q_i . kappa[d] + k_j . chi[d]) / sqrt(n K)    n = 1 + terms by position
    d = row of the distance i - j                                     o_i = sum_j softmax(s)_ij v_j

He et al., "DeBERTa", arXiv:2006.03654; DeBERTaV3, arXiv:2111.09543. In DeBERTa kappa and chi are projections of one
table of relative embeddings that all layers share; here each layer stores the projected rows, which gives equal results
without these projections.

    terms          c2p: content to position, only kappa; p2c: position to content, only chi; both
    span           number of rows for distances 0, 1, ... of keys before the query, and for 1, 2, ... of keys after it;
                   farther keys use the last row of their side
    max_distance   0: each row is for one distance. Otherwise distances up to span // 2 have rows of their own, and the
                   logarithms of those up to max_distance are divided evenly among the other rows (DeBERTa v2)

A smaller network keeps the rows of the nearest distances. Shapes: B batch, T tokens, D model width, G groups, R heads
per group, H = G R, K head dim, N rows; kappa [2 span, G K], chi [2 span, G R K].
"""

from __future__ import annotations

import math
from bisect import bisect_right
from functools import cache
from itertools import product

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, normal
from searchspace.primitives.constants import kept
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES, GroupedHeads
from searchspace.primitives.scores import Visibility, fused_attention
from searchspace.registry import COUNT, Operator
from searchspace.spec.arch import OpSpec

STD = 0.02
LEAST_LOGARITHMIC = 4  # smallest span with logarithmic rows


class DisentangledAttention(GroupedHeads):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.span, self.max_distance = spec["span"], spec["max_distance"]
        self.by_key, self.by_query = spec["terms"] != "p2c", spec["terms"] != "c2p"
        self.num_terms = 1 + self.by_key + self.by_query
        self.rule = Visibility(causal=False)
        rows = Axis.of(C=2, L=self.span)
        if self.by_key:
            self.declare("relative_keys", (rows, Axis.of(G=self.G, K=self.K)), normal(STD))
        if self.by_query:
            self.declare("relative_queries", (rows, Axis.of(G=self.G, R=self.R, K=self.K)), normal(STD))

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, None]:
        q, k, v = self.queries_keys_values(x)
        q, k, v = q.transpose(1, 2), self.per_head(k).transpose(1, 2), self.per_head(v).transpose(1, 2)
        places = torch.arange(x.shape[1], device=x.device)
        visible = self.rule.mask(places, places, tokens.valid)
        y = fused_attention(q / math.sqrt(self.num_terms), k, v, visible, self.by_position(q, k))
        return self.merge_heads(y.transpose(1, 2)), None

    def by_position(self, q: Tensor, k: Tensor) -> Tensor:
        """The position terms of the scores: q and k [B, H, T, K] -> [B, H, T, T]."""
        T = q.shape[2]
        is_any = isinstance(T, torch.SymInt) or torch.compiler.is_dynamo_compiling()
        before, behind = (self.span, self.span) if is_any else self.rows_reached(T)
        make = rows_of_pairs if is_any else _kept_rows
        rows = make(T, before, self.span, self.max_distance, q.device).expand(*q.shape[:2], T, T)
        scale, found = 1 / math.sqrt(self.num_terms * self.K), []
        if self.by_key:
            table = self.per_head(
                self._reached(self.relative_keys, before, behind).unflatten(-1, (self.G, self.K))
            )
            found.append((q @ (table * scale).permute(0, 2, 3, 1)).gather(-1, rows))
        if self.by_query:
            table = self._reached(self.relative_queries, before, behind).unflatten(-1, (self.H, self.K))
            found.append((k @ (table * scale).permute(0, 2, 3, 1)).gather(-1, rows.mT).mT)
        return found[0] if len(found) == 1 else found[0] + found[1]

    def rows_reached(self, T: int) -> tuple[int, int]:
        """(rows for keys before the query, rows for keys after it) that T tokens need."""
        farthest = bisect_right(borders(self.span, self.max_distance), T - 1)
        return min(farthest + 1, self.span), farthest

    def _reached(self, table: Tensor, before: int, behind: int) -> Tensor:
        """The rows of the nearest distances on both sides: [2 span, C] -> [1, before + behind, C]."""
        if before == behind == self.span:
            return table.unsqueeze(0)
        return torch.cat((table[:before], table[self.span : self.span + behind])).unsqueeze(0)


@cache
def borders(span: int, max_distance: int) -> tuple[int, ...]:
    """The smallest distance of each row 1 .. `span` of a side; row `span` does not exist: its distances are too far."""
    if not max_distance:
        return tuple(range(1, span + 1))
    exact = span // 2
    ratio = ((max_distance - 1) / exact) ** (1 / (exact - 1))
    far = (math.floor(exact * ratio**step + 1e-9) + 1 for step in range(span - exact))
    return (*range(1, exact + 1), *far)


def rows_of_pairs(T: int, before: int, span: int, max_distance: int, device: torch.device) -> Tensor:
    """The row [T, T] for query i and key j: the first `before` rows are for keys up to the query, others for later."""
    places = torch.arange(T, device=device)
    distance = places[:, None] - places[None, :]
    edges = torch.tensor(borders(span, max_distance), device=device)
    row = torch.bucketize(distance.abs(), edges, right=True)
    return torch.where(distance < 0, before - 1 + row, row.clamp(max=before - 1))


_kept_rows = kept(8)(rows_of_pairs)


def reference(module: DisentangledAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """The forward pass, one pair of tokens at a time. x [B, T, D] -> [B, T, D]."""
    q, k, v = module.queries_keys_values(x)
    (B, T, H, K), R = q.shape, module.R
    scores = torch.zeros(B, T, T, H, dtype=x.dtype)
    for i, j in product(range(T), range(T)):
        row = (
            min(_bucket(i - j, module), module.span - 1)
            if i >= j
            else module.span + _bucket(j - i, module) - 1
        )
        for h in range(H):
            key = k[:, j, h // R]
            score = (q[:, i, h] * key).sum(-1)
            if module.by_key:
                score = score + q[:, i, h] @ module.relative_keys[row].view(module.G, K)[h // R]
            if module.by_query:
                score = score + key @ module.relative_queries[row].view(H, K)[h]
            scores[:, i, j, h] = score / (module.num_terms * K) ** 0.5
    outputs = []
    for b, i in product(range(B), range(T)):
        sees = [j for j in range(T) if tokens.is_real(b, j)]
        weights = torch.softmax(scores[b, i, sees], 0)  # [S, H]
        outputs.append((weights.unsqueeze(-1) * module.per_head(v)[b, sees]).sum(0))
    return module.merge_heads(torch.stack(outputs).view(B, T, H, K))


def _bucket(distance: int, module: DisentangledAttention) -> int:
    """The row of a distance of at least 0, by the formula of the paper's code."""
    exact = module.span // 2
    if module.max_distance and distance > exact:
        share = math.log(distance / exact) / math.log((module.max_distance - 1) / exact)
        distance = exact + math.ceil(share * (exact - 1) - 1e-9)
    return min(distance, module.span)


def flops(module: DisentangledAttention, T: int, S: int) -> int:
    by_rows = (module.num_terms - 1) * sum(module.rows_reached(T))
    return 2 * T * (2 * S + by_rows) * module.H * module.K


def why_invalid(spec: OpSpec, context: BuildContext) -> str | None:
    span, farthest = spec["span"], spec["max_distance"]
    if not farthest:
        return None
    if span < LEAST_LOGARITHMIC:
        return (
            f"disentangled_attention: span = {span} must be at least {LEAST_LOGARITHMIC} with a max_distance"
        )
    if farthest <= span // 2 + 1:
        return (
            f"disentangled_attention: max_distance = {farthest} must be more than {span // 2 + 1}, since the first "
            f"{span // 2} distances have rows of their own"
        )
    return None


OPERATOR = Operator(
    name="disentangled_attention",
    slot="mixer",
    paper="DeBERTa, He et al. 2020, arXiv:2006.03654; DeBERTaV3, He et al. 2021, arXiv:2111.09543",
    build=DisentangledAttention,
    ranges={"max_distance": COUNT},
    reference=reference,
    choices={
        **HEAD_CHOICES,
        "terms": ("both", "c2p", "p2c"),
        "span": (16, 64),
        "max_distance": (0, 128),
    },
    flops=flops,
    why_invalid=why_invalid,
    causal=False,
    catalogue=(146,),
    complexity="T (S + N) H K",
)

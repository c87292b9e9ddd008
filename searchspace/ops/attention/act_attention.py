"""Attention calibration: in chosen heads, keys that attract weight from all queries lose part of it to the others.

    m_ij = mean over the queries j .. i of A_.j       key j > first is a sink for query i if m_ij > 0.1
    A'_ij = c A_ij at sinks,  A_ij (1 + (1 - c) sum_sinks A_i / sum_others A_i) elsewhere       c = sink_scale

Yu et al., "Unveiling and Harnessing Hidden Attention Sinks", arXiv:2406.15765. It corrects trained softmax attention:
rows still sum to 1, the first token is unchanged, and c = 1 changes nothing. The authors average a key's weight over
all queries of the prompt; here only over queries up to the current one, so that decoding equals one pass
(bidirectional: over all). The heads are the half with the most weight on sinks in the calibration data; the authors
score heads on a task. Shapes: weights [B, H, T, S].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives import attention_map, state_size
from searchspace.primitives.attention_map import MapAttention, Rows, pairs_reference
from searchspace.primitives.axes import Axis, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.heads import HEAD_CHOICES
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec

THRESHOLD = 0.1
NOTHING = 1e-6  # a row with less weight outside its sinks is unchanged, since the quotient would overflow


class ACTAttention(MapAttention):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.sink_scale = spec["sink_scale"]
        self.declare("calibrated_heads", (Axis.of(G=self.G, R=self.R),), zeros, role="calibrated")

    def facts(self, x: Tensor, tokens: Tokens) -> Rows:
        """Return `mass` [B, T, H, 1], a key's total weight from all queries so far, counted after the softmax."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        return {"mass": torch.zeros(*x.shape[:2], self.H, 1, dtype=dtype, device=x.device)}

    def carried(self, state: State, weights: Tensor) -> State:
        """Return the state with the weights [B, H, T, S] added to `mass`."""
        counted = weights * real_queries(weights, state)
        return state | {"mass": state["mass"] + counted.sum(2).transpose(1, 2).unsqueeze(-1)}

    def reweighed(self, weights: Tensor, rows: Rows) -> Tensor:
        """weights [B, H, T, S] -> [B, H, T, S], with the sinks of the chosen heads reduced."""
        at_sinks = self.sinks(weights, rows)
        sink_mass = (weights * at_sinks).sum(-1, keepdim=True)
        others = (weights * ~at_sinks).sum(-1, keepdim=True)
        growth = 1 + (1 - self.sink_scale) * sink_mass / torch.where(others > NOTHING, others, 1.0)
        changed = weights * torch.where(at_sinks, self.sink_scale, growth)
        chosen = (self.calibrated_heads > 0)[:, None, None] & (others > NOTHING)
        return torch.where(chosen, changed, weights)

    def sinks(self, weights: Tensor, rows: Rows) -> Tensor:
        """[B, H, T, S], True where the key is a sink for the query."""
        B, _, T, S = weights.shape
        real = rows.get("valid", torch.ones(B, S, dtype=torch.bool, device=weights.device))
        number = real.cumsum(1)  # index of each token among the real ones, from 1
        counted = weights.detach() * real_queries(weights, rows)
        if self.causal:
            total = rows["mass"].permute(0, 2, 3, 1) + counted.cumsum(2)
            queries = number[:, -T:, None] - number[:, None, :] + 1
        else:
            total, queries = counted.sum(2, keepdim=True), number[:, None, -1:]
        mean = total / queries.clamp_min(1).unsqueeze(1)
        return (mean > THRESHOLD) & ((number > 1) & real)[:, None, None, :] & (weights > 0)


def real_queries(weights: Tensor, rows: Rows | State) -> Tensor:
    """[B, 1, T, 1], False at padding."""
    if "valid" not in rows:
        return torch.ones((1, 1, 1, 1), dtype=torch.bool, device=weights.device)
    return rows["valid"][:, None, -weights.shape[2] :, None]


def reference(module: ACTAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """One query and head at a time. x [B, T, D] -> [B, T, D]."""
    e, visible, v = pairs_reference(module, x, tokens)
    e = torch.where(visible, e, 0.0)
    weights = e / e.sum(-1, keepdim=True).clamp_min(1e-300)
    keys = torch.arange(v.shape[2])
    rows = []
    for b, h, i in torch.cartesian_prod(*map(torch.arange, v.shape[:3])).tolist():
        real = [j for j in keys.tolist() if tokens.is_real(b, j)]
        asking = torch.tensor([r for r in real if r <= i or not module.causal], dtype=torch.int64)
        able = (asking >= keys[:, None]) | (not module.causal)  # [S, asking]
        mean = weights[b, h, asking].detach().sum(0) / able.sum(1).clamp_min(1)
        row, is_sink = weights[b, h, i], (mean > THRESHOLD) & (keys != real[0])
        freed, others = (1 - module.sink_scale) * row[is_sink].sum(), row[~is_sink].sum()
        if module.calibrated_heads[h] and others > NOTHING:
            row = torch.where(is_sink, row * module.sink_scale, row + row * freed / others)
        rows.append(row @ v[b, h])
    return module.merge_heads(torch.stack(rows).view(v.shape).transpose(1, 2))


@torch.no_grad()
def calibrate(module: ACTAttention, batches: list[tuple[Tensor, Tokens]]) -> None:
    """Choose the half of the heads, rounded up, with the most weight on sinks; batches of x [B, T, D]."""
    drawn = torch.zeros_like(module.calibrated_heads)
    for x, tokens in batches:
        weights, rows, _ = module.map(x, tokens)
        drawn += (
            (weights * module.sinks(weights, rows) * real_queries(weights, rows)).sum((0, 2, 3)).to(drawn)
        )
    order = drawn.argsort(descending=True, stable=True)
    module.calibrated_heads.zero_()
    module.calibrated_heads[order[: (module.H + 1) // 2]] = 1.0


OPERATOR = Operator(
    name="act_attention",
    slot="mixer",
    paper="ACT, Yu et al. 2024, arXiv:2406.15765",
    build=ACTAttention,
    ranges={"sink_scale": Range(0, 1, "it is what a sink keeps of its weight")},
    reference=reference,
    choices={**HEAD_CHOICES, "sink_scale": (0.4, 0.7)},
    flops=attention_map.flops,
    state_bytes=state_size.every_token,
    calibrate=calibrate,
    rope=True,
    catalogue=(97,),
    complexity="T S H K, the map held",
    state="S (2 G K + H)",
)

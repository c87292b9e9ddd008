"""Sparse visual attention: visual tokens see each other in a 2-D window, and some heads leave visual tokens out.

    visual i, visual j      seen only within window / 2 rows and columns of each other
    heads that are cut      A_ij = 0 for visual keys j, rows not scaled up; o_i = 0 for visual queries i

Zhang et al., "Treat Visual Tokens as Text? But Your MLLM Only Needs Fewer Efforts to See", arXiv:2410.06169. A head is
cut where, in most sequences of the calibration data, the weight of text queries on visual keys is less than 0.1 of
their weight on text. `Tokens.modality` marks a sequence's visual tokens, in row order on `Tokens.grid`; without them
this is softmax attention. In a decoder, visual tokens don't see later ones, so that they can be cached; the authors'
window extends both ways. The authors' narrower FFN and early exit for visual tokens are not part of a mixer. Pairs are
masked, not skipped: the FLOPs are those of the full map. Shapes: modality [B, T].
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from searchspace.primitives import attention_map, state_size
from searchspace.primitives.attention_map import MapAttention, Rows, pairs_reference
from searchspace.primitives.axes import Axis, ones
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.primitives.heads import HEAD_CHOICES
from searchspace.registry import ODD, Operator
from searchspace.spec.arch import OpSpec

RATIO = 0.1


class YOPOAttention(MapAttention):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.reach = spec["visual_window"] // 2
        self.declare("seeing_heads", (Axis.of(G=self.G, R=self.R),), ones, role="calibrated")

    def facts(self, x: Tensor, tokens: Tokens) -> Rows:
        """Return which tokens are visual, [B, T] bool. Raises ValueError where they have no grid."""
        if tokens.modality is None:
            return {"visual": torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)}
        if tokens.grid is None:
            raise ValueError(
                "yopo_attention: Tokens.modality needs Tokens.grid, the rows and columns of the image"
            )
        return {"visual": tokens.modality}

    def allowed(self, visible: Tensor, rows: Rows, tokens: Tokens) -> Tensor:
        """visible [B or 1, 1, T, S] -> the mask without pairs of distant visual tokens, [B, 1, T, S]."""
        if tokens.modality is None or tokens.grid is None:
            return visible
        T, visual = visible.shape[-2], rows["visual"]
        number = visual.cumsum(1) - 1
        row, column = number // tokens.grid[1], number % tokens.grid[1]
        near = [(place[:, -T:, None] - place[:, None, :]).abs() <= self.reach for place in (row, column)]
        is_pair = visual[:, -T:, None] & visual[:, None, :]
        return visible & (~is_pair | (near[0] & near[1])).unsqueeze(1)

    def reweighed(self, weights: Tensor, rows: Rows) -> Tensor:
        """weights [B, H, T, S] -> [B, H, T, S], 0 in cut heads where the query or the key is visual."""
        T, visual = weights.shape[2], rows["visual"].unsqueeze(1)
        cut = (self.seeing_heads == 0)[:, None, None] & (visual[:, :, -T:, None] | visual[:, :, None, :])
        return weights.masked_fill(cut, 0.0)


def reference(module: YOPOAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """Pair by pair. x [B, T, D] -> [B, T, D]."""
    e, visible, v = pairs_reference(module, x, tokens)
    B, H, T, _ = v.shape
    visual = torch.zeros(B, T, dtype=torch.bool) if tokens.modality is None else tokens.modality
    columns = tokens.grid[1] if tokens.grid else 1
    kept, seen = torch.ones(B, H, T, T, dtype=torch.bool), visible.clone()
    for b, i, j in product(range(B), range(T), range(T)):
        if visual[b, i] and visual[b, j]:
            (a, c), (d, f) = (divmod(int(visual[b, :n].sum()), columns) for n in (i, j))
            seen[b, :, i, j] &= abs(a - d) <= module.reach and abs(c - f) <= module.reach
        if visual[b, i] or visual[b, j]:
            kept[b, :, i, j] = module.seeing_heads > 0
    e = torch.where(seen, e, 0.0)
    weights = e / e.sum(-1, keepdim=True).clamp_min(1e-300) * kept
    return module.merge_heads((weights @ v).transpose(1, 2))


@torch.no_grad()
def calibrate(module: YOPOAttention, batches: list[tuple[Tensor, Tokens]]) -> None:
    """Keep heads whose text attends to visual tokens in at least half of the sequences with any; x [B, T, D]."""
    seeing, sequences = torch.zeros(module.H, device=module.seeing_heads.device), 0
    for x, tokens in batches:
        if tokens.modality is None:
            continue
        weights, rows, _ = module.map(x, tokens)
        asking = ~rows["visual"] if tokens.valid is None else ~rows["visual"] & tokens.valid
        weights = weights * asking[:, None, :, None]
        on_visual = (weights * rows["visual"][:, None, None, :]).sum((2, 3))  # [B, H]
        looks = on_visual >= RATIO * (weights.sum((2, 3)) - on_visual)
        has_any = rows["visual"].any(1)
        seeing += looks[has_any].sum(0)
        sequences += int(has_any.sum())
    module.seeing_heads.copy_((2 * seeing >= sequences) & (sequences > 0))


OPERATOR = Operator(
    name="yopo_attention",
    slot="mixer",
    paper="YOPO, Zhang et al. 2024, arXiv:2410.06169",
    build=YOPOAttention,
    ranges={"visual_window": ODD},
    reference=reference,
    choices={**HEAD_CHOICES, "visual_window": (3, 7)},
    flops=attention_map.flops,
    state_bytes=state_size.every_token,
    calibrate=calibrate,
    rope=True,
    catalogue=(95,),
    complexity="T S H K",
    state="S (2 G K + 1 byte)",
)

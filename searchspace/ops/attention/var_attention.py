"""Visual attention redistribution: heads that attend to the image move weight from sinks to the rest of the image.

    sink          token with |x_d| / rms(x) >= 0.3125 sqrt(D) in one of its sink channels d
    head, query   changed where the image has at least 0.2 of the weight and sinks at most half of that (text queries)
    A'_ij = c A_ij at sinks, visual or not; the weight removed goes to the other visual keys in proportion to theirs

Kang et al., "See What You Are Told: Visual Attention Sink in Large Multimodal Models", arXiv:2503.03321. It corrects
trained softmax attention, with c = sink_scale; rows still sum to 1. The authors' threshold is 20 at D = 4096, for an x
of length sqrt(D); here it is the same share for every width, applied to the mixer's own input. The two sink channels
are those with the largest such values in the calibration data. `Tokens.modality` marks visual tokens; without it this
is softmax attention. Shapes: weights [B, H, T, S], modality [B, T].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from searchspace.primitives import attention_map, state_size
from searchspace.primitives.attention_map import MapAttention, Rows, pairs_reference
from searchspace.primitives.axes import Axis, zeros
from searchspace.primitives.context import BuildContext, Tokens
from searchspace.primitives.heads import HEAD_CHOICES
from searchspace.registry import Operator, Range
from searchspace.spec.arch import OpSpec

NUM_CHANNELS, THRESHOLD = 2, 20 / math.sqrt(4096)
IMAGE_SHARE, SINK_SHARE = 0.2, 0.5


class VARAttention(MapAttention):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.sink_scale = spec["sink_scale"]
        self.declare("sink_channels", (Axis.of(D=context.d_model),), zeros, role="calibrated")

    def facts(self, x: Tensor, tokens: Tokens) -> Rows:
        """Return which tokens are sinks and which are visual, both [B, T] bool."""
        found = sizes(x) * self.sink_channels.to(x.dtype) >= THRESHOLD
        no_image = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        return {"sink": found.any(-1), "visual": no_image if tokens.modality is None else tokens.modality}

    def reweighed(self, weights: Tensor, rows: Rows) -> Tensor:
        """weights [B, H, T, S] -> [B, H, T, S] with weight moved from sinks to visual keys."""
        sink, visual = (rows[name][:, None, None, :] for name in ("sink", "visual"))
        image, image_sinks, receivers, sinks = (
            (weights * part).sum(-1, keepdim=True) for part in (visual, visual & sink, visual & ~sink, sink)
        )
        is_text = ~rows["visual"][:, None, -weights.shape[2] :, None]
        changes = is_text & (image >= IMAGE_SHARE) & (image_sinks <= SINK_SHARE * image)
        freed = (1 - self.sink_scale) * sinks
        growth = torch.where(visual, 1 + freed / torch.where(receivers > 0, receivers, 1.0), 1.0)
        return torch.where(changes, weights * torch.where(sink, self.sink_scale, growth), weights)


def sizes(x: Tensor) -> Tensor:
    """|x_d| / |x| for x [..., D]: the share of the largest value that an x of this length could have."""
    return x.detach().abs() / x.detach().norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


def reference(module: VARAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """One query and head at a time. x [B, T, D] -> [B, T, D]."""
    e, visible, v = pairs_reference(module, x, tokens)
    e = torch.where(visible, e, 0.0)
    weights = e / e.sum(-1, keepdim=True).clamp_min(1e-300)
    shares = x.abs() / x.square().sum(-1, keepdim=True).sqrt()
    sinks = (shares[..., module.sink_channels.nonzero().flatten()] >= 20 / 64).any(-1)
    rows = []
    for b, h, i in torch.cartesian_prod(*map(torch.arange, v.shape[:3])).tolist():
        row, sink = weights[b, h, i], sinks[b]
        image = torch.zeros_like(sink) if tokens.modality is None else tokens.modality[b]
        on_image, on_sinks = row[image].sum(), row[image & sink].sum()
        if not image[i] and on_image >= IMAGE_SHARE and on_sinks <= SINK_SHARE * on_image:
            freed = ((1 - module.sink_scale) * row[sink]).sum()
            gains = torch.where(image & ~sink, row / row[image & ~sink].sum() * freed, 0.0)
            row = torch.where(sink, module.sink_scale * row, row + gains)
        rows.append(row @ v[b, h])
    return module.merge_heads(torch.stack(rows).view(v.shape).transpose(1, 2))


@torch.no_grad()
def calibrate(module: VARAttention, batches: list[tuple[Tensor, Tokens]]) -> None:
    """Find the channels with the largest relative values in the data; batches of x [B, T, D]."""
    found = [sizes(x if tokens.valid is None else x[tokens.valid]) for x, tokens in batches]
    largest = torch.cat([s.flatten(0, -2) for s in found]).amax(0)
    module.sink_channels.zero_()
    module.sink_channels[largest.topk(NUM_CHANNELS).indices] = 1.0


OPERATOR = Operator(
    name="var_attention",
    slot="mixer",
    paper="VAR, Kang et al. 2025, arXiv:2503.03321",
    build=VARAttention,
    ranges={"sink_scale": Range(0, 1, "it is what a sink keeps of its weight")},
    reference=reference,
    choices={**HEAD_CHOICES, "sink_scale": (0.6, 0.8)},
    flops=attention_map.flops,
    state_bytes=state_size.every_token,
    calibrate=calibrate,
    rope=True,
    catalogue=(102,),
    complexity="T S H K, the map held",
    state="S (2 G K + 2 bytes)",
)

"""Attention in which visual tokens only see themselves, while text sees everything before it.

    o_i = W_o W_v x_i   for a visual token i          o_i = softmax attention over all visible keys   for a text token

Ma et al., "EE-MLLM: A Data-Efficient and Compute-Efficient Multimodal Large Language Model", arXiv:2408.11795: the
layer's own weights align the visual tokens, which skip attention to each other. `Tokens.modality` marks visual tokens;
without it this is softmax attention. The skipped weights are masked here, so the FLOPs are those of the full map.
Shapes: modality [B, T].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives import attention_map, state_size
from searchspace.primitives.attention_map import MapAttention, Rows, pairs_reference
from searchspace.primitives.context import Tokens
from searchspace.primitives.heads import HEAD_CHOICES
from searchspace.registry import Operator


class VisualSelfAttention(MapAttention):
    def allowed(self, visible: Tensor, rows: Rows, tokens: Tokens) -> Tensor:
        """visible [B or 1, 1, T, S] -> the mask without other keys for visual queries, [B, 1, T, S]."""
        if tokens.modality is None:
            return visible
        T, S = visible.shape[-2:]
        itself = torch.ones(T, S, dtype=torch.bool, device=visible.device).tril(S - T).triu(S - T)
        return visible & (itself | ~tokens.modality[:, None, :, None])


def reference(module: VisualSelfAttention, x: Tensor, tokens: Tokens) -> Tensor:
    """Text by the full map, visual tokens by their own values. x [B, T, D] -> [B, T, D]."""
    e, visible, v = pairs_reference(module, x, tokens)
    e = torch.where(visible, e, 0.0)
    y = (e / e.sum(-1, keepdim=True).clamp_min(1e-300)) @ v
    if tokens.modality is not None:
        y = torch.where(tokens.modality[:, None, :, None], v, y)
    return module.merge_heads(y.transpose(1, 2))


OPERATOR = Operator(
    name="visual_self_attention",
    slot="mixer",
    paper="EE-MLLM, Ma et al. 2024, arXiv:2408.11795",
    build=VisualSelfAttention,
    reference=reference,
    choices=HEAD_CHOICES,
    flops=attention_map.flops,
    state_bytes=state_size.every_token,
    rope=True,
    catalogue=(77,),
    complexity="T S H K",
    state="2 S G K",
)

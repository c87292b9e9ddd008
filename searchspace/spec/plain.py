"""Softmax attention with every setting written out, for references, baselines and imported networks."""

from __future__ import annotations

from searchspace.spec.arch import NONE, OpSpec


def plain_attention(num_groups: int, heads_per_group: int, head_dim: int, qk_norm: OpSpec = NONE) -> OpSpec:
    """Return scaled dot-product attention over all tokens: no window, no sinks, no score bias."""
    return OpSpec.of(
        "softmax_attention",
        num_groups=num_groups,
        heads_per_group=heads_per_group,
        head_dim=head_dim,
        window=0,
        sinks=0,
        normalizer=OpSpec("softmax"),
        qk_norm=qk_norm,
        score_bias=NONE,
        temperature="none",
    )

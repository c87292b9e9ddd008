"""Gated DeltaNet: the delta rule with a state that also decays, at a rate that depends on the token.

    S_t = a_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T          log a_t = -exp(A) softplus(W_a x_t + b)
    y = W_o (w * rms(S_t^T q_t) * silu(W_g x_t))

Yang et al., "Gated Delta Networks: Improving Mamba2 with Delta Rule", arXiv:2412.06464. Unit keys and queries, short
convolutions before them and `beta_max` are in `searchspace.primitives.delta`. Published: 4 taps, beta_max 1, one head
per group, values twice as wide as keys (`expand_v` 2). Qwen3-Next: `values_per_key` 2, values as wide as keys.
"""

from __future__ import annotations

from searchspace.primitives import delta, state_size
from searchspace.primitives.context import BuildContext
from searchspace.primitives.delta import DeltaAttention
from searchspace.primitives.heads import HEAD_CHOICES
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


def build(spec: OpSpec, context: BuildContext) -> DeltaAttention:
    return DeltaAttention(spec, context, gated=True)


OPERATOR = Operator(
    name="gated_deltanet",
    slot="mixer",
    paper="Yang et al. 2024, arXiv:2412.06464",
    build=build,
    ranges=delta.RANGES,
    fixed=delta.FIXED,
    reference=delta.delta_reference,
    choices={**HEAD_CHOICES, **delta.CHOICES},
    flops=delta.delta_flops,
    state_bytes=state_size.fixed,
    bidirectional=False,
    quantizable=("q", "k", "v", "o", "gate"),
    catalogue=(129,),
    complexity="T H K V",
    state="G M K V + (taps - 1) (G R K + G K + G M V)",
)

"""DeltaNet: linear attention whose state removes its old answer to a key before it writes the new value.

    S_t = (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T          o_t = S_t^T q_t          y = W_o (w * rms(o_t))

Yang et al., "Parallelizing Linear Transformers with the Delta Rule over Sequence Length", arXiv:2406.06484. Unit keys
and queries, short convolutions before them, and `beta_max` are in `searchspace.primitives.delta`; wider and grouped
values (`expand_v`, `values_per_key`) in `searchspace.primitives.wide_heads`.
"""

from __future__ import annotations

from searchspace.primitives import delta, state_size
from searchspace.primitives.context import BuildContext
from searchspace.primitives.delta import DeltaAttention
from searchspace.primitives.heads import HEAD_CHOICES
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


def build(spec: OpSpec, context: BuildContext) -> DeltaAttention:
    return DeltaAttention(spec, context, gated=False)


OPERATOR = Operator(
    name="deltanet",
    slot="mixer",
    paper="Yang et al. 2024, arXiv:2406.06484",
    build=build,
    ranges=delta.RANGES,
    fixed=delta.FIXED,
    reference=delta.delta_reference,
    choices={**HEAD_CHOICES, **delta.CHOICES},
    flops=delta.delta_flops,
    state_bytes=state_size.fixed,
    bidirectional=False,
    quantizable=("q", "k", "v", "o"),
    catalogue=(58,),
    complexity="T H K V",
    state="G M K V + (taps - 1) (G R K + G K + G M V)",
)

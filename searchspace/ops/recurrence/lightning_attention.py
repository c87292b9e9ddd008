"""Lightning attention: linear attention with a fixed decay per group, a norm over all heads and a low-rank gate.

    o_t = sum_{j <= t} a_g^(t - j) (q_t . k_j) v_j          y = W_o (srms(o_t) * sigmoid(W_2 W_1 x_t))

Qin et al., "Various Lengths, Constant Speed", arXiv:2405.17381, and "Lightning Attention-2", arXiv:2401.04658, whose
tiles are `chunk`, which affects only the speed. With decay "retnet" the rates are those of Sun et al.,
arXiv:2307.08621. Everything else is in `searchspace.primitives.fixed_decay`.
"""

from __future__ import annotations

from searchspace.primitives import fixed_decay, state_size
from searchspace.primitives.context import BuildContext
from searchspace.primitives.fixed_decay import FixedDecayAttention
from searchspace.primitives.heads import HEAD_CHOICES
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


def build(spec: OpSpec, context: BuildContext) -> FixedDecayAttention:
    return FixedDecayAttention(spec, context, gate="low_rank")


OPERATOR = Operator(
    name="lightning_attention",
    slot="mixer",
    paper="Qin et al. 2024, arXiv:2405.17381; arXiv:2401.04658",
    build=build,
    reference=fixed_decay.quadratic_reference,
    choices={
        **HEAD_CHOICES,
        "decay": fixed_decay.SCHEDULES,
        "norm": fixed_decay.NORMS,
        "chunk": (32, 64, 128),
    },
    flops=fixed_decay.flops,
    state_bytes=state_size.fixed,
    bidirectional=False,
    quantizable=("q", "k", "v", "o"),
    catalogue=(45, 47),
    complexity="T H K V",
    state="G K V",
)

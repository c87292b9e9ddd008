"""TransNormerLLM's mixer: linear attention with layer-scaled fixed decay, LRPE, an unweighted norm, a linear gate.

    o_t = sum_{j <= t} a_g^(t - j) (q_t . k_j) v_j          y = W_o (srms(o_t) * W_u x_t)

Qin et al., "TransNormerLLM: A Faster and Better Large Language Model with Improved TransNormer", arXiv:2307.14995. They
use LRPE in the first layer only; here each block chooses. Everything else is in `searchspace.primitives.fixed_decay`.
"""

from __future__ import annotations

from searchspace.primitives import fixed_decay, state_size
from searchspace.primitives.context import BuildContext
from searchspace.primitives.fixed_decay import FixedDecayAttention
from searchspace.primitives.heads import HEAD_CHOICES
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


def build(spec: OpSpec, context: BuildContext) -> FixedDecayAttention:
    return FixedDecayAttention(spec, context, gate="linear")


OPERATOR = Operator(
    name="tnl",
    slot="mixer",
    paper="Qin et al. 2023, arXiv:2307.14995",
    build=build,
    reference=fixed_decay.quadratic_reference,
    choices={**HEAD_CHOICES, "norm": fixed_decay.NORMS, "lrpe": (False, True)},
    flops=fixed_decay.flops,
    state_bytes=state_size.fixed,
    bidirectional=False,
    quantizable=("q", "k", "v", "o", "gate"),
    catalogue=(68, 120),
    complexity="T H K V",
    state="G K V, twice with LRPE",
)

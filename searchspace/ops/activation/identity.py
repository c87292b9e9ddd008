"""Identity: x, the gate of the bilinear GLU (SGLU of TransNormerLLM, arXiv:2307.14995)."""

from __future__ import annotations

from torch import Tensor

from searchspace.primitives.activations import Weightless, identity, weightless
from searchspace.registry import Operator


def reference(module: Weightless, x: Tensor) -> Tensor:
    """Elementwise: x and the result [...]."""
    return x + 0


OPERATOR = Operator(
    name="identity",
    slot="activation",
    paper="bilinear GLU, Shazeer 2020, arXiv:2002.05202",
    build=weightless(identity),
    reference=reference,
    complexity="T F",
)

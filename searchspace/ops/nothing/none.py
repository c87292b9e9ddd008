"""None: the choice to leave a slot empty. The model skips it; a norm or position of none changes nothing.

A mixer skips a QK norm or score bias of none: queries, keys and scores are unchanged.
"""

from __future__ import annotations

from torch import nn

from searchspace.primitives.context import BuildContext
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec

PAPER = "an empty place; the baseline that every operator has to beat"


def build(spec: OpSpec, context: BuildContext) -> nn.Module:
    """Raises ValueError, since an empty slot is never built."""
    raise ValueError("nothing is never built: the model leaves the place empty")


MIXER = Operator(name="none", slot="mixer", paper=PAPER, build=build, complexity="0", state="0")
FFN = Operator(name="none", slot="ffn", paper=PAPER, build=build, complexity="0", state="0")
NORM = Operator(name="none", slot="norm", paper=PAPER, build=build, complexity="0", state="0")
POSITION = Operator(name="none", slot="position", paper=PAPER, build=build, complexity="0", state="0")
TRANSITION = Operator(name="none", slot="transition", paper=PAPER, build=build, complexity="0", state="0")
QK_NORM = Operator(name="none", slot="qk_norm", paper=PAPER, build=build, complexity="0")
SCORE_BIAS = Operator(name="none", slot="score_bias", paper=PAPER, build=build, complexity="0")

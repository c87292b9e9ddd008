"""PRepBN: layer normalisation that turns into RepBN over the training, and is RepBN at inference.

    y = l * LN(x) + (1 - l) * RepBN(x)        l = max(0, 1 - progress / share)

Guo et al., "SLAB: Efficient Transformers with Simplified Linear Attention and Progressive Re-parameterized Batch
Normalization", arXiv:2405.11582. `progress` is the share of training done, `share` the part of it that the turn takes.
A network that is evaluated during the turn is the function that is being trained: `Model.progress` says where it
stands, with l = 0 once it is trained. RepBN normalises by the batch in training and by stored statistics in evaluation.
Shapes: x [B, T, D].
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.norms import EPS, RepBatchNorm, batch_normalized, fold_affine
from searchspace.registry import SHARE, Operator
from searchspace.spec.arch import OpSpec


class PRepBN(RepBatchNorm):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.share = spec["share"]
        self.declare("layer_weight", self.channels, ones)
        self.declare("layer_bias", self.channels, zeros)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        y, update = super().forward(x, tokens)
        if not self.training and self.layer_share(tokens) == 0:
            return y, None
        layer = F.layer_norm(x, x.shape[-1:], self.layer_weight, self.layer_bias, EPS)
        return y.lerp(layer.to(y.dtype), self.layer_share(tokens)), update

    def layer_share(self, tokens: Tokens) -> float:
        """How much of the output is layer normalisation."""
        return 0.0 if tokens.progress is None else max(0.0, 1.0 - tokens.progress / self.share)


def reference(module: PRepBN, x: Tensor, tokens: Tokens) -> Tensor:
    share = 0.0 if tokens.progress is None else max(0.0, (module.share - tokens.progress) / module.share)
    centred = x - x.mean(-1, keepdim=True)
    layer = centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt()
    layer = module.layer_weight * layer + module.layer_bias
    return share * layer + (1 - share) * (batch_normalized(module, x, tokens) + module.eta * x)


def fold(module: PRepBN, progress: float) -> tuple[OpSpec, dict[str, Tensor]] | None:
    return fold_affine(module) if progress >= module.share else None


OPERATOR = Operator(
    name="prepbn",
    slot="norm",
    paper="SLAB, Guo et al. 2024, arXiv:2405.11582",
    build=PRepBN,
    ranges={"share": SHARE},
    reference=reference,
    choices={"share": (0.2, 0.5)},
    fold=fold,
    catalogue=(4, 101),
    complexity="T D",
)

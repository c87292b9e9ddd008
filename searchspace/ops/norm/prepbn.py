"""PRepBN: layer normalisation that turns into RepBN during training, and is RepBN at inference.

    y = l * LN(x) + (1 - l) * RepBN(x)        l = 1 - (progress - warm) / share, kept between 0 and 1

Guo et al., "SLAB: Efficient Transformers with Simplified Linear Attention and Progressive Re-parameterized Batch
Normalization", arXiv:2405.11582. `progress` is the share of training done, `share` the share that the transition takes,
`warm` the share before it in which the norm is LN alone, as in the paper's language models. `layer` = "rmsnorm"
replaces LN by RMSNorm, as in those models. A network evaluated during the transition is the function being trained:
`Model.progress` says where it stands, with l = 0 after training. RepBN normalises by the batch in training and by
stored statistics in evaluation. Shapes: x [B, T, D].
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from searchspace.primitives.axes import ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.norms import EPS, RepBatchNorm, batch_normalized, fold_affine
from searchspace.registry import SHARE, Operator, Range
from searchspace.spec.arch import OpSpec


class PRepBN(RepBatchNorm):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.share, self.warm = spec["share"], spec.get("warm", 0.0)
        self.is_rms = spec.get("layer", "layernorm") == "rmsnorm"
        self.declare("layer_weight", self.channels, ones)
        if not self.is_rms:
            self.declare("layer_bias", self.channels, zeros)

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and in training the update of the statistics."""
        y, update = super().forward(x, tokens)
        if not self.training and self.layer_share(tokens) == 0:
            return y, None
        if self.is_rms:
            layer = F.rms_norm(x, x.shape[-1:], self.layer_weight, EPS)
        else:
            layer = F.layer_norm(x, x.shape[-1:], self.layer_weight, self.layer_bias, EPS)
        return y.lerp(layer.to(y.dtype), self.layer_share(tokens)), update

    def layer_share(self, tokens: Tokens) -> float:
        """The share of layer normalisation in the output."""
        if tokens.progress is None:
            return 0.0
        return min(1.0, max(0.0, 1.0 - (tokens.progress - self.warm) / self.share))


def reference(module: PRepBN, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    done = 1.0 if tokens.progress is None else (tokens.progress - module.warm) / module.share
    share = 1 - sorted((0.0, done, 1.0))[1]
    centred = x if module.is_rms else x - x.mean(-1, keepdim=True)
    layer = module.layer_weight * centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt()
    layer = layer if module.is_rms else layer + module.layer_bias
    return share * layer + (1 - share) * (batch_normalized(module, x, tokens) + module.eta * x)


def fold(module: PRepBN, progress: float) -> tuple[OpSpec, dict[str, Tensor]] | None:
    """Return the channel affine (shapes [D]) that it equals after the transition; None before its end."""
    return fold_affine(module) if progress >= module.warm + module.share else None


def why_invalid(spec: OpSpec, context: BuildContext) -> str | None:
    warm, share = spec.get("warm", 0.0), spec["share"]
    if warm + share > 1:
        return f"prepbn: warm = {warm} and share = {share} are parts of one training, and must be 1 at most together"
    return None


OPERATOR = Operator(
    name="prepbn",
    slot="norm",
    paper="SLAB, Guo et al. 2024, arXiv:2405.11582",
    build=PRepBN,
    ranges={"share": SHARE, "warm": Range(0, 1, "it is a share")},
    reference=reference,
    choices={"share": (0.2, 0.5)},
    options={"warm": (0.0, 0.1, 0.3), "layer": ("layernorm", "rmsnorm")},
    why_invalid=why_invalid,
    fold=fold,
    catalogue=(4, 101),
    complexity="T D",
)

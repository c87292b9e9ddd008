"""Unified normalisation: each channel is divided by its root mean square in the batch; folds into an affine map.

    training     y = w * x / sqrt(s + eps) + b        s = mean over the batch's valid tokens of x^2
    evaluation   the same with s the geometric mean over a window of batches: s = exp(mean_batches log(s_batch + eps))

Yang et al., "Unified Normalization for Accelerating and Stabilizing Transformers", arXiv:2208.01313. Evaluation is as
published, with the batches of recalibration as the window, over which the logs are averaged.

Training is that of the paper with a window of one batch. Left out are the geometric mean over the last 4 batches in the
forward pass, the mean over them in the gradient of s, the ratio that corrects for the running estimate, and the filter
of outlying batches. All four depend on earlier steps, and the gradient's mean is even written by a backward pass. In a
supernet, however, consecutive steps train different networks with different statistics; and a step must be a function
of its weights and batch alone, so that a training that was killed resumes bit for bit. Shapes: x [B, T, D].
"""

from __future__ import annotations

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.primitives.norms import EPS, fold_affine, of_run, real_tokens
from searchspace.registry import Operator
from searchspace.spec.arch import OpSpec


class UnifiedNorm(AxisModule):
    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        channels = (Axis.of(D=context.d_model),)
        self.declare("weight", channels, ones)
        self.declare("bias", channels, zeros)
        self.repeats = context.repeats
        for repeat in range(self.repeats):
            self.declare(of_run("log_second_moment", repeat), channels, zeros, role="statistic")

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and in training the update of the statistics."""
        if not self.training:
            scale, shift = self.stored_affine(tokens.repeat)
            return torch.addcmul(shift, x, scale), None
        log = (real_tokens(x, tokens.valid).square().mean(0) + EPS).log()
        update = {of_run("log_second_moment", tokens.repeat): log.detach()}
        return torch.addcmul(self.bias, x, self.weight * torch.exp(-log / 2)), update

    def stored_affine(self, repeat: int = 0) -> tuple[Tensor, Tensor]:
        """Scale and shift [D] of a run, from its stored statistics."""
        log = self.get_buffer(of_run("log_second_moment", repeat))
        return self.weight * torch.exp(-log / 2), self.bias


def reference(module: UnifiedNorm, x: Tensor, tokens: Tokens) -> Tensor:
    """x [B, T, D] -> [B, T, D]."""
    moment = module.get_buffer(of_run("log_second_moment", tokens.repeat)).exp()
    if module.training:
        real = real_tokens(x, tokens.valid)
        moment = (real**2).sum(0) / len(real) + EPS
    return module.weight * x / moment.sqrt() + module.bias


OPERATOR = Operator(
    name="unified_norm",
    slot="norm",
    paper="Yang et al. 2022, arXiv:2208.01313",
    build=UnifiedNorm,
    reference=reference,
    fold=fold_affine,
    catalogue=(1,),
    complexity="T D",
)

"""Norms with batch statistics, which are an affine map per channel once their statistics are stored.

The forward returns statistics as its state, and recalibration stores them; the forward itself never does. Runs of a
repeated block see other activations, so each run has its own statistics, named by `of_run`. In training mode they are
pooled over later tokens of the sequence too; in evaluation mode tokens are independent, so a causal network stays
causal. Shapes: x [B, T, D], statistics [D].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from searchspace.primitives.axes import Axis, AxisModule, ones, zeros
from searchspace.primitives.context import BuildContext, State, Tokens
from searchspace.spec.arch import OpSpec

EPS = 1e-5


def of_run(name: str, repeat: int) -> str:
    """Return the name of a tensor in this run of the stage; the first run has the plain name."""
    return f"{name}_run_{repeat}" if repeat else name


class BatchNorm(AxisModule):
    """y = w (x - m) / sqrt(s + eps) + b, with m, s of the batch in training and stored ones in evaluation."""

    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__()
        self.channels = (Axis.of(D=context.d_model),)
        self.declare("weight", self.channels, ones)
        self.declare("bias", self.channels, zeros)
        self.repeats = context.repeats
        for repeat in range(self.repeats):
            self.declare(of_run("mean", repeat), self.channels, zeros, role="statistic")
            self.declare(of_run("variance", repeat), self.channels, ones, role="statistic")

    def forward(self, x: Tensor, tokens: Tokens, state: State | None = None) -> tuple[Tensor, State | None]:
        """x [B, T, D] -> [B, T, D], and in training the update of the statistics."""
        scale, shift, update = self.affine(x, tokens)
        return torch.addcmul(shift, x, scale), update

    def affine(self, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor, State | None]:
        """Scale and shift [D] of this batch, and in training the statistics for recalibration to store."""
        if not self.training:
            return *self.stored_affine(tokens.repeat), None
        mean, variance = token_moments(x, tokens.valid)
        found = {"mean": mean.detach(), "variance": variance.detach()}
        return *self._affine(mean, variance), {of_run(n, tokens.repeat): t for n, t in found.items()}

    def stored_affine(self, repeat: int = 0) -> tuple[Tensor, Tensor]:
        """Scale and shift [D] of a run, from its stored statistics."""
        return self._affine(*(self.get_buffer(of_run(n, repeat)) for n in ("mean", "variance")))

    def _affine(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.weight * torch.rsqrt(variance + EPS)
        return scale, self.bias - mean * scale


class RepBatchNorm(BatchNorm):
    """Batch normalisation plus a scaled identity, eta x. Guo et al., "SLAB", arXiv:2405.11582.

    eta starts at 0, as in the paper's language models: starting at 1, as in its vision models, leaves the output
    unnormalised at first, and gated feed-forwards square the growth.
    """

    def __init__(self, spec: OpSpec, context: BuildContext) -> None:
        super().__init__(spec, context)
        self.declare("eta", (Axis.of(one=1),), zeros)

    def _affine(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = super()._affine(mean, variance)
        return scale + self.eta, shift


def token_moments(x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [D] over the valid tokens of x [B, T, D]."""
    rows = real_tokens(x, valid)
    return rows.mean(0), rows.var(0, unbiased=False)


def real_tokens(x: Tensor, valid: Tensor | None) -> Tensor:
    """x [B, T, D] -> its valid tokens [N, D]."""
    return x.flatten(0, -2) if valid is None else x[valid]


def fold_affine(module: Any, progress: float = 1.0) -> tuple[OpSpec, dict[str, Tensor]]:
    """Return the channel affine, scale and shift [D] per run, to which a norm with stored statistics is equal."""
    tensors: dict[str, Tensor] = {}
    for repeat in range(module.repeats):
        affine = module.stored_affine(repeat)
        tensors |= {of_run(n, repeat): t for n, t in zip(("scale", "shift"), affine, strict=True)}
    return OpSpec("channel_affine"), tensors


def batch_normalized(module: BatchNorm, x: Tensor, tokens: Tokens) -> Tensor:
    """Reference of w (x - m) / sqrt(s + eps) + b for x [B, T, D]."""
    mean, variance = (module.get_buffer(of_run(n, tokens.repeat)) for n in ("mean", "variance"))
    if module.training:
        real = real_tokens(x, tokens.valid)
        mean = real.sum(0) / len(real)
        variance = ((real - mean) ** 2).sum(0) / len(real)
    return module.weight * (x - mean) / torch.sqrt(variance + EPS) + module.bias

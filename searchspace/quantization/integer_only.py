"""GELU, softmax, square root and LayerNorm in whole numbers: a simulation of I-BERT on integer hardware.

A value is q S: whole numbers q [int64] with one scale S. Polynomials a (x + b)^2 + c become (q + b / S)^2 + c / (a S^2)
of scale a S^2.

    erf(x) ~ sgn(x) (a (min(|x|, -b) + b)^2 + 1)      a = -0.2888, b = -1.769
    exp(p) ~ 0.3585 (p + 1.353)^2 + 0.344             p in (-ln 2, 0], then shifted right by -x / ln 2

Kim et al., "I-BERT: Integer-only BERT Quantization", arXiv:2101.01321. Divisions round down, as shifts do; only scales,
known before anything runs, are floating-point numbers. Shapes: q [..., K].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

ERF = (-0.2888, -1.769, 1.0)
EXP = (0.3585, 1.353, 0.344)
NORM_BITS = 30


class Whole(NamedTuple):
    """Whole numbers int64 and what one of them stands for."""

    q: Tensor
    scale: float

    @property
    def value(self) -> Tensor:
        return self.q.double() * self.scale


def to_whole(x: Tensor, bits: int, largest: float | None = None) -> Whole:
    """x in symmetric codes of `bits` bits, for values up to `largest`, or up to the largest of x where that is None."""
    top = 2 ** (bits - 1) - 1
    scale = (float(x.abs().max()) if largest is None else largest) / top
    return Whole((x.double() / scale).round().clamp(-top, top).to(torch.int64), scale)


def requantize(x: Whole, scale: float) -> Whole:
    """x in codes of another scale, by a 31-bit factor and a shift instead of a division."""
    mantissa, exponent = math.frexp(x.scale / scale)
    factor, shift = round(mantissa * 2**31), 31 - exponent
    return Whole((x.q * factor + (1 << (shift - 1))) >> shift, scale)


def gelu(x: Whole) -> Whole:
    a, b, c = ERF
    scale = x.scale / math.sqrt(2)
    bound = math.floor(-b / scale)
    squared = (x.q.abs().clamp_max(bound) + math.floor(b / scale)) ** 2 + math.floor(c / (a * scale**2))
    erf = Whole(x.q.sign() * squared, a * scale**2)
    one = math.floor(1 / erf.scale)
    return Whole(x.q * (erf.q + one), x.scale * erf.scale / 2)


def exp(x: Whole) -> Whole:
    """Of x at most 0."""
    a, b, c = EXP
    ln2 = math.floor(math.log(2) / x.scale)
    halvings = torch.div(-x.q, ln2, rounding_mode="floor")
    rest = x.q + halvings * ln2
    y = (rest + math.floor(b / x.scale)) ** 2 + math.floor(c / (a * x.scale**2))
    return Whole(y >> halvings.clamp_max(62), a * x.scale**2)


def softmax(x: Whole, bits: int = 16) -> Whole:
    """Over the last axis, at most 2^bits."""
    powers = requantize(exp(Whole(x.q - x.q.amax(-1, keepdim=True), x.scale)), 2.0**-15)
    factor = torch.div(2**32, powers.q.sum(-1, keepdim=True), rounding_mode="floor")
    return Whole((powers.q * factor) >> (32 - bits), 2.0**-bits)


def sqrt(n: Tensor) -> Tensor:
    """The whole part of the square root of n > 0 [int64], by Newton's iteration from above."""
    x = 2 ** torch.ceil((torch.log2(n.double()).floor() + 1) / 2).to(torch.int64)
    while True:
        better = (x + torch.div(n, x, rounding_mode="floor")) >> 1
        if (better >= x).all():
            return x
        x = torch.minimum(x, better)


def norm_shift(x: Whole) -> int:
    """By how many bits `layer_norm` has to shorten such codes, so that the sum of their squares has 32."""
    largest = int(_centred(x.q).abs().max()) ** 2 * x.q.shape[-1]
    return max(0, math.ceil((math.log2(max(largest, 1)) - 32) / 2))


def _centred(q: Tensor) -> Tensor:
    K = q.shape[-1]
    return q - torch.div(2 * q.sum(-1, keepdim=True) + K, 2 * K, rounding_mode="floor")


def layer_norm(x: Whole, weight: Tensor, bias: Tensor, shift: int) -> Whole:
    """Codes of (x - mean) / std * weight + bias; the scale of the result is one for each channel's weight.

    `shift` is that of calibration, so that no token's numbers depend on others; more than 32 bits are held in 64.
    """
    K, centred = x.q.shape[-1], _centred(x.q)
    std = sqrt(((centred >> shift) ** 2).sum(-1, keepdim=True).clamp_min(1)) << shift
    factor = torch.div(2 ** (NORM_BITS + 1), std, rounding_mode="floor")
    normed = (centred * factor) >> 1
    scale = math.sqrt(K) / 2**NORM_BITS
    codes = normed + (bias.double() / weight.double() / scale).floor().to(torch.int64)
    return Whole(codes, scale)

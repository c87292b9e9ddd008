"""A trained encoder as I-BERT computes it: int8 linear maps, and LayerNorm, GELU and softmax in whole numbers.

A simulation: it tells what the arithmetic does to the outputs, and nothing about speed. In whole numbers are the norms
(of codes of 16 bits), GELU (16), attention weights (scores of 16 bits from queries and keys of 8, powers of 16,
weights of 8) and the linear maps, whose weights have a scale for each row and whose inputs have one range. Ranges are
the largest value of the calibration data, and norms shift by the most that it takes: frozen then, so that no token
depends on others in its batch. Left in floating point are the stem, residual sums, and the head. Kim et al., "I-BERT:
Integer-only BERT Quantization", arXiv:2101.01321; it gives norms 22 bits, with which the divisor of `layer_norm` is as
short as eight bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from searchspace import registry
from searchspace.model import Model
from searchspace.primitives.context import Tokens
from searchspace.quantization import integer_only
from searchspace.quantization.apply import apply_policy
from searchspace.quantization.calibration import CalibrationBatch
from searchspace.quantization.integer_only import Whole, to_whole
from searchspace.spec.arch import NONE, ArchSpec, BlockSpec, Format, OpSpec, QuantPolicy

NORM_BITS, GELU_BITS, SCORE_BITS, WEIGHT_BITS, QUERY_BITS = 16, 16, 16, 8, 8
GELUS = ("gelu", "gelu_erf")


def integer_network(model: Model, batches: Sequence[CalibrationBatch]) -> Model:
    """`model` in this arithmetic; it stays as it is. Raises ValueError naming what has no form in whole numbers."""
    reason = why_not_integer(model.arch)
    if reason is not None:
        raise ValueError(reason)
    found = apply_policy(model, _with_int8(model.arch), batches)
    parts = list(_replaced(found))
    with torch.no_grad():
        for inputs, tokens in batches:
            for b in range(len(inputs)):  # one by one: padding belongs to no range
                found(inputs[b : b + 1] if tokens.valid is None else inputs[b : b + 1, tokens.valid[b]])
    for part in parts:
        part.is_calibrating = False
    return found


def why_not_integer(arch: ArchSpec) -> str | None:
    """The first operator that has no form in whole numbers, in a sentence; None where all have one."""
    if arch.is_causal:
        return "arithmetic in whole numbers is for encoders; this network is causal"
    for i, block in enumerate(arch.blocks):
        mixer, ffn = block.mixer, block.ffn
        if block.norm.op not in ("layernorm", "none"):
            return f"blocks.{i}: {block.norm.op} has no form in whole numbers; layernorm has"
        if mixer != NONE and (mixer.op != "softmax_attention" or mixer["normalizer"] != OpSpec("softmax")):
            return f"blocks.{i}: {mixer.op} has no form in whole numbers; softmax_attention with softmax has"
        for name, (off, *_) in registry.operator("mixer", mixer.op).options.items():
            if mixer.get(name, off) != off:
                return f"blocks.{i}: {name} = {mixer[name]} has no form in whole numbers; {off} has"
        if mixer.get("keys", "own") != "own":
            return f"blocks.{i}: keys = {mixer['keys']} has no form in whole numbers; own has"
        if ffn != NONE and (ffn.op != "mlp" or ffn["activation"].op not in GELUS):
            return f"blocks.{i}: {ffn.op} has no form in whole numbers; mlp with {' or '.join(GELUS)} has"
    if arch.final_norm.op not in ("layernorm", "none"):
        return f"final_norm: {arch.final_norm.op} has no form in whole numbers; layernorm has"
    return None


def _with_int8(arch: ArchSpec) -> ArchSpec:
    def quant(block: BlockSpec) -> QuantPolicy:
        named = {
            role
            for slot in ("mixer", "ffn")
            for role in registry.operator(slot, getattr(block, slot).op).quantizable
        }
        return QuantPolicy(tuple((role, Format.of("int8_static")) for role in sorted(named)))

    return replace(arch, blocks=tuple(replace(block, quant=quant(block)) for block in arch.blocks))


def _replaced(model: Model) -> Iterator[Ranged]:
    """Put the parts in whole numbers in their places."""
    for name in sorted(model.part_names):
        part = model.part(name)
        if name == "final_norm":
            model.final_norm = IntegerNorm(part.weight, part.bias)
            yield model.final_norm
        elif name == "position" and model.arch.position.op == "learned_norm":
            model.position = IntegerPosition(part)
            yield model.position
        elif name.startswith("blocks."):
            yield from _replaced_in_block(part)


def _replaced_in_block(block: nn.Module) -> Iterator[Ranged]:
    children: list[tuple[str, Any]] = list(block.named_children())
    for name, part in children:
        found: dict[tuple[Any, str], Ranged] = {}
        if "_norm_" in name:
            found[block, name] = IntegerNorm(part.weight, part.bias)
        elif name == "ffn":
            found[part, "activation"] = IntegerGELU()
        else:
            part.fused = False
            found[part, "normalizer"] = IntegerSoftmax()
            for role in ("q_proj", "k_proj", "v_proj"):
                found[part, role] = Coded(part.get_submodule(role))
        for (holder, attribute), made in found.items():
            setattr(holder, attribute, made)
            yield made


class Ranged(nn.Module):
    """What codes its input up to the largest value, at least `least`, that it was given while calibrating."""

    least = 1e-6

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.is_calibrating = self.least, True

    def whole(self, x: Tensor, bits: int) -> Whole:
        if self.is_calibrating:
            self.largest = max(self.largest, float(x.abs().max()))
        return to_whole(x, bits, self.largest)


class Coded(Ranged):
    """A linear map with its outputs in codes."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        return self.whole(self.linear(x), QUERY_BITS).value.to(x.dtype)


class IntegerNorm(Ranged):
    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        if not weight.all():
            raise ValueError(
                "a norm with a weight of 0 has no form in whole numbers: its bias is divided by it"
            )
        self.weight, self.bias, self.shift = weight, bias, 0

    def forward(self, x: Tensor, tokens: Tokens, state: Any = None) -> tuple[Tensor, None]:
        codes = self.whole(x, NORM_BITS)
        if self.is_calibrating:
            self.shift = max(self.shift, integer_only.norm_shift(codes))
        normed = integer_only.layer_norm(codes, self.weight, self.bias, self.shift)
        return (normed.value * self.weight).to(x.dtype), None


class IntegerPosition(IntegerNorm):
    """The norm of the sum of embeddings."""

    def __init__(self, part: Any) -> None:
        super().__init__(part.norm_weight, part.norm_bias)
        self.rows = part.weight

    def forward(self, x: Tensor, tokens: Tokens, state: Any = None) -> tuple[Tensor, Any]:
        return super().forward(x + self.rows[tokens.positions], tokens)[0], tokens


class IntegerGELU(Ranged):
    least = 1.0  # finer codes need more than 64 bits in the polynomial

    def forward(self, x: Tensor) -> Tensor:
        return integer_only.gelu(self.whole(x, GELU_BITS)).value.to(x.dtype)


class IntegerSoftmax(Ranged):
    least = 1.0

    def forward(self, scores: Tensor, visible: Tensor) -> Tensor:
        """scores [B, H, T, S]; what is not visible gets 0."""
        codes = self.whole(scores, SCORE_BITS)
        low = -(2 ** (SCORE_BITS - 1)) - int(32 / codes.scale)  # e^-32 is 0 in 16 bits
        weights = integer_only.softmax(Whole(codes.q.masked_fill(~visible, low), codes.scale), WEIGHT_BITS)
        return (weights.value * visible.any(-1, keepdim=True)).to(scores.dtype)

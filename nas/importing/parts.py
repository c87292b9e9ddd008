"""What a converted model is, and the operators that pretrained networks are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nas.importing.weights import Part
from searchspace.spec.arch import NONE, ArchSpec, OpSpec
from searchspace.spec.plain import plain_attention

ACTIVATIONS = {"gelu": "gelu_erf", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "relu": "relu"}
ACTIVATIONS |= {"relu2": "relu_squared"}
GATES = {**ACTIVATIONS, "silu": "silu", "swish": "silu"}


@dataclass(frozen=True)
class Converted:
    """A model as our ArchSpec and tensors; `notes` are sentences that say what was left out or simplified.

    `tokenizer` is the text of a tokenizer.json to write, "" where the model has its own file or no tokenizer. `labels`
    are the class names of a classifier.
    """

    arch: ArchSpec
    tensors: dict[str, Part]
    notes: tuple[str, ...] = ()
    tokenizer: str = ""
    labels: tuple[str, ...] = ()


def attention(num_heads: int, head_dim: int, num_groups: int, qk_norm: OpSpec = NONE, **more: Any) -> OpSpec:
    """Plain attention; `more` are items that are added or replace those of plain attention."""
    plain = plain_attention(num_groups, num_heads // num_groups, head_dim, qk_norm)
    return OpSpec.of(plain.op, **(dict(plain.items) | more))


def feed_forward(d_ff: int, activation: str, is_gated: bool) -> OpSpec:
    """The FFN of width `d_ff`: swiglu, glu or mlp."""
    if is_gated and activation == "silu":
        return OpSpec.of("swiglu", d_ff=d_ff)
    if is_gated:
        return OpSpec.of("glu", d_ff=d_ff, activation=OpSpec(activation), hidden_norm=False)
    return OpSpec.of("mlp", d_ff=d_ff, activation=OpSpec(activation))


def below(place: str, tensors: Mapping[str, Part]) -> dict[str, Part]:
    """The tensors with `place` and a dot before each name."""
    return {f"{place}.{name}": tensor for name, tensor in tensors.items()}


def adjacent_pairs(held: Tensor, head_dim: int, turned: int) -> Tensor:
    """Reorder rows of a query or key projection, or of a norm over their channels, from half pairs to adjacent pairs.

    Rotary positions pair channels i and i + R / 2 of a head's first R = `turned` in `held`, 2 i and 2 i + 1 in the
    result. [H * K, ...] -> [H * K, ...] for K = `head_dim`.
    """
    heads = held.view(-1, head_dim, *held.shape[1:]).clone()
    part = heads[:, :turned]
    heads[:, :turned] = (
        part.reshape(len(heads), 2, turned // 2, *held.shape[1:]).transpose(1, 2).reshape(part.shape).clone()
    )
    return heads.reshape(held.shape)

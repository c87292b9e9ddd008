"""What the families of models have in common: their blocks in our terms, and the order of rotary channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nas.importing.source import Weights
from searchspace.spec.arch import NONE, ArchSpec, OpSpec
from searchspace.spec.plain import plain_attention

COPIED_ROWS = "the head has a copy of the token rows"
ACTIVATIONS = {"gelu": "gelu_erf", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "relu": "relu"}


@dataclass(frozen=True)
class Converted:
    """A model in our terms; `notes` are sentences on what was left out or is not the whole of it.

    `tokenizer` is the text of a tokenizer.json, "" where the model has that file itself or nothing.
    """

    arch: ArchSpec
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    tokenizer: str = ""


def linear_maps(weights: Weights, theirs: Sequence[str], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Of all blocks, by our names: `theirs` are the blocks' names, `names` their parts', ours to theirs."""
    return {
        f"blocks.{i}.{ours}.{name}": tensor
        for i, block in enumerate(theirs)
        for ours, part in names.items()
        for name, tensor in weights.linear(f"{block}.{part}").items()
    }


def attention(num_heads: int, head_dim: int, num_groups: int | None = None, qk_norm: OpSpec = NONE) -> OpSpec:
    groups = num_groups or num_heads
    return plain_attention(groups, num_heads // groups, head_dim, qk_norm)


def mlp(d_ff: int, activation: str) -> OpSpec:
    return OpSpec.of("mlp", d_ff=d_ff, activation=OpSpec(activation))


def layernorm(eps: float) -> OpSpec:
    return OpSpec.of("layernorm", eps=eps)


def rmsnorm(eps: float) -> OpSpec:
    return OpSpec.of("rmsnorm", eps=eps)


def dense(bias: bool | str) -> OpSpec:
    return OpSpec.of("dense", bias=bias)


def named(**parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of parts by full name; "__" in a part's name stands for a dot."""
    return {
        f"{part.replace('__', '.')}.{name}": tensor
        for part, held in parts.items()
        for name, tensor in held.items()
    }


def below(place: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{place}.{name}": tensor for name, tensor in tensors.items()}


def adjacent_pairs(held: Mapping[str, Tensor], head_dim: int) -> dict[str, Any]:
    """Rows of a query or key projection, or of a norm over their channels, from rotated halves to adjacent pairs.

    Channel i and i + K / 2 of a head turn together there, channels 2 i and 2 i + 1 here. [.. K, D] -> the same.
    """
    return {
        name: t.view(-1, 2, head_dim // 2, *t.shape[1:]).transpose(1, 2).reshape(t.shape).contiguous()
        for name, t in held.items()
    }

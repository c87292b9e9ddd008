"""What the families of models share: their blocks in our terms, tied token rows, and the order of rotary channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nas.importing.config import Config
from nas.importing.weights import Weights
from searchspace.spec.arch import NONE, ArchSpec, OpSpec
from searchspace.spec.plain import plain_attention

COPIED_ROWS = "the head has a copy of the token rows"
ACTIVATIONS = {"gelu": "gelu_erf", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "relu": "relu"}


@dataclass(frozen=True)
class Converted:
    """A model in our terms; `notes` are sentences on what was left out or is not the whole of it.

    `tokenizer` is the text of a tokenizer.json, "" where the model has that file itself or nothing. `harmless` are the
    family's keys of config.json that change nothing here.
    """

    arch: ArchSpec
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    tokenizer: str = ""
    harmless: frozenset[str] = frozenset()


def encoder_blocks(
    weights: Weights, theirs: Sequence[str], names: Mapping[str, str], width: int, d_ff: int
) -> dict[str, Tensor]:
    """Of all blocks, by our names: `theirs` are the blocks' names, `names` their parts', ours to theirs."""
    shapes = {"ffn.up_proj": (d_ff, width), "ffn.down_proj": (width, d_ff)}
    found: dict[str, Tensor] = {}
    for i, block in enumerate(theirs):
        for ours, part in names.items():
            name = f"{block}.{part}"
            is_norm = "norm" in ours
            held = (
                weights.norm(name, width)
                if is_norm
                else weights.linear(name, *shapes.get(ours, (width, width)))
            )
            found |= below(f"blocks.{i}.{ours}", held)
    return found


def is_tied(config: Config, weights: Weights, rows: str, head: str, default: bool, *shape: int) -> bool:
    """Whether the tensor `head` is that of the token rows, `rows`, both [*shape].

    Raises UsageError where the config says so and the file holds a head of its own.
    """
    tied = config.flag("tie_word_embeddings", default)
    if tied and head in weights and not torch.equal(weights.take(head, *shape), weights.take(rows, *shape)):
        raise config.refuse("tie_word_embeddings", f"false where {head} differs from {rows}, as it does here")
    return tied


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

"""The examples that a proxy uses: random ones for a space, or a real batch from the caller."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from searchspace.spec.arch import ArchSpec, OpSpec
from searchspace.spec.space import SpaceSpec


@dataclass(frozen=True, eq=False)
class Batch:
    """inputs [B, T] int64 or [B, C, rows, columns] float32; targets [B, T] or [B] int64; valid bool, as targets."""

    inputs: Tensor
    targets: Tensor
    valid: Tensor | None = None


def random_batch(space: SpaceSpec | ArchSpec, batch_size: int, seed: int) -> Batch:
    """Return uniform tokens [B, T] of maximum length, or normal images [B, C, S, S], with uniform targets.

    Equal seeds give equal batches. Raises ValueError for a batch size below 1 or an unknown stem.
    """
    if batch_size < 1:
        raise ValueError(f"a batch needs at least 1 example, got batch_size {batch_size}")
    generator = torch.Generator().manual_seed(seed)
    shape, num_ids = input_shape(space.stem)
    if num_ids:
        inputs = torch.randint(num_ids, (batch_size, *shape), generator=generator)
    else:
        inputs = torch.randn((batch_size, *shape), generator=generator)
    if space.task == "classification":
        each = shape if space.head.get("pooling") == "none" else ()
        targets = torch.randint(space.head["num_classes"], (batch_size, *each), generator=generator)
    else:
        targets = torch.randint(space.head["vocab_size"], (batch_size, *shape), generator=generator)
    return Batch(inputs, targets)


def input_shape(stem: OpSpec) -> tuple[tuple[int, ...], int]:
    """Return (shape of one example, number of token ids, 0 for images). Raises ValueError for an unknown stem."""
    if stem.op == "token_embedding":
        return (stem["max_len"],), stem["vocab_size"]
    if stem.op in ("patch_embedding", "class_patch_embedding"):
        return (stem["channels"], stem["image_size"], stem["image_size"]), 0
    raise ValueError(
        f"no random inputs for stem {stem.op!r}; known: token_embedding, patch_embedding and "
        "class_patch_embedding"
    )

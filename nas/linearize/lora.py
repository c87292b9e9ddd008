"""Low-rank updates of selected weights, W + (alpha / r) B A, trained in place of W and merged into it afterwards.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685. A starts at random and B at 0, so
the network is unchanged at first. Shapes: W [out, in], A [r, in], B [out, r].
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

RANK, ALPHA = 8, 16.0


class LowRank(nn.Module):
    """W -> W + (alpha / r) B A."""

    def __init__(self, weight: Tensor, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.scale = alpha / rank
        self.A = nn.Parameter(torch.randn(rank, columns, generator=generator) / math.sqrt(columns))
        self.B = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """The updated weight [out, in]."""
        return weight + self.scale * (self.B @ self.A)


@contextmanager
def low_rank(
    model: nn.Module, paths: Sequence[str], seed: int = 0, rank: int = RANK, alpha: float = ALPHA
) -> Iterator[list[Tensor]]:
    """Yields the updates A [r, in] and B [out, r] of the weights of the modules at `paths`, merged on exit.

    While the context is open, only the updates require gradients.
    """
    model.requires_grad_(False)
    modules = [model.get_submodule(path) for path in paths]
    generator = torch.Generator().manual_seed(seed)
    updates = [LowRank(module.weight, rank, alpha, generator) for module in modules]  # type: ignore[arg-type]
    for module, update in zip(modules, updates, strict=True):
        parametrize.register_parametrization(module, "weight", update)
    try:
        yield [tensor for update in updates for tensor in (update.A, update.B)]
    finally:
        for module in modules:
            parametrize.remove_parametrizations(module, "weight")
        model.requires_grad_(False)

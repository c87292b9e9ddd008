"""Masked language modelling of bytes, or of a pretrained model's tokens, for bidirectional encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.tasks.base import IGNORED, Batch, Indices, draw
from nas.tasks.text import NUM_BYTES, TextTask

MASK = NUM_BYTES  # the id after the last byte
SHARE = 0.15
HELD_OUT_SEED = 2
RANDOM = 3  # uniform numbers per byte: whether it is chosen, how it is replaced, and by which other byte


@dataclass(frozen=True, eq=False)
class MaskedTextTask(TextTask):
    """Predict 15 % of the bytes of a window from all others.

    By the recipe of BERT, Devlin et al., arXiv:1810.04805, 80 % of the chosen bytes are shown as MASK, 10 % as a
    uniform random byte and 10 % unchanged; only chosen bytes have targets, and every window has the same number of
    them. They depend on (seed, step) in training and only on the window's index in the held-out part. The baselines
    are those of `TextTask`: without context, and from the previous byte.
    """

    kind: ClassVar[str] = "masked_lm"
    vocab_size: ClassVar[int] = NUM_BYTES + 1

    mask: int = MASK
    num_symbols: int = NUM_BYTES  # number of symbols that may replace a chosen one
    before: tuple[int, ...] = ()  # tokens before and behind every window, never chosen
    behind: tuple[int, ...] = ()

    @property
    def num_validation_examples(self) -> int:
        return len(self.held_out[0]) // self.context

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        starts = draw(seed, step, len(self.train[0]) - self.context + 1, batch_size)
        noise = np.random.default_rng((seed, step, 1)).random((batch_size, RANDOM, self.context))
        return self._hidden(self.train[0], starts, noise)

    def _validation_batch(self, examples: Indices) -> Batch:
        shape = (RANDOM, self.context)
        noise = np.stack([np.random.default_rng((HELD_OUT_SEED, int(i))).random(shape) for i in examples])
        return self._hidden(self.held_out[0], examples * self.context, noise)

    def _hidden(self, text: Tensor, starts: Indices, noise: NDArray[np.float64]) -> Batch:
        """inputs, targets: [B, T] int64; noise: [B, 3, T], uniform in [0, 1)."""
        places = torch.from_numpy(starts)[:, None] + torch.arange(self.context)
        whole = text[places].long()
        order, fate, other = torch.from_numpy(noise).unbind(1)
        chosen = order.argsort(1).argsort(1) < max(1, round(SHARE * self.context))
        shown = whole.where(fate < 0.9, (other * self.num_symbols).long()).masked_fill(fate < 0.8, self.mask)
        return Batch(
            self._enclosed(shown.where(chosen, whole), self.before, self.behind),
            self._enclosed(
                whole.where(chosen, IGNORED), [IGNORED] * len(self.before), [IGNORED] * len(self.behind)
            ),
        )

    @staticmethod
    def _enclosed(window: Tensor, before: Sequence[int], behind: Sequence[int]) -> Tensor:
        """Each row of `window` [B, T] with the tokens `before` in front and `behind` at its end."""
        ends = (
            torch.tensor(list(end), dtype=window.dtype).expand(len(window), -1) for end in (before, behind)
        )
        first, last = ends
        return torch.cat((first, window, last), 1)


def masked(task: TextTask) -> MaskedTextTask:
    """The masked task on the text and split of `task`."""
    return MaskedTextTask(f"masked {task.name}", task.provenance, task.train, task.held_out, task.context)

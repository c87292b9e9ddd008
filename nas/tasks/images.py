"""Images for a pretrained encoder: digits that ship with packages, a user's folder, or an array in an npz file.

They are scaled to the model's side length, repeated to its number of channels, and normalized as its
preprocessor_config.json says. Labels are used if they are classes of the model. Otherwise a sub-network is evaluated by
its agreement with the whole model or, for a model without classes, by the distance to the whole model's states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from nas.errors import UsageError
from nas.importing.config import Config, read_config
from nas.importing.load import Imported
from nas.tasks.base import Batch, Indices, Task, draw, loss
from nas.tasks.digits import ImageTask
from nas.tasks.records import split
from nas.tasks.sequences import BASELINE_TEXTS, class_prior
from searchspace.model import Model

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
DIGITS = tuple(map(str, range(10)))
IMAGES, LABELS = "images", "labels"  # arrays of an npz file
MOST_IMAGES = 20_000


@dataclass(frozen=True)
class Preparation:
    """Preprocessing of a model: resizes images to `side` pixels and normalizes channels by `mean` and `std`."""

    side: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W], uint8 or floats in [0, 1], to inputs [B, channels, side, side] float32."""
        values = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        if values.shape[-2:] != (self.side, self.side):
            size = (self.side, self.side)
            values = F.interpolate(values, size, mode="bilinear", antialias=True, align_corners=False)
        values = values.expand(-1, self.channels, -1, -1)
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (values - mean) / std


@dataclass(frozen=True, eq=False)
class PreparedImages(Task):
    """`train` and `held_out` are (images [N, C, H, W], uint8 or floats in [0, 1], and labels [N] if there are any).

    Without labels the targets are the predictions of `teacher`.
    """

    kind: ClassVar[str] = "classification"

    prepare: Preparation
    num_classes: int
    teacher: Model | None = None

    @property
    def num_validation_examples(self) -> int:
        return len(self.held_out[0])

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        return self._examples(self.train, draw(seed, step, len(self.train[0]), batch_size))

    def _validation_batch(self, examples: Indices) -> Batch:
        return self._examples(self.held_out, examples)

    @torch.no_grad()
    def _examples(self, part: tuple[Tensor, ...], examples: Indices) -> Batch:
        images, *labels = (tensor[torch.from_numpy(examples)] for tensor in part)
        inputs = self.prepare(images)
        return Batch(inputs, labels[0] if self.teacher is None else self._answers(self.teacher(inputs)[0]))

    def _answers(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(-1)

    def baseline_losses(self) -> dict[str, float]:
        """class_prior: cross entropy in nats of the held-out labels under the class frequencies of training.

        Without labels it is the entropy of the teacher's predictions on some held-out images.
        """
        if self.teacher is None:
            return {"class_prior": class_prior(self.train[1], self.held_out[1], self.num_classes)}
        answers = self._some().targets
        return {"class_prior": class_prior(answers, answers, self.num_classes)}

    def _some(self) -> Batch:
        return self.validation(BASELINE_TEXTS, BASELINE_TEXTS)[0]


@dataclass(frozen=True, eq=False)
class EmbeddedImages(PreparedImages):
    """Approximate the states [B, T, D] of `teacher`."""

    kind: ClassVar[str] = "embedding"

    def _answers(self, outputs: Tensor) -> Tensor:
        return outputs

    def baseline_losses(self) -> dict[str, float]:
        """another_image: mean 1 - cosine between the states of different images."""
        targets = self._some().targets
        return {"another_image": float(loss(targets.roll(1, 0), targets))}


def of_images(model: Imported, data: str | ImageTask) -> Task:
    """The task of an imported model on `data`: the path of a folder or npz file, or a built-in image task.

    Raises UsageError naming --data and what is valid if the images do not fit the model.
    """
    head = model.arch.head
    classes = head["num_classes"] if head.op == "classifier" else 0
    prepare = preparation(model)
    if isinstance(data, str):
        name, about = data, f"images of {data} (licence not known)"
        images, labels = _of_user(data, model.labels, prepare.side)
        parts = split([0] * len(images) if labels is None else labels.tolist())
        train, held_out = (tuple(t[p] for t in _both(images, labels)) for p in map(torch.from_numpy, parts))
        about += ", a fifth held out"
    else:
        name, about = data.name, data.provenance
        is_theirs = classes == 10 and (model.labels == DIGITS or model.labels[:1] == ("LABEL_0",))
        train, held_out = (part if is_theirs else part[:1] for part in (data.train, data.held_out))
    if train[0].shape[1] not in (1, prepare.channels):
        raise UsageError(
            f"--data {name}: its images have {train[0].shape[1]} channels, the model takes {prepare.channels}"
        )
    if head.op != "classifier":
        return EmbeddedImages(name, about, train[:1], held_out[:1], prepare, 0, model.model())
    has_labels = len(train) == 2
    if not has_labels:
        about += "; targets are the classes that the whole model predicts"
    teacher = None if has_labels else model.model()
    return PreparedImages(name, about, train, held_out, prepare, classes, teacher)


def preparation(model: Imported) -> Preparation:
    """The preprocessing in the model's preprocessor_config.json; without that file, values from -1 to 1 as for ViT.

    Raises UsageError for a setting that this preprocessing does not support.
    """
    stem, path = model.arch.stem, model.preprocessor_path
    channels = stem["channels"]
    usual = (0.5,) * channels
    if path is None:
        return Preparation(stem["image_size"], channels, usual, usual)
    config = read_config(path)
    if config.get("do_rescale") is False or config.get("do_normalize") is False:
        key = "do_rescale" if config.get("do_rescale") is False else "do_normalize"
        raise config.refuse(key, "true")
    return Preparation(
        stem["image_size"],
        channels,
        *(_numbers(config, key, channels, usual) for key in ("image_mean", "image_std")),
    )


def _numbers(config: Config, key: str, count: int, default: tuple[float, ...]) -> tuple[float, ...]:
    found = config.get(key, list(default))
    if (
        not isinstance(found, list)
        or len(found) != count
        or not all(isinstance(v, int | float) for v in found)
    ):
        raise config.refuse(key, f"{count} numbers")
    return tuple(map(float, found))


def _both(images: Tensor, labels: Tensor | None) -> tuple[Tensor, ...]:
    return (images,) if labels is None else (images, labels)


def _of_user(data: str, classes: Sequence[str], side: int) -> tuple[Tensor, Tensor | None]:
    """Images [N, C, H, W] and the indices of their classes [N]."""
    path = Path(data)
    if path.is_dir():
        return _folder(data, path, classes, side)
    if path.suffix.lower() == ".npz" and path.is_file():
        return _arrays(data, path, len(classes))
    raise UsageError(
        f"--data {data}: this model takes images; give digits, mnist, a folder of images or an npz file with {IMAGES}"
    )


def _folder(data: str, path: Path, classes: Sequence[str], side: int) -> tuple[Tensor, Tensor | None]:
    """Images [N, 3, side, side] uint8 and class indices [N]: one subfolder per class, else without labels."""
    try:
        from PIL import Image
    except ImportError:
        raise UsageError(
            f"--data {data}: reading images needs the package pillow: pip install pillow"
        ) from None
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files or len(files) > MOST_IMAGES:
        raise UsageError(
            f"--data {data}: it holds {len(files)} images ({', '.join(SUFFIXES)}); give 1 to {MOST_IMAGES}"
        )
    names = [p.relative_to(path).parts[0] if p.parent != path else "" for p in files]
    known = set(names) & set(classes)
    if known and set(names) - set(classes):
        stray = min(set(names) - set(classes))
        raise UsageError(
            f"--data {data}: {stray or 'the folder itself'} is not a class of the model, but {min(known)} is; keep "
            "only folders named after classes"
        )
    pixels = []
    for file in files:
        try:
            with Image.open(file) as image:
                pixels.append(
                    np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))
                )
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise UsageError(f"--data {data}: {file} can't be read as an image ({error})") from error
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor([classes.index(n) for n in names]) if known else None


def _arrays(data: str, path: Path, num_classes: int) -> tuple[Tensor, Tensor | None]:
    """`images` [N, C, H, W] or [N, H, W], uint8 or floats in [0, 1], and `labels` [N], class indices."""
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
    except (OSError, ValueError) as error:
        raise UsageError(f"--data {data}: it can't be read as an npz file ({error})") from error
    if IMAGES not in arrays or set(arrays) - {IMAGES, LABELS}:
        raise UsageError(
            f"--data {data}: it holds {', '.join(arrays)}; give {IMAGES} and, optionally, {LABELS}"
        )
    images: NDArray[np.generic] = arrays[IMAGES]
    images = images[:, None] if images.ndim == 3 else images
    is_bytes = images.dtype == np.uint8
    if images.ndim != 4 or not (is_bytes or images.dtype.kind == "f"):
        raise UsageError(
            f"--data {data}: {IMAGES} are {images.dtype} {images.shape}; give bytes [N, C, H, W]"
        )
    found = torch.from_numpy(images if is_bytes else images.astype(np.float32))
    if not is_bytes and not bool(((found >= 0) & (found <= 1)).all()):
        raise UsageError(f"--data {data}: {IMAGES} that are floats must lie between 0 and 1")
    if LABELS not in arrays or not num_classes:
        return found, None
    labels = arrays[LABELS]
    if (
        labels.shape != (len(found),)
        or labels.dtype.kind not in "iu"
        or not 0 <= labels.min() <= labels.max() < num_classes
    ):
        raise UsageError(
            f"--data {data}: {LABELS} must be one number from 0 to {num_classes - 1} for each image"
        )
    return found, torch.from_numpy(labels.astype(np.int64))

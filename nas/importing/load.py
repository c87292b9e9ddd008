"""Write and read the folder of an imported model.

arch.json            the model as an ArchSpec
model.safetensors    its tensors by their names in Model
space.toml           an elastic space around the model, which users may edit
tokenizer.json       the model's tokenizer, where it has one, with the other files of TOKENIZERS
source.json          path of the original, SHA-256 of model.safetensors, notes on what was left out, class names
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nas.errors import ArtifactError, UsageError
from nas.files import check_folder, replace_folder
from nas.importing.convert import convert
from nas.importing.source import read_source
from nas.importing.space import space_data, to_toml
from nas.importing.storage import hash_of, write_tensors
from nas.importing.weights import Part
from searchspace.load import load_space, resolve
from searchspace.model import Model
from searchspace.primitives.axes import declared_tensors
from searchspace.spec.arch import ArchSpec
from searchspace.spec.genome import Encoding
from searchspace.spec.space import SpaceSpec
from searchspace.validity import why_invalid

PREPROCESSOR = "preprocessor_config.json"
ARCH, WEIGHTS, SPACE, TOKENIZER, SOURCE = (
    "arch.json",
    "model.safetensors",
    "space.toml",
    "tokenizer.json",
    "source.json",
)


# Files from which the package transformers reads a tokenizer or image processor.
TOKENIZERS = (
    TOKENIZER,
    PREPROCESSOR,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
)


@dataclass(frozen=True)
class Imported:
    """An imported pretrained model. `tensors` are mapped from the weight file, whose hash is `sha256`, in its dtypes;
    `labels` are a classifier's class names."""

    arch: ArchSpec
    tensors: dict[str, Tensor]
    space: SpaceSpec
    tokenizer_path: Path | None
    sha256: str
    labels: tuple[str, ...] = ()
    preprocessor_path: Path | None = None

    def model(self) -> Model:
        """The network in evaluation mode, with float32 weights."""
        return Model.from_weights(self.arch, {name: t.float() for name, t in self.tensors.items()}).eval()


def import_model(
    path: str | Path, out: str | Path, overwrite: bool = False
) -> tuple[Imported, tuple[str, ...]]:
    """Import the model at `path` into the folder `out`, which is replaced only with `overwrite`.

    Returns the model and notes on what was left out or simplified.

    Raises UsageError naming the key and value of the config, or the tensor, where the model is not supported.
    """
    folder, source = Path(out), read_source(Path(path))
    theirs = [source.config.path, source.path] if source.path.is_file() else [source.config.path]
    check_folder(folder, overwrite, sources=theirs)
    try:
        found = convert(source)
        reason = why_invalid(found.arch)
    except ValueError as error:  # a placement or number that BlockSpec refuses
        raise UsageError(f"{source.config.path}: {error}") from error
    if reason is not None:
        raise UsageError(f"{source.config.path}: {reason}")
    _check(found.arch, found.tensors, source.path)
    data = "digits" if found.arch.stem.op == "class_patch_embedding" else "plays"
    space = space_data(found.arch, folder.resolve().name, data)
    Encoding(resolve(space)).encode(found.arch)  # raises unless the space contains the model
    about = {
        "source": str(source.path.resolve()),
        "model_type": source.config.data["model_type"],
        "notes": found.notes,
        "labels": found.labels,
    }
    with replace_folder(folder, overwrite, sources=theirs) as new:
        about["sha256"] = write_tensors(new / WEIGHTS, found.tensors)
        (new / ARCH).write_text(json.dumps(found.arch.to_json(), indent=1) + "\n", encoding="utf-8")
        (new / SPACE).write_text(to_toml(space), encoding="utf-8")
        (new / SOURCE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        if found.tokenizer:
            (new / TOKENIZER).write_text(found.tokenizer, encoding="utf-8")
        elif source.path.is_dir():
            copy_tokenizer(source.path, new)
    return imported(folder), found.notes


def copy_tokenizer(model: Path, folder: Path) -> None:
    """Copy a model's tokenizer files to `folder`, so that transformers' AutoTokenizer can load it from there."""
    for name in TOKENIZERS:
        if (model / name).is_file():
            shutil.copyfile(model / name, folder / name)
    settings = folder / "tokenizer_config.json"
    if (folder / TOKENIZER).is_file() and not settings.exists():
        settings.write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}\n', encoding="utf-8")


def imported(folder: str | Path) -> Imported:
    """Read a folder that `import_model` wrote. Raises ArtifactError naming the file, or the tensor and its shapes."""
    place = Path(folder)
    remedy = "bring the model in again with `nas import`"
    try:
        arch = ArchSpec.from_json(json.loads((place / ARCH).read_text(encoding="utf-8")))
        about = json.loads((place / SOURCE).read_text(encoding="utf-8"))
        labels = tuple(map(str, about.get("labels", ())))
        digest = hash_of(place / WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{place} is no imported model ({error}); {remedy}") from error
    if digest != about.get("sha256"):
        raise ArtifactError(
            f"{place / WEIGHTS} is damaged or another file: it has the hash {digest[:16]}; {remedy}"
        )
    try:
        tensors, space = load_file(place / WEIGHTS), load_space(str(place / SPACE))
    except (SafetensorError, ValueError) as error:
        raise ArtifactError(f"{place}: {error}") from error
    _check(arch, tensors, place / WEIGHTS)
    tokenizer, preprocessor = (
        path if path.is_file() else None for path in (place / TOKENIZER, place / PREPROCESSOR)
    )
    return Imported(arch, tensors, space, tokenizer, digest, labels, preprocessor)


def _check(arch: ArchSpec, tensors: Mapping[str, Tensor | Part], path: Path) -> None:
    """Raises ArtifactError where the tensors' names or shapes are not those of the architecture."""
    with torch.device("meta"):
        wanted = {name: tuple(d.shape) for name, d in declared_tensors(Model(arch))}
    have = {name: tuple(t.shape) for name, t in tensors.items()}
    differing = sorted(n for n in have.keys() | wanted.keys() if have.get(n) != wanted.get(n))
    if differing:
        name = differing[0]
        raise ArtifactError(
            f"{path}: tensor {name} has shape {have.get(name)}, the model has {wanted.get(name)}"
        )

"""Find and read the files of a folder that hold a model's tensors, chosen as transformers chooses them.

model.safetensors                                    the whole model
model.safetensors.index.json                         the file of each tensor, where there are several files
one *.safetensors of another name                    the whole model
pytorch_model.bin, pytorch_model.bin.index.json      the older format, loaded with weights_only=True
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from nas.errors import UsageError
from nas.importing.config import read_config
from nas.importing.weights import Part

SAFE, OLD = "model.safetensors", "pytorch_model.bin"
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES |= {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8}
DTYPES |= {"U8": torch.uint8, "BOOL": torch.bool}
ADAPTER = "adapter_config.json"  # transformers adds the adapter that it describes to the model


def read_tensors(folder: Path) -> tuple[dict[str, Part], tuple[str, ...]]:
    """(tensors by name, not loaded yet; notes that name weight files that were left out).

    Raises UsageError naming the files, or the tensor and its file, where the choice is ambiguous or reading fails.
    """
    if (folder / ADAPTER).exists():
        raise UsageError(f"{folder / ADAPTER}: merge the adapter into the model's weights and save them")
    present = sorted(p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".bin"))
    places = _places(folder, [name for name in present if name.endswith(".safetensors")])
    files = sorted(set(places.values())) if isinstance(places, dict) else [places]
    held = {name: _read(folder / name) for name in files}
    if isinstance(places, dict):
        _check_index(folder, places, held)
    strays = [name for name in present if name not in held and (name.endswith(".safetensors") or name == OLD)]
    found = {name: tensor for tensors in held.values() for name, tensor in tensors.items()}
    return found, (f"left out: {', '.join(strays)}; read was {', '.join(files)}",) if strays else ()


def _places(folder: Path, safe: list[str]) -> dict[str, str] | str:
    """Tensor -> file, from an index, or the name of the one file that holds all tensors."""
    for whole in (SAFE, OLD):
        index = folder / f"{whole}.index.json"
        is_whole = (folder / whole).is_file()
        if index.is_file():
            places = _index(index)
            if is_whole and set(places.values()) != {whole}:
                raise UsageError(
                    f"{folder} holds {whole} and {index.name}, which names other files: keep one of them"
                )
            return places
        if is_whole:
            return whole
        if whole == SAFE and len(safe) == 1:
            return safe[0]
        if whole == SAFE and safe:
            raise UsageError(
                f"{folder} holds {', '.join(safe)}: without {SAFE}.index.json it is not said which belong to the model"
            )
    raise UsageError(f"{folder} holds no weights: neither *.safetensors nor {OLD}")


def _index(path: Path) -> dict[str, str]:
    places = read_config(path).data.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UsageError(f"{path}: weight_map is to be a table from tensors to files")
    for name, file in places.items():
        if not isinstance(file, str) or Path(file).name != file or not (path.parent / file).is_file():
            raise UsageError(
                f"{path}: tensor {name} is said to be in {file!r}, which is no file of the folder"
            )
    return places


def _check_index(folder: Path, places: Mapping[str, str], held: Mapping[str, Mapping[str, Part]]) -> None:
    for name, file in places.items():
        if name not in held[file]:
            raise UsageError(f"{folder / file} lacks the tensor {name}, which the index says is there")
    for file, tensors in held.items():
        for name in tensors:
            if places.get(name) != file:
                said = f"is in {places[name]}" if name in places else "does not name"
                raise UsageError(f"{folder / file} holds the tensor {name}, which the index {said}")


def _read(path: Path) -> dict[str, Part]:
    try:
        return _safe(path) if path.suffix == ".safetensors" else _old(path)
    except UsageError:
        raise
    except KeyError as error:
        raise UsageError(
            f"{path} holds numbers of the type {error}; the importer takes floating point"
        ) from None
    except Exception as error:  # what torch raises for a file that holds more than tensors has no public name
        raise UsageError(f"{path.parent}: its weights can't be read ({error})") from error


def _safe(path: Path) -> dict[str, Part]:
    with _open(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no table
        return {
            name: Part(tuple(one.get_shape()), DTYPES[one.get_dtype()], partial(_tensor, path, name))
            for name, one in slices.items()
        }


def _open(path: Path) -> Any:
    return safe_open(path, framework="pt")


def _tensor(path: Path, name: str) -> Tensor:
    """Load one tensor. The file is mapped for this tensor only, so that its memory is released with the tensor."""
    with _open(path) as file:
        found: Tensor = file.get_tensor(name)
    return found


def _old(path: Path) -> dict[str, Part]:
    """Read a pytorch_model.bin; it is memory-mapped where it is a zip file, the format since torch 1.6."""
    found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in found.items()
    ):
        raise UsageError(f"{path} holds more than tensors by name")
    return {name: Part.of(tensor) for name, tensor in found.items()}

"""What lies at the path of a pretrained model: its config and its tensors, read without running anything of theirs.

folder          config.json, and *.safetensors or pytorch_model.bin; tokenizer.json beside them
FILE.npz        arrays and a text `__config__` (glassllm)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from nas.errors import UsageError


class Config:
    """A config.json whose values are asked for by key, so that a refusal can name both."""

    def __init__(self, data: Mapping[str, Any], path: Path) -> None:
        self.data, self.path = data, path

    def refuse(self, key: str, takes: str) -> UsageError:
        return UsageError(f"{self.path}: {key} is {self.data.get(key)!r}; the importer takes {takes}")

    def size(self, key: str, default: int | None = None) -> int:
        """A positive whole number; `default` where the key is missing or null."""
        value = default if self.data.get(key) is None else self.data[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.refuse(key, "a positive whole number")
        return value

    def number(self, key: str, default: float) -> float:
        value = default if self.data.get(key) is None else self.data[key]
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise self.refuse(key, "a positive number")
        return float(value)

    def one_of(self, key: str, takes: Mapping[str, str], default: str = "") -> str:
        """Our name of the value of `key`, from their names to ours."""
        value = default if self.data.get(key) is None else self.data[key]
        if not isinstance(value, str) or value not in takes:
            raise self.refuse(key, " or ".join(map(repr, takes)))
        return takes[value]

    def only(self, **values: Any) -> None:
        """Refuses a key that is there and asks for something else."""
        for key, value in values.items():
            if self.data.get(key) not in (None, value):
                raise self.refuse(key, repr(value))


class Weights:
    """Tensors by their names in the file, read in float32; what is never read is refused."""

    def __init__(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        self.tensors, self.path = dict(tensors), path
        self.unread = set(self.tensors)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def take(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise UsageError(f"{self.path} lacks the tensor {name}")
        self.unread.discard(name)
        return self.tensors[name].to(torch.float32, copy=True).contiguous()

    def linear(self, name: str, bias: bool = True) -> dict[str, Tensor]:
        """Weight [out, in] and bias of a linear map, or the gain and shift of a norm."""
        found = {"weight": self.take(f"{name}.weight")}
        return found | {"bias": self.take(f"{name}.bias")} if bias else found

    def without_prefix(self, prefix: str) -> Weights:
        """The same where every name that starts with `prefix` leaves it out."""
        return Weights({n.removeprefix(prefix): t for n, t in self.tensors.items()}, self.path)

    def done(self, *left_out: str) -> None:
        """Raises UsageError for a tensor that nothing was made of, save those whose names end in `left_out`."""
        strange = sorted(n for n in self.unread if not n.endswith(left_out))
        if strange:
            raise UsageError(f"{self.path}: the importer does not know what the tensor {strange[0]} is for")


@dataclass(frozen=True)
class Source:
    path: Path
    config: Config
    weights: Weights
    tokenizer: Path | None


def read_source(path: Path) -> Source:
    """Raises UsageError for what is not a model, naming the file that is missing or unreadable."""
    if path.suffix == ".npz":
        return _npz(path)
    config = _json(path / "config.json")
    tokenizer = path / "tokenizer.json"
    weights = Weights(_tensors(path), path)
    return Source(
        path, Config(config, path / "config.json"), weights, tokenizer if tokenizer.is_file() else None
    )


def read_json(path: Path) -> dict[str, Any]:
    """The table in a JSON file beside a model."""
    return _json(path)


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror}; give the folder of a model with its config.json"
        ) from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise UsageError(f"{path} holds a {type(data).__name__} where a table is expected")
    return data


def _tensors(folder: Path) -> dict[str, Tensor]:
    shards, old = sorted(folder.glob("*.safetensors")), folder / "pytorch_model.bin"
    found: dict[str, Tensor] = {}
    try:
        for shard in shards:
            found |= load_file(shard)
        if not shards and old.is_file():
            found = torch.load(old, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises for a file that holds more than tensors has no public name
        raise UsageError(f"{folder}: its weights can't be read ({error})") from error
    if not found:
        raise UsageError(f"{folder} holds no weights: neither *.safetensors nor pytorch_model.bin")
    return found


def _npz(path: Path) -> Source:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            data = {name: arrays[name] for name in arrays.files}
        config = json.loads(str(data.pop("__config__")))
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path} is no npz file with arrays and a text __config__ ({error})") from error
    return Source(
        path,
        Config({"model_type": "glassllm"} | config, path),
        Weights({name: torch.from_numpy(array) for name, array in data.items()}, path),
        None,
    )

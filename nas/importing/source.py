"""Read the config and tensors of a pretrained model without running any of its code. A model's path is one of

folder          with config.json, *.safetensors or pytorch_model.bin, and optionally tokenizer.json; or with
                modules.json, which names the folder of these files and the modules after the hidden states
FILE.npz        with arrays and a text `__config__` (glassllm)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nas.errors import UsageError
from nas.importing.config import Config, read_config
from nas.importing.files import read_tensors
from nas.importing.glassllm import described
from nas.importing.sentence import SentenceModules, read_modules
from nas.importing.weights import Part, Weights


@dataclass(frozen=True)
class Source:
    """`sentence`: the modules of a sentence embedding, None for other models; `notes`: as in `Converted`."""

    path: Path
    config: Config
    weights: Weights
    tokenizer: Path | None
    sentence: SentenceModules | None = None
    notes: tuple[str, ...] = ()


def read_source(path: Path) -> Source:
    """The config and tensors at `path`. Raises UsageError naming the file that is missing or unreadable."""
    if path.suffix == ".npz":
        return _npz(path)
    sentence = read_modules(path)
    root = path / sentence.transformer if sentence else path
    config = read_config(root / "config.json")
    tensors, notes = read_tensors(root)
    tokenizer = root / "tokenizer.json"
    return Source(
        path,
        config,
        Weights(tensors, root),
        tokenizer if tokenizer.is_file() else None,
        sentence,
        (*(sentence.notes if sentence else ()), *notes),
    )


def _npz(path: Path) -> Source:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            data = {name: arrays[name] for name in arrays.files}
        config = json.loads(str(data.pop("__config__")))
        tensors = {name: Part.of(torch.from_numpy(array)) for name, array in data.items()}
        return Source(path, Config(described(config), path), Weights(tensors, path), None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no npz file with arrays and a text __config__ ({error})") from error

"""What lies at the path of a pretrained model: its config and its tensors, read without running anything of theirs.

folder          config.json, and *.safetensors or pytorch_model.bin; tokenizer.json beside them; or modules.json, which
                says in which folder these are and what follows on the hidden states
FILE.npz        arrays and a text `__config__` (glassllm)
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
    """`sentence`: what follows on the hidden states of a sentence embedding; `notes` as of `Converted`."""

    path: Path
    config: Config
    weights: Weights
    tokenizer: Path | None
    sentence: SentenceModules | None = None
    notes: tuple[str, ...] = ()


def read_source(path: Path) -> Source:
    """Raises UsageError for what is not a model, naming the file that is missing or unreadable."""
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

"""GlassLM: a small decoder with grouped-query attention, rotary positions, SwiGLU and a tied head, in one npz file.

Its linear maps are stored as [in, out], its rotary pairs are adjacent channels. NAME.tokenizer.json beside NAME.npz
holds an alphabet and merges of byte-pair encoding over characters, which is written as a tokenizer.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from nas.errors import UsageError
from nas.importing.config import read_config

SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")
SPACE = "\u2581"
CHUNK = rf"\n|{SPACE}*[^{SPACE}\n]+|{SPACE}+"  # no merge crosses a chunk's border


def described(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with d_ff computed from d_model and rope_base renamed to rope_theta."""
    found = {"model_type": "glassllm", **config}
    if isinstance(found.get("d_model"), int):
        found["d_ff"] = 8 * found["d_model"] // 3
    if "rope_base" in found:
        found["rope_theta"] = found.pop("rope_base")
    return found


def tokenizer_of(model: Path, vocab_size: int) -> tuple[str, tuple[str, ...]]:
    """(text of a tokenizer.json, notes); ("", a note that says so) where there is no tokenizer file beside `model`."""
    path = model.with_suffix(".tokenizer.json")
    if not path.is_file():
        return "", (f"there is no {path.name} beside it: no text can be read for it",)
    return tokenizer_json(path, vocab_size), ()


def tokenizer_json(path: Path, vocab_size: int) -> str:
    """The text of a tokenizer.json that encodes as `path` does. Raises UsageError where `path` has another format or
    its number of tokens is not `vocab_size`."""
    data = read_config(path).data
    alphabet, merges = data.get("alphabet"), data.get("merges")
    if not _texts(alphabet) or not isinstance(merges, list) or not all(_texts(m, 2) for m in merges):
        raise UsageError(f"{path}: it needs a list alphabet of texts, and a list merges of pairs of them")
    tokens = [*SPECIALS, *alphabet, *(a + b for a, b in merges)]
    if len(tokens) != vocab_size:
        raise UsageError(f"{path}: it has {len(tokens)} tokens, the model has vocab_size {vocab_size}")
    split = {"type": "Split", "pattern": {"Regex": CHUNK}, "behavior": "Isolated", "invert": False}
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    model = {"type": "BPE", "unk_token": "<unk>", "vocab": {t: i for i, t in enumerate(tokens)}}
    described = {
        "version": "1.0",
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, spaces]},
        "pre_tokenizer": split,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "Fuse"}]},
        "model": model | {"merges": merges},
    }
    return json.dumps(described, ensure_ascii=False)


def _texts(data: Any, count: int | None = None) -> TypeGuard[list[str]]:
    return isinstance(data, list) and all(isinstance(t, str) for t in data) and count in (None, len(data))

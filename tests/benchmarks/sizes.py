"""Seconds and peak memory of operations on an imported decoder by its size: random weights in bfloat16.

Each step is a command in its own process; the peak includes its child processes. The 1.1B model runs only on request
(`sizes-large`), because it needs some 10 GB.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas.importing.storage import write_tensors
from nas.importing.weights import Part
from tests.benchmarks.rows import Row

WORDS = 32000
TEXT = 60_000  # words
SMALL = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 2048}
SMALL |= {"num_key_value_heads": 12, "tie_word_embeddings": True}
LARGE = {"hidden_size": 2048, "num_hidden_layers": 22, "num_attention_heads": 32, "intermediate_size": 5632}
LARGE |= {"num_key_value_heads": 4, "tie_word_embeddings": False}
SEARCH = ["search", "--model", "model", "--data", "text.txt", "--study", "sized", "--db", "sqlite:///nas.db"]
NETWORKS = [
    "--picture",
    "",
    "--recipe",
    "untrained.toml",
    "--objectives",
    "loss,parameters",
    "--searcher",
    "random",
    "--trials",
    "1",
    "--runner",
    "local",
]


def run() -> list[Row]:
    profile = ["profile", "--space", "model/space.toml", "--networks", "4"]
    return _rows(
        "110M", SMALL, {"profile": profile, "extract with ONNX": [*_extract("net-onnx"), "--format", "onnx"]}
    )


def run_large() -> list[Row]:
    return _rows("1.1B", LARGE, {})


def _extract(out: str) -> list[str]:
    return ["extract", "sized", "--db", "sqlite:///nas.db", "--trial", "0", "--out", out]


def _rows(name: str, sizes: Mapping[str, Any], more: Mapping[str, list[str]]) -> list[Row]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        count = _write_model(folder / "theirs", sizes)
        (folder / "untrained.toml").write_text("beat_baseline = false\n", encoding="utf-8")
        steps = {
            "import": ["import", "theirs", "--out", "model"],
            "search of one trial": [*SEARCH, *NETWORKS],
            "extract": _extract("net"),
            **more,
        }
        found = []
        for step, arguments in steps.items():
            seconds, peak = _measured(arguments, folder)
            about = f"float32 weights {4 * count / 1e9:.2f} GB"
            found.append(Row(f"{name}: {step}", seconds, seconds, seconds, "s"))
            found.append(Row(f"{name}: {step}, peak", peak, peak, peak, "GB", baseline=about))
    return found


def _measured(arguments: list[str], folder: Path) -> tuple[float, float]:
    """(seconds, GB) of a command; memory is that of the command alone, without mapped files."""
    start, peak = time.perf_counter(), 0.0
    environment = {**os.environ, "NAS_HOME": str(folder / "home"), "PYTHONPATH": str(Path.cwd())}
    code = f"import sys; from nas.cli.main import main; sys.exit(main({arguments!r}))"
    command = [sys.executable, "-c", code]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, _private(process.pid))
            time.sleep(0.05)
    if process.returncode:
        said = (folder / "log.txt").read_text(encoding="utf-8").strip().splitlines()
        raise RuntimeError(f"nas {' '.join(arguments)} failed: {said[-1] if said else process.returncode}")
    return time.perf_counter() - start, peak / 1e9


def _private(pid: int) -> float:
    """Bytes of private memory, without mapped files, of a process and its descendants."""
    place = Path(f"/proc/{pid}")
    try:
        lines = (place / "status").read_text(encoding="utf-8").splitlines()
        below = [child for found in place.glob("task/*/children") for child in found.read_text().split()]
    except OSError:  # the process has ended
        return 0.0
    own = next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0.0)
    return own + sum(_private(int(child)) for child in below)


def _write_model(folder: Path, sizes: Mapping[str, Any]) -> int:
    """Write a Llama with random weights, a word tokenizer and a text next to it; returns the number of weights."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    folder.mkdir()
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": WORDS, **sizes}
    config |= {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "hidden_act": "silu"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shapes = _shapes(config)
    write_tensors(
        folder / "model.safetensors", {n: _random(shape, i) for i, (n, shape) in enumerate(shapes.items())}
    )
    made = Tokenizer(WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    made.pre_tokenizer = Whitespace()
    made.save(str(folder / "tokenizer.json"))
    drawn = np.random.default_rng(0).integers(1, WORDS, TEXT)
    (folder.parent / "text.txt").write_text(" ".join(f"w{i}" for i in drawn), encoding="utf-8")
    return sum(int(np.prod(shape)) for shape in shapes.values())


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, hidden = config["hidden_size"], config["intermediate_size"]
    kept = width // config["num_attention_heads"] * config["num_key_value_heads"]
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (WORDS, width),
        "model.norm.weight": (width,),
    }
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (WORDS, width)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"{layer}.{norm}.weight"] = (width,)
        for role, rows in (("q", width), ("k", kept), ("v", kept), ("o", width)):
            found[f"{layer}.self_attn.{role}_proj.weight"] = (rows, width)
        found[f"{layer}.mlp.gate_proj.weight"] = found[f"{layer}.mlp.up_proj.weight"] = (hidden, width)
        found[f"{layer}.mlp.down_proj.weight"] = (width, hidden)
    return found


def _random(shape: tuple[int, ...], seed: int) -> Part:
    def load() -> torch.Tensor:
        if len(shape) == 1:
            return torch.ones(shape, dtype=torch.bfloat16)
        return (0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).bfloat16()

    return Part(shape, torch.bfloat16, load)

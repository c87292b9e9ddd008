"""Writes an extracted network as a folder that runs with torch alone, and proves that it is the searched one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from nas.errors import ArtifactError, UsageError
from nas.export import card
from nas.export.closure import foreign_imports, modules_of, vendor
from nas.tasks.base import Batch
from searchspace.fold import fold
from searchspace.model import Model
from searchspace.spec.measurement import Measurement

TEMPLATES = ("run.py", "weights.py")


@dataclass(frozen=True)
class Extraction:
    """What was written, and how far its logits are from the supernet's own on the same inputs."""

    folder: Path
    trial: int
    difference: float
    tolerance: float
    numbers: dict[str, float]


def write_folder(
    folder: Path,
    model: Model,
    validation: Sequence[Batch],
    numbers: Mapping[str, float],
    about: Mapping[str, Any],
    measurements: Sequence[Measurement] = (),
    overwrite: bool = False,
) -> Path:
    """Write weights, config, model code, held-out examples, model card and `run.py` for `model`.

    `numbers` holds what is stated of the network by name (loss, latency, ...), `about` where it comes from. Foldable
    operators are folded first. Raises UsageError where the folder exists and `overwrite` is not set.
    """
    if folder.exists() and any(folder.iterdir()):
        if not overwrite:
            raise UsageError(f"--out {folder}: the folder is not empty; name another one, or add --overwrite")
        shutil.rmtree(folder)
    model = fold(model.eval())
    modules = modules_of(model.arch)
    foreign = foreign_imports(modules) - {"torch"}
    if foreign:
        raise ArtifactError(
            f"the network needs {', '.join(sorted(foreign))} beside torch: it can't stand alone"
        )
    folder.mkdir(parents=True, exist_ok=True)
    vendor(model.arch, folder)
    for name in TEMPLATES:
        text = files("nas.export").joinpath("templates", name).read_text(encoding="utf-8")
        (folder / name).write_text(text, encoding="utf-8")
    save_file(
        {n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()},
        folder / "model.safetensors",
    )
    save_file(_examples(validation), folder / "validation.safetensors")
    config = {
        "arch": model.arch.to_json(),
        "arch_id": model.arch.id,
        "batch_size": len(validation[0].inputs),
        "numbers": dict(numbers),
        "about": dict(about),
        "measurements": [m.to_json() for m in measurements],
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card.text(model, config), encoding="utf-8")
    return folder


def largest_difference(model: Model, reference: Tensor, inputs: Tensor) -> float:
    """The largest absolute difference between the model's logits and `reference` on `inputs`."""
    with torch.inference_mode():
        return float((model(inputs)[0] - reference).abs().max())


def run_alone(folder: Path, timeout_seconds: float = 300.0) -> dict[str, Any]:
    """Run the folder's `run.py` in a fresh interpreter; returns its result. Raises ArtifactError where it fails."""
    command = [sys.executable, str(folder / "run.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    if done.returncode != 0:
        raise ArtifactError(
            f"{folder / 'run.py'} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
        )
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _examples(batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Byte ids are stored as bytes, other whole numbers (a mask id, targets left out) in four bytes."""
    inputs, targets = (torch.cat([getattr(b, n) for b in batches]) for n in ("inputs", "targets"))
    return {name: _small(t) for name, t in {"inputs": inputs, "targets": targets}.items()}


def _small(t: Tensor) -> Tensor:
    if t.is_floating_point():
        return t.contiguous()
    return t.to(torch.uint8 if int(t.min()) >= 0 and int(t.max()) < 256 else torch.int32)

"""Writes an extracted network as a folder that only needs torch, and checks that it reproduces the stated loss."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.errors import ArtifactError
from nas.export import card
from nas.export.closure import foreign_imports, modules_of, vendor
from nas.export.formats import FILES, RUN_ONNX, Export
from nas.export.templates import weights as reader
from nas.importing.storage import write_tensors
from nas.importing.weights import Part
from nas.tasks.base import Batch
from searchspace.fold import fold
from searchspace.model import Model
from searchspace.spec.arch import ArchSpec
from searchspace.spec.measurement import Measurement

LOSS_TOLERANCE = 1e-4
INT8_TOLERANCE = 1e-2  # another order of summation rounds some numbers to the neighbouring code
TEMPLATES = {"run.py": "run.py", "weights.py": "network/weights.py"}
CONFIG, WEIGHTS, EXAMPLES = "config.json", "model.safetensors", "validation.safetensors"


@dataclass(frozen=True)
class Extraction:
    """The written folder, the network's origin, its stated numbers by quantity and its further formats."""

    folder: Path
    origin: Mapping[str, Any]
    numbers: dict[str, float]
    exports: Sequence[Export] = ()


def write_folder(
    folder: Path,
    model: Model,
    validation: Sequence[Batch],
    numbers: Mapping[str, float],
    about: Mapping[str, Any],
    measurements: Sequence[Measurement] = (),
) -> Path:
    """Write weights, config, model code, held-out examples, model card and `run.py` for `model` to an empty folder.

    `numbers` are the network's values by quantity (loss in nats, latency in ms, ...), `about` its origin. Foldable
    operators are folded first. Raises ArtifactError if the network needs other packages than torch.
    """
    model = fold(model.eval())
    modules = modules_of(model.arch)
    foreign = foreign_imports(modules) - {"torch"}
    if foreign:
        raise ArtifactError(
            f"the network needs {', '.join(sorted(foreign))} besides torch: it can't be written as a folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    vendor(model.arch, folder)
    for name, place in TEMPLATES.items():
        text = files("nas.export").joinpath("templates", name).read_text(encoding="utf-8")
        (folder / place).write_text(text, encoding="utf-8")
    _save({n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}, folder / WEIGHTS)
    _save(_examples(validation), folder / EXAMPLES)
    config = {
        "arch": model.arch.to_json(),
        "arch_id": model.arch.id,
        "progress": model.progress,
        "max_len": model.max_len,
        "batch_size": len(validation[0].parts(int(model.arch.head.get("vocab_size", 1)))[0].inputs),
        "numbers": dict(numbers),
        "about": dict(about),
        "measurements": [m.to_json() for m in measurements],
        "exports": [],
    }
    _write_config(folder, model, config)
    return folder


def state_exports(folder: Path, model: Model, exports: Sequence[Export]) -> None:
    """Record the further formats in the folder's config and model card."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    _write_config(folder, model, config | {"exports": [e.to_json() for e in exports]})


def _write_config(folder: Path, model: Model, config: Mapping[str, Any]) -> None:
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card.text(model, config), encoding="utf-8")


def read_folder(folder: Path) -> tuple[Model, dict[str, Any]]:
    """The network of an extracted folder in evaluation mode, and its config.

    Raises ArtifactError if `folder` is no such folder, or naming a tensor that is damaged or does not fit the network.
    """
    if not (folder / CONFIG).is_file():
        raise ArtifactError(f"{folder} is no folder of `nas extract`: it has no {CONFIG}")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        arch = ArchSpec.from_json(config["arch"])
        with torch.device("meta"):
            shapes = {name: t.shape for name, t in Model(arch).state_dict().items()}
        tensors = reader.fitting(reader.load(folder / WEIGHTS), shapes)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise ArtifactError(f"{folder}: {error}") from error
    progress = config.get("progress", 1.0)
    return Model.from_weights(arch, tensors, progress).requires_grad_(False).eval(), config


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file with the SHA-256 of each tensor, so that a reader can name a damaged one."""
    hashes = {
        name: hashlib.sha256(t.flatten().view(torch.uint8).numpy().data).hexdigest()
        for name, t in tensors.items()
    }
    write_tensors(path, {name: Part.of(t) for name, t in tensors.items()}, hashes)


def largest_difference(model: Model, reference: Tensor, inputs: Tensor) -> float:
    """The largest absolute difference between the model's outputs for `inputs` and `reference`.

    inputs: [N, T] or [N, C, H, W]; reference: the expected outputs, [N, T, W] or [N, W].
    """
    with torch.inference_mode():
        return float((model(inputs)[0] - reference).abs().max())


def run_alone(
    folder: Path, *options: str, script: str = "run.py", timeout_seconds: float = 300.0
) -> dict[str, Any]:
    """Run a script of the folder in a new interpreter; returns its JSON result. Raises ArtifactError if it fails."""
    command = [sys.executable, "-B", str(folder / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    if done.returncode != 0:
        raise ArtifactError(
            f"{folder.name}/{script} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
        )
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def check_alone(folder: Path, loss: float) -> None:
    """Raises ArtifactError if `run.py`, or `run_onnx.py` if present, does not reproduce the stated loss in nats."""
    if (folder / FILES["aotinductor"]).is_file():
        given = run_alone(folder, "--compiled")["loss"]
        if not abs(given - loss) <= LOSS_TOLERANCE:
            raise ArtifactError(
                f"{folder.name}: run.py --compiled gives loss {given:.6f}, stated is {loss:.6f}"
            )
    for script in filter(lambda name: (folder / name).is_file(), ("run.py", RUN_ONNX)):
        given = run_alone(folder, script=script)["loss"]
        is_int8 = script == RUN_ONNX and not (folder / FILES["onnx"]).is_file()
        if not abs(given - loss) <= (INT8_TOLERANCE if is_int8 else LOSS_TOLERANCE):
            raise ArtifactError(f"{folder.name}: {script} gives loss {given:.6f}, stated is {loss:.6f}")


def as_stored(batches: Sequence[Batch]) -> list[Batch]:
    """The batches as the folder's scripts read them, all padded to one length, which affects some number formats."""
    size = len(batches[0].inputs)
    parts = [_joined([getattr(b, n) for b in batches]) for n in ("inputs", "targets")]
    valid = None if batches[0].valid is None else _joined([b.valid for b in batches if b.valid is not None])
    cuts = [slice(start, start + size) for start in range(0, len(parts[0]), size)]
    return [Batch(parts[0][c], parts[1][c], None if valid is None else valid[c]) for c in cuts]


def _examples(batches: Sequence[Batch]) -> dict[str, Tensor]:
    """All batches joined, by field; integers are stored as uint8 if they fit, else as int32."""
    found = {}
    for name in ("inputs", "targets", "valid"):
        parts = [getattr(b, name) for b in batches]
        if parts[0] is not None:
            found[name] = _small(_joined(parts))
    return found


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Rows of several batches [B_i, T_i, ...] as [sum B_i, max T_i, ...], padded with 0."""
    if parts[0].dim() == 1:
        return torch.cat(list(parts))
    longest = max(p.shape[1] for p in parts)
    return torch.cat([F.pad(p, (0, 0) * (p.dim() - 2) + (0, longest - p.shape[1])) for p in parts])


def _small(t: Tensor) -> Tensor:
    if t.is_floating_point() or t.dtype == torch.bool:
        return t.contiguous()
    return t.to(torch.uint8 if int(t.min()) >= 0 and int(t.max()) < 256 else torch.int32)

"""A supernet on disk: a checkpoint during training, so that a kill loses one interval, and the finished weights.

    checkpoint/state.json             step, loss, switch step, identity of the training; the tensor file and its hash
    checkpoint/step-N.safetensors     weights and both moments of AdamW
    supernet.json                     identity of the training, final losses, the hash of the weights
    weights.safetensors

Tensors are written first, to a file with a new name; then the JSON that names the file is replaced atomically. So the
JSON always names a complete file, whenever a process is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nas.errors import ArtifactError
from nas.importing.storage import hash_of, write_tensors
from nas.importing.weights import Part
from nas.tasks.base import Task
from nas.training.settings import TrainingSettings
from searchspace.spec.space import SpaceSpec
from searchspace.supernet.supernet import Supernet

SCHEMA = 1
CHECKPOINT, STATE, SUPERNET, WEIGHTS = "checkpoint", "state.json", "supernet.json", "weights.safetensors"


@dataclass(frozen=True)
class TrainingState:
    """The state of a training after `step` steps.

    `loss` is the running mean in nats of the largest network's loss on hard labels, `switch_step` the first step with
    soft targets.
    """

    step: int = 0
    loss: float | None = None
    switch_step: int | None = None


def identity(space: SpaceSpec, task: Task, settings: TrainingSettings) -> dict[str, Any]:
    """Everything that determines the weights, as JSON."""
    return {
        "schema": SCHEMA,
        "space": space.to_json(),
        "task": task.content_id,
        "settings": settings.to_json(),
    }


def supernet_key(space: SpaceSpec, task: Task, settings: TrainingSettings) -> str:
    """Content id of a supernet: 16 hexadecimal digits of the SHA-256 of its `identity`."""
    canonical = json.dumps(identity(space, task, settings), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def save_checkpoint(
    folder: Path,
    made_from: Mapping[str, Any],
    state: TrainingState,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
) -> None:
    """Atomically replace the checkpoint of `folder`.

    `weights` are the supernet's tensors by name, of any shapes `[...]`; `moments` AdamW's state, by key/name.
    """
    place = folder / CHECKPOINT
    place.mkdir(parents=True, exist_ok=True)
    tensors = {f"weights/{n}": t for n, t in weights.items()} | {f"adamw/{n}": t for n, t in moments.items()}
    name = f"step-{state.step}.safetensors"
    digest = write_whole_tensors(place / name, tensors)
    data = {**made_from, **vars(state), "software": software(), "tensors": name, "sha256": digest}
    write_whole(place / STATE, json.dumps(data, indent=1).encode())
    for other in place.iterdir():
        if other.name not in (name, STATE):
            other.unlink()


def load_checkpoint(
    folder: Path, made_from: Mapping[str, Any]
) -> tuple[TrainingState, dict[str, Tensor], dict[str, Tensor]] | None:
    """(state, weights, moments) as given to `save_checkpoint`, tensors `[...]` by name; None without a checkpoint.

    Raises ArtifactError if it is damaged or belongs to another training.
    """
    path = folder / CHECKPOINT / STATE
    if not path.exists():
        return None
    remedy = f"delete {path.parent} to train again"
    data = _read_json(path, remedy)
    _check_made_from(path, data, made_from, remedy)
    try:
        state = TrainingState(int(data["step"]), data["loss"], data["switch_step"])
        file, digest = path.parent / str(data["tensors"]), str(data["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} lacks or misstates {error}; {remedy}") from error
    tensors = _read_tensors(file, digest, remedy)
    weights, moments = (
        {n.removeprefix(part): t for n, t in tensors.items() if n.startswith(part)}
        for part in ("weights/", "adamw/")
    )
    return state, weights, moments


def save_supernet(
    folder: Path, supernet: Supernet, task: Task, settings: TrainingSettings, losses: Mapping[str, float]
) -> None:
    """Write the finished supernet to `folder` and delete its checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = write_whole_tensors(folder / WEIGHTS, supernet.tensors)
    data = {
        **identity(supernet.space, task, settings),
        "key": supernet_key(supernet.space, task, settings),
        "data": task.provenance,
        "losses": dict(losses),
        "device": next(iter(supernet.tensors.values())).device.type,
        "software": software(),
        "sha256": digest,
    }
    write_whole(folder / SUPERNET, json.dumps(data, indent=1).encode())
    shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)


def load_supernet(folder: Path, device: torch.device | None = None) -> Supernet:
    """The finished supernet of `folder` on `device`, by default the CPU.

    Raises ArtifactError if there is none, if it is damaged, or if its tensors do not have the shapes of its space.
    """
    path = folder / SUPERNET
    remedy = f"delete {folder} to train again"
    if not path.exists():
        raise ArtifactError(f"{folder} holds no finished supernet ({SUPERNET} is missing); {remedy}")
    data = _read_json(path, remedy)
    try:
        space, digest = SpaceSpec.from_json(data["space"]), str(data["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} lacks or misstates {error}; {remedy}") from error
    tensors = _read_tensors(folder / WEIGHTS, digest, remedy)
    place = device or torch.device("cpu")
    supernet = Supernet(space, device=place, tensors={n: t.to(place) for n, t in tensors.items()})
    _check_shapes(supernet, folder / WEIGHTS)
    return supernet


def fill(supernet: Supernet, weights: Mapping[str, Tensor], path: Path) -> None:
    """Overwrite the supernet's tensors with `weights`, `[...]` each, by name.

    Raises ArtifactError naming `path` if names or shapes are not those of its space.
    """
    _check_shapes(supernet, path, weights)
    with torch.no_grad():
        for name, tensor in supernet.tensors.items():
            tensor.copy_(weights[name])


def _check_shapes(supernet: Supernet, path: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Raises ArtifactError if `weights`, by default the supernet's own tensors, do not have the shapes of its space."""
    have = {n: tuple(t.shape) for n, t in (weights or supernet.tensors).items()}
    want = {n: declared.shape for n, declared in supernet.declared.items()}
    differing = sorted(n for n in have.keys() | want.keys() if have.get(n) != want.get(n))
    if differing:
        name = differing[0]
        there, here = (f"of shape {s[name]}" if name in s else "not known" for s in (have, want))
        raise ArtifactError(
            f"{path}: tensor {name} is {there} there and {here} in the supernet of space {supernet.space.name}: "
            "another version of this project trained it. Its studies can't be resumed with this version; "
            f"for a new study delete {path.parent} to train again"
        )


def software() -> dict[str, str]:
    """Versions of the libraries that compute and store the weights."""
    return {name: version(name) for name in ("torch", "numpy", "safetensors")}


def _check_made_from(path: Path, data: Mapping[str, Any], expected: Mapping[str, Any], remedy: str) -> None:
    for part in ("schema", "space", "task", "settings"):
        if data.get(part) != expected[part]:
            what = _first_difference(data.get(part), expected[part], part)
            raise ArtifactError(f"{path} belongs to another training: {what}; {remedy}")


def _first_difference(found: Any, expected: Any, where: str) -> str:
    """A description of the first innermost difference between two JSON values."""
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        for name in expected:
            if found.get(name) != expected[name]:
                return _first_difference(found.get(name), expected[name], f"{where}.{name}")
    return f"{where} is {found!r} there and {expected!r} here"[:200]


def write_whole(path: Path, content: bytes) -> str:
    """Atomically write `content` to `path` and flush it to disk; returns its SHA-256."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_bytes(content)
    _put(unfinished, path)
    return hashlib.sha256(content).hexdigest()


def write_whole_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> str:
    """Atomically write `tensors`, `[...]` each, to a safetensors file, one at a time; returns its SHA-256."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    parts = {n: Part(tuple(t.shape), t.dtype, t.detach().cpu) for n, t in tensors.items()}
    digest = write_tensors(unfinished, parts, metadata)
    _put(unfinished, path)
    return digest


def _put(unfinished: Path, path: Path) -> None:
    """Flush a file to disk, then rename it atomically."""
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read_json(path: Path, remedy: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} can't be read as JSON ({error}); {remedy}") from error
    if not isinstance(data, dict):
        raise ArtifactError(f"{path} holds a {type(data).__name__} where a table is expected; {remedy}")
    return data


def _read_tensors(path: Path, digest: str, remedy: str) -> dict[str, Tensor]:
    try:
        found = hash_of(path)
    except OSError as error:
        raise ArtifactError(f"{path} can't be read ({error.strerror}); {remedy}") from error
    if found != digest:
        raise ArtifactError(
            f"{path} is damaged: its {path.stat().st_size} bytes do not have the recorded hash {digest[:16]}; {remedy}"
        )
    try:
        return load_file(path)  # memory-mapped: read on access
    except SafetensorError as error:
        raise ArtifactError(f"{path} is not a safetensors file ({error}); {remedy}") from error

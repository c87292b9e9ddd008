"""The network that is linearized: a folder of `nas extract` or of `nas import`, with the data it is judged on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nas.errors import UsageError
from nas.export.folder import CONFIG, read_folder
from nas.importing.load import ARCH, imported
from nas.tasks.base import Task
from nas.tasks.load import load_task
from searchspace.model import Model

DEFAULT_DATA = "plays"


@dataclass(frozen=True)
class Source:
    """`imported_from` is the folder of the pretrained model whose tokens the network reads, "" for bytes."""

    name: str
    model: Model
    task: Task
    imported_from: str


def read_model(folder: Path, data: str = "") -> Source:
    """Raises UsageError for a folder that is neither, ArtifactError for a damaged one."""
    if (folder / CONFIG).is_file():
        model, config = read_folder(folder)
        about = config["about"]
        data, origin = data or about.get("task", DEFAULT_DATA), about.get("model", "")
    elif (folder / ARCH).is_file():
        model, origin = imported(folder).model().requires_grad_(False), str(folder)
    else:
        raise UsageError(f"MODEL {folder}: neither a folder of `nas extract` nor of `nas import`")
    arch = model.arch
    task = load_task(data or DEFAULT_DATA, stem=arch.stem, head=arch.head, model=origin)
    return Source(folder.resolve().name, model, task, origin)

"""The network to linearize or prune: a folder of `nas extract` or of `nas import`, with its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.content import absolute
from nas.errors import UsageError
from nas.export.folder import CONFIG, read_folder
from nas.importing.load import ARCH, imported
from nas.request.options import check_given
from nas.tasks.base import Task
from nas.tasks.load import load_task
from nas.tasks.names import BUILT_IN
from searchspace.model import Model

DEFAULT_DATA = "plays"


@dataclass(frozen=True)
class Source:
    """A network and its task; `files` are the files that were read.

    `imported_from` is the folder of the pretrained model whose tokens the network reads, "" for bytes.
    """

    name: str
    model: Model
    task: Task
    imported_from: str
    files: Sequence[Path] = ()


def read_model(folder: Path, data: str | None = None) -> Source:
    """The network in `folder` with its task on `data`, by default its own data.

    Raises UsageError if `folder` is of neither kind or its own data has changed, and ArtifactError if it is damaged.
    """
    check_given("--data", data, "plays, digits, mnist, or the path of a text")
    wanted = ""
    if (folder / CONFIG).is_file():
        model, config = read_folder(folder)
        about, part = config["about"], CONFIG
        wanted = about.get("data_id", "") if data is None else ""
        data, origin = data or about.get("task"), about.get("model", "")
    elif (folder / ARCH).is_file():
        model, origin, part = imported(folder).model().requires_grad_(False), str(folder), ARCH
    else:
        raise UsageError(f"MODEL {folder}: neither a folder of `nas extract` nor of `nas import`")
    arch, data = model.arch, absolute(data or DEFAULT_DATA)
    task = load_task(data, stem=arch.stem, head=arch.head, model=origin)
    if wanted not in ("", task.content_id):
        raise UsageError(
            f"MODEL {folder}: it was made with {data} of content id {wanted}, which now is {task.content_id}; "
            f"restore the data, or give --data"
        )
    read = [folder / part, *([] if data in BUILT_IN else [Path(data)])]
    return Source(folder.resolve().name, model, task, origin, read)

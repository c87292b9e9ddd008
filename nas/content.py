"""The data and model of a study, identified by absolute path and content id.

The ids are in the study's recipe, so that every process that evaluates its networks, on any machine, checks them and
refuses other data or another model.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import ArtifactError, UsageError
from nas.request.recipe import Recipe
from nas.tasks.names import BUILT_IN
from searchspace.spec.space import SpaceSpec
from studies.records import Study

if TYPE_CHECKING:
    from nas.tasks.base import Task
    from searchspace.supernet.supernet import Supernet


def located(recipe: Recipe, space: SpaceSpec) -> Recipe:
    """The recipe with absolute paths of its data, by default the space's, and of its model; reads no file."""
    data = recipe.data or space.data
    model = str(Path(recipe.model).resolve()) if recipe.model else ""
    recipe = replace(recipe, model=model)
    return recipe if data in ("", *BUILT_IN) else replace(recipe, data=absolute(data))


def absolute(data: str) -> str:
    """The absolute path of `data`, or its name if it is built in."""
    return data if data in BUILT_IN else str(Path(data).resolve())


def identified(recipe: Recipe, task: Task) -> Recipe:
    """The recipe with the current content ids of its data and model."""
    return replace(recipe, data_id=task.content_id, model_id=model_id(recipe.model) if recipe.model else "")


def task_of(recipe: Recipe, space: SpaceSpec) -> Task:
    """The task of the recipe's data, by default the space's. Raises UsageError if content ids have changed."""
    from nas.tasks.load import load_task

    if recipe.model_id:
        found = model_id(recipe.model)
        if found != recipe.model_id:
            raise UsageError(_differing(f"--model {recipe.model}", found, recipe.model_id))
    data = recipe.data or space.data
    task = load_task(data, stem=space.stem, head=space.head, model=recipe.model)
    if recipe.data_id not in ("", task.content_id):
        raise UsageError(_differing(f"--data {data}", task.content_id, recipe.data_id))
    return task


def supernet_of(folder: Path, space: SpaceSpec, task: Task, device: str = "cpu") -> Supernet:
    """The finished supernet in `folder`, on `device`. Raises ArtifactError if it has another space or other data."""
    from nas.training.checkpoint import SUPERNET, load_supernet
    from nas.training.placement import device_of

    supernet = load_supernet(folder, device_of(device))
    data = json.loads((folder / SUPERNET).read_text(encoding="utf-8")).get("task")
    pairs = {
        "data": (data, task.content_id),
        "space": (space_id(supernet.space), space_id(space)),
    }
    for what, (found, wanted) in pairs.items():
        if found != wanted:
            raise ArtifactError(_differing(f"the supernet {folder}, its {what}", found, wanted))
    return supernet


def sources_of(study: Study) -> list[str | Path]:
    """The files and folders that the study reads, which no command may overwrite."""
    from nas.importing.load import SOURCE

    recipe = Recipe.from_json(study.settings.recipe)
    data = recipe.data or study.space["data"]
    texts = [] if study.quality == "user" or data in BUILT_IN else [data]
    return [*texts, *([Path(recipe.model, SOURCE)] if recipe.model else [])]


def model_id(folder: str) -> str:
    """Content id of an imported model, from its architecture, the hash of its weights and its tokenizer.

    Raises ArtifactError if `folder` is no folder of an imported model.
    """
    from nas.importing.load import ARCH, SOURCE, TOKENIZER

    tokenizer = Path(folder, TOKENIZER)
    try:
        arch = Path(folder, ARCH).read_bytes()
        weights = json.loads(Path(folder, SOURCE).read_text(encoding="utf-8"))["sha256"]
        texts = tokenizer.read_bytes() if tokenizer.exists() else b""
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"--model {folder}: {error}; give a folder that `nas import` wrote") from error
    hashes = [hashlib.sha256(part).hexdigest() for part in (arch, texts)]
    return hashlib.sha256(json.dumps([*hashes, weights]).encode()).hexdigest()[:16]


def space_id(space: SpaceSpec) -> str:
    """Content id of a resolved space."""
    return hashlib.sha256(json.dumps(space.to_json(), sort_keys=True).encode()).hexdigest()[:16]


def _differing(what: str, found: str, wanted: str) -> str:
    return (
        f"{what}: its content is {found}, that of the study is {wanted}; "
        f"restore what the study was made with, or make a new study"
    )

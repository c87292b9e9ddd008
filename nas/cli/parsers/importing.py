"""Options of `nas import`."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, add_folder, command
from nas.importing.families import FAMILIES

TEXT = "Convert a pretrained transformer to a folder with its weights and a search space around it."


def add(commands: Commands) -> None:
    c = command(
        commands,
        "import",
        "importing:import_pretrained",
        TEXT,
        db=False,
    )
    c.description = f"{TEXT} Supported values of model_type in config.json: {', '.join(FAMILIES)}."
    c.add_argument(
        "path", help="folder with config.json and safetensors (or pytorch_model.bin), or an npz file"
    )
    add_folder(c)

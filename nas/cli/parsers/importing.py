"""Options of `nas import`."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, add_folder, command
from nas.importing.families import FAMILIES

TEXT = "Bring a pretrained transformer in as a folder with an elastic space around it."


def add(commands: Commands) -> None:
    c = command(
        commands,
        "import",
        "importing:import_pretrained",
        TEXT,
        db=False,
    )
    c.description = f"{TEXT} These come in, by the model_type of their config.json: {', '.join(FAMILIES)}."
    c.add_argument(
        "path", help="folder with config.json and safetensors (or pytorch_model.bin), or an npz file"
    )
    add_folder(c)

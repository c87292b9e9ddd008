"""Options of `nas import`."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, add_folder, command


def add(commands: Commands) -> None:
    c = command(
        commands,
        "import",
        "importing:import_pretrained",
        "Bring a pretrained transformer in as a folder with an elastic space around it.",
        db=False,
    )
    c.add_argument(
        "path", help="folder with config.json and safetensors (or pytorch_model.bin), or an npz file"
    )
    add_folder(c)

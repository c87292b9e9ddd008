"""Options of `nas import`."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, command


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
    c.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    c.add_argument("--overwrite", action="store_true", help="replace what is in the folder")

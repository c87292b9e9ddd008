"""Options of `nas devices`."""

from __future__ import annotations

from nas.cli.parsers.base import Commands, command


def add(commands: Commands) -> None:
    c = command(
        commands, "devices", "devices:devices", "List device profiles and their prediction errors.", db=False
    )
    c.add_argument("action", nargs="?", default="list", choices=["list"], help="list, the default")
